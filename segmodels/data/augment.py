"""Augmentation, resizing and normalisation of images and their targets, in one pass.

Each sample's augmentation draws from a generator seeded by (seed, epoch, index), so neither the number of workers nor
an interruption changes it. The crop is cut before it is scaled, so only pixels that are used are computed, and
brightness, contrast, saturation, hue and normalisation are one affine map of the colours.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from segmodels.data.device import COLORS, INSIDE
from segmodels.data.folder import IGNORE_INDEX
from segmodels.data.targets import target

# Luma weights of ITU-R BT.601, which saturation and hue keep.
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training sample.

    Attributes:
        crop: (height, width) of what comes out; None gives the image's own size.
        scale: Range of the random factor on the image's size, drawn log-uniformly.
        flip: Probability of a left-right flip.
        color: Strength in 0..1: brightness, contrast and saturation factors in 1 ± color, hue ± color / 4 of a turn.
        focus: `anywhere`, or what the crop is laid around and scaled to: `objects`, `proposals` (see `focus_box`).
        extra: Joint transforms of `torchvision.transforms.v2`, name -> keywords, applied to the whole sample first; `p`
            is the probability of one that has none of its own.
        mix: Ways to make a sample of several, name -> probability (`segmodels.data.mixing`).
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    color: float = 0.0
    focus: Literal["anywhere", "objects", "proposals"] = "anywhere"
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mix: Mapping[str, float] = field(default_factory=dict)


def augment(
    image: Tensor,
    targets: Mapping[str, Tensor],
    how: Augmentation,
    rng: np.random.Generator,
    mean: Tensor,
    std: Tensor,
    *,
    late: bool = False,
) -> dict[str, Tensor]:
    """Return one augmented, normalised sample: one geometry, drawn for the image and all its targets.

    Args:
        image: `[C, H, W]` in 0..255, uint8 or float.
        targets: Name -> values `[H, W]` or `[K, H, W]`, as `segmodels.data.targets` reads them.
        how: The augmentation.
        rng: Where the randomness comes from.
        mean: Of each channel, for images in 0..1.
        std: Of each channel.
        late: Leaves the colours to the device: `image` stays uint8, padded with black, and beside it are `colors` and
            `inside` (`segmodels.data.device`).

    Returns:
        `image`, float32 `[C, h, w]`, and each target at that size (class ids as int64); padded with the mean colour and
        void where the scaled image is smaller.
    """
    kinds = {name: target(name) for name in targets}
    out_h, out_w = how.crop or (image.shape[-2], image.shape[-1])
    if how.focus != "anywhere":
        top, left, bottom, right = focus_box(targets["labels"], rng, loose=how.focus == "proposals")
        zoomed = (out_h / (bottom - top) * out_w / (right - left)) ** 0.5
        image = resize_image(image[:, top:bottom, left:right], (out_h, out_w))
        targets = {
            name: kinds[name].zoom(kinds[name].resize(values[..., top:bottom, left:right], (out_h, out_w)), zoomed)
            for name, values in targets.items()
        }
    height, width = image.shape[-2:]
    factor = math.exp(rng.uniform(math.log(how.scale[0]), math.log(how.scale[1])))
    # The window of the source that becomes the output, or the whole side where the output is larger.
    src_h, src_w = min(height, round(out_h / factor)), min(width, round(out_w / factor))
    top, left = int(rng.integers(height - src_h + 1)), int(rng.integers(width - src_w + 1))
    size = (min(out_h, round(src_h * factor)), min(out_w, round(src_w * factor)))
    window = (..., slice(top, top + src_h), slice(left, left + src_w))
    image = resize_image(image[window], size)
    targets = {name: kinds[name].zoom(kinds[name].resize(v[window], size), factor) for name, v in targets.items()}
    if rng.random() < how.flip:
        image = image.flip(-1)
        targets = {name: kinds[name].flip(values) for name, values in targets.items()}
    matrix, offset = color_map(how.color, rng, mean, std)
    pixels = image
    if not late:
        pixels = torch.addmm(offset[:, None], matrix, image.reshape(len(image), -1).float()).view(-1, *size)
    targets = {name: kinds[name].finish(values) for name, values in targets.items()}
    y = x = 0
    if size != (out_h, out_w):
        y, x = int(rng.integers(out_h - size[0] + 1)), int(rng.integers(out_w - size[1] + 1))
    if late:
        inside = torch.tensor([y, x, y + size[0], x + size[1]])
        targets |= {COLORS: torch.cat([matrix, offset[:, None]], dim=1), INSIDE: inside}
    if size == (out_h, out_w):
        return {"image": pixels, **targets}
    here = (..., slice(y, y + size[0]), slice(x, x + size[1]))
    sample = {"image": pixels.new_zeros(len(pixels), out_h, out_w)}
    sample |= {name: targets[name].new_full((*targets[name].shape[:-2], out_h, out_w), kind.void)
               for name, kind in kinds.items()}  # fmt: skip
    for name, whole in sample.items():
        whole[here] = pixels if name == "image" else targets[name]
    return {**targets, **sample}


def focus_box(label: Tensor, rng: np.random.Generator, *, loose: bool) -> tuple[int, int, int, int]:
    """Return a window (top, left, bottom, right) around a random object of a label.

    An object is a connected region of one class. DeconvNet (Noh et al., ICCV 2015, section 4.1) trains first on
    windows 1.2 times as large as an object, the object in the middle, then on proposals that merely overlap objects.

    Args:
        label: uint8 `[H, W]`.
        rng: Where the randomness comes from.
        loose: Shifts and stretches the window, as a proposal is.

    Returns:
        The window; the whole image where nothing is labelled.
    """
    from scipy import ndimage

    ids = label.numpy()
    present = np.unique(ids[ids != IGNORE_INDEX])
    if not len(present):
        return 0, 0, ids.shape[0], ids.shape[1]
    regions, _ = ndimage.label(ids == rng.choice(present))
    boxes = ndimage.find_objects(regions)
    rows, columns = boxes[int(rng.integers(len(boxes)))]
    window = []
    for side, length in ((rows, ids.shape[0]), (columns, ids.shape[1])):
        size = (side.stop - side.start) * 1.2
        middle = (side.start + side.stop) / 2
        if loose:
            size, middle = size * rng.uniform(0.8, 1.6), middle + size * rng.uniform(-0.3, 0.3)
        size = max(size, 16)
        window.append((max(0, round(middle - size / 2)), min(length, round(middle + size / 2))))
    (top, bottom), (left, right) = window
    return top, left, bottom, right


def joint_transforms(named: Mapping[str, Mapping[str, Any]]) -> JointTransforms | None:
    """Return the transforms of `torchvision.transforms.v2` with these names and keywords, in order; None for none."""
    return JointTransforms(named) if named else None


class JointTransforms:
    """Transforms of `torchvision.transforms.v2` on an image and its targets together.

    Raises:
        ValueError: There is no such transform, or it does not take the keywords.
    """

    def __init__(self, named: Mapping[str, Mapping[str, Any]]) -> None:
        from torchvision.transforms import v2

        self.transforms = []
        for name, keywords in named.items():
            kind = getattr(v2, name, None)
            if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
                raise ValueError(f"augment.extra: torchvision.transforms.v2 has no transform '{name}'")
            own = dict(keywords)
            sometimes = None if "p" in inspect.signature(kind).parameters else own.pop("p", None)
            try:
                transform = kind(**own)
            except (TypeError, ValueError) as error:
                raise ValueError(f"augment.extra.{name}: {error}") from None
            self.transforms.append(transform if sometimes is None else v2.RandomApply([transform], p=sometimes))

    def __call__(self, image: Tensor, targets: Mapping[str, Tensor], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """uint8 `[3, H, W]` and targets `[H, W]`; what a transform fills is 0 in the image and void in the targets."""
        from torchvision import tv_tensors

        # A plane of ones beside each target tells which pixels a geometric transform made up.
        masks = {name: torch.stack([values, torch.ones_like(values)]) for name, values in targets.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sample = {"image": tv_tensors.Image(image), **{name: tv_tensors.Mask(m) for name, m in masks.items()}}
            for transform in self.transforms:
                sample = transform(sample)
        moved = {}
        for name in targets:
            values, there = sample[name].as_subclass(Tensor)
            moved[name] = torch.where(there == 1, values, torch.full_like(values, target(name).void))
        return sample["image"].as_subclass(Tensor), moved


def color_map(strength: float, rng: np.random.Generator, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Jitter and normalisation of 0..255 colours as one map `matrix @ rgb + offset`: `[C, C]` and `[C]`.

    Saturation and hue are those of three channels; others have brightness and contrast.
    """
    brightness, contrast, saturation = (float(v) for v in rng.uniform(1 - strength, 1 + strength, 3))
    turn = float(rng.uniform(-strength / 4, strength / 4)) * 2 * math.pi
    chroma = torch.tensor(
        [
            [1.0, 0.0, 0.0],
            [0.0, saturation * math.cos(turn), -saturation * math.sin(turn)],
            [0.0, saturation * math.sin(turn), saturation * math.cos(turn)],
        ]
    )
    hue = _FROM_YIQ @ chroma @ _TO_YIQ if len(mean) == len(_LUMA) else torch.eye(len(mean))
    matrix = brightness * contrast * hue
    # Contrast turns about the mean colour, so that an image of any brightness keeps its level.
    offset = brightness * (1 - contrast) * mean
    return (matrix / 255) / std[:, None], (offset - mean) / std


def normalize(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`[..., C, H, W]` in 0..255 to float32, scaled to 0..1, minus the mean, over the standard deviation."""
    scale = 1 / (255 * std)
    return image.float() * scale[:, None, None] - (mean / std)[:, None, None]


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`[C, H, W]` to another size; bilinear with anti-aliasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized: Tensor = torch.nn.functional.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]
    return resized
