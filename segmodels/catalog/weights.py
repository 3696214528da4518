"""Weights by name (files, model folders, addresses, ImageNet, torchvision's names), and networks filled with them."""

from __future__ import annotations

import hashlib
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segmodels.errors import UserError
from segmodels.files import cache_folder, replaced

WEIGHTS_FILE = "model.safetensors"  # of a model folder
IMAGENET = "imagenet"
# timm's keywords to which it adapts its weights.
_FORMLESS = ("features_only", "in_chans", "num_classes", "img_size")


class CheckpointError(UserError, ValueError):
    """A model folder or a file of weights cannot be read."""


class WeightsError(UserError, ValueError):
    """The name stands for no weights, or they cannot be had."""


def load_weights(model: nn.Module, source: Path | str) -> set[str]:
    """Fill a model with weights; what has another name or shape stays as it is.

    Args:
        model: An architecture.
        source: A model folder, a safetensors file, a tensor-only checkpoint, an address of either, `imagenet`, or
            torchvision's name of an entry (`locate`).

    Returns:
        The names of parameters that the source did not fill, because it has none of that name and shape.

    Raises:
        CheckpointError: The source cannot be read or has nothing that fits.
    """
    try:
        located = locate(source, model)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None
    if isinstance(located, Path):
        tensors = read_tensors(located / WEIGHTS_FILE if located.is_dir() else located)
        if (translate := getattr(model, "translate", None)) is not None:
            tensors = translate(tensors)
    else:
        tensors = located
    own = model.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    if not fitting:
        raise CheckpointError(f"{source}: none of its {len(tensors)} tensors fits this model; is it the same network?")
    model.load_state_dict(fitting, strict=False)
    return {name for name, _ in model.named_parameters() if name not in fitting}


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a checkpoint that holds tensors alone.

    Raises:
        CheckpointError: There is no such file, it is damaged, or loading it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: damaged, or not a file of weights ({error})") from None
    except Exception as error:  # pickle.UnpicklingError and what a hostile pickle raises
        raise CheckpointError(f"{path}: refused, since it holds more than tensors ({type(error).__name__})") from None
    raw = raw.get("state_dict", raw) if isinstance(raw, dict) else raw
    if not isinstance(raw, dict) or not all(isinstance(v, Tensor) for v in raw.values()):
        raise CheckpointError(f"{path}: holds no state dict")
    return raw


def locate(source: str | Path, model: nn.Module) -> Path | dict[str, Tensor]:
    """Return the file behind a name, downloaded where it is an address.

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
    """Return a file from an http(s) address, kept in the cache folder.

    A name that ends in `-<hash>` as torch's do is checked against the file's sha256.

    Args:
        address: Where it is.
        folder: Where it is kept; `weights` in `SEGMODELS_CACHE` or in the user's cache folder by default.

    Raises:
        WeightsError: It cannot be had, or is not what its name says.
    """
    name = Path(urlsplit(address).path).name
    # Two addresses may end in the same name.
    path = (folder or cache_folder("weights")) / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{name}"
    if path.is_file():
        return path
    try:
        with replaced(path, shared=True) as part:
            digest = _fetch(address, part)
            expected = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
            if expected and not digest.startswith(expected[1]):
                raise WeightsError(f"{address}: is not what its name says (its sha256 is {digest})")
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{address}: cannot be downloaded ({_reason(error)})") from None
    return path


def _fetch(address: str, path: Path) -> str:
    """Write what is at an address into a file; its sha256."""
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
    if named := getattr(model, "imagenet", ""):
        return download(_torchvision_address(named))
    hint = "; with a backbone, such as resnet34, there are" if hasattr(model, "backbone") else ""
    raise WeightsError(f"{type(model).__name__}: there are no ImageNet weights for its encoder{hint}")


def _torchvision_address(name: str) -> str:
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, KeyError, AttributeError):
        raise WeightsError(f"{name}: torchvision has no weights of this name") from None
