"""Where weights come from when they are named: a file, a model folder, an address, ImageNet, torchvision's names."""

from __future__ import annotations

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from torch import Tensor, nn

from segmodels.errors import UserError
from segmodels.layers.model import SegmentationModel

IMAGENET = "imagenet"
# timm's keywords to which it adapts its weights.
_FORMLESS = ("features_only", "in_chans", "num_classes", "img_size")


class WeightsError(UserError, ValueError):
    """The name stands for no weights, or they cannot be had."""


def locate(source: str | Path, model: nn.Module) -> Path | dict[str, Tensor]:
    """The file behind a name, downloaded where it is an address.

    Args:
        source: A file, a model folder, an http(s) address of a safetensors file or a tensor-only checkpoint,
            `imagenet` for the encoder's ImageNet weights, or torchvision's name of an entry of its collection, such as
            `FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1`.
        model: For whose encoder `imagenet` stands.

    Returns:
        A path, or tensors under the model's own names.

    Raises:
        WeightsError: There is no such thing, or no network.
    """
    text = str(source)
    if re.match(r"https?://", text):
        return download(text)
    if Path(text).exists():
        return Path(text)
    if text == IMAGENET:
        return _imagenet(model)
    if "_Weights." in text:
        return download(_torchvision_address(text))
    raise WeightsError(
        f"{text}: no such file of weights; give a file, a model folder, an http(s) address, '{IMAGENET}' or "
        "torchvision's name of an entry, such as ResNet50_Weights.IMAGENET1K_V2"
    )


def download(address: str, folder: Path | None = None) -> Path:
    """A file from an http(s) address, kept in the cache folder.

    A name that ends in `-<hash>` as torch's do is checked against the file's sha256.

    Args:
        address: Where it is.
        folder: Where it is kept; `weights` in `SEGMODELS_CACHE` or in the user's cache folder by default.

    Raises:
        WeightsError: It cannot be had, or is not what its name says.
    """
    name = Path(urlsplit(address).path).name
    # Two addresses may end in the same name.
    path = (folder or _cache()) / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{name}"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        digest = _fetch(address, part)
        expected = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
        if expected and not digest.startswith(expected[1]):
            raise WeightsError(f"{address}: is not what its name says (its sha256 is {digest})")
        os.replace(part, path)
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{address}: cannot be downloaded ({_reason(error)})") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(address: str, path: Path) -> str:
    """Writes what is at an address into a file; its sha256."""
    digest = hashlib.sha256()
    with (
        urlopen(Request(address, headers={"User-Agent": "segmodels"}), timeout=60) as response,
        open(path, "wb") as file,
    ):
        while block := response.read(1 << 20):
            file.write(block)
            digest.update(block)
        # A connection that ends too early looks like the end of the file.
        if response.length:
            raise OSError(f"the connection ended early, {response.length} bytes are missing")
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


def _imagenet(model: nn.Module) -> Path | dict[str, Tensor]:
    backbone: Any = getattr(model, "backbone", None)
    if getattr(backbone, "options", None) is not None:
        import timm

        form = ", ".join(f"{k}={v}" for k, v in backbone.options.items() if k not in _FORMLESS)
        if form:
            raise WeightsError(f"ImageNet weights of {backbone.name}: are for its plain form, not for {form}")
        try:
            body = timm.create_model(backbone.name, pretrained=True, **backbone.options)
        except Exception as error:  # each of timm's sources fails in its own way
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsError(f"ImageNet weights of {backbone.name}: cannot be had ({reason})") from None
        return {f"backbone.body.{name}": tensor for name, tensor in body.state_dict().items()}
    if isinstance(model, SegmentationModel) and model.imagenet:
        return download(_torchvision_address(model.imagenet))
    hint = "; with a backbone, such as resnet34, there are" if hasattr(model, "backbone") else ""
    raise WeightsError(f"{type(model).__name__}: there are no ImageNet weights for its encoder{hint}")


def _torchvision_address(name: str) -> str:
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, KeyError, AttributeError):
        raise WeightsError(f"{name}: torchvision has no weights of this name") from None


def _cache() -> Path:
    root = os.environ.get("SEGMODELS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "segmodels" / "weights"
