"""The hourglass of Learning the Depths of Moving People by Watching Frozen People.

Zhengqi Li, Tali Dekel, Forrester Cole, Richard Tucker, Noah Snavely, Ce Liu, William T. Freeman. CVPR 2019.
arXiv 1904.11111.

The network of Chen et al. (Single-Image Depth Perception in the Wild, NIPS 2016, figure 3), which the paper takes over:
a 7x7 convolution, then four nested levels. Each adds a path at its own size to one at half of it, which holds the next
level; both are made of inception modules whose batch norms have no factors of their own. Pinned by
`models/hourglass.py` of google/mannequinchallenge, whose classes `Channels4` to `Channels1` are the levels here, from
the outside in.

The file's second head, a confidence, is learnt by nothing in the published objective; `confidence=True` builds it.
Sizes that are not multiples of 16 are extended by repeating the last row and column, and the result is cropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.resize import crop, pad_to_multiple
from segmodels.models.base import SegmentationModel

# An inception module (the letters of Chen et al., table 1): channels in, of the 1x1 branch, then of every other branch
# its kernel, and its channels before and after.
Module = tuple[int, int, tuple[tuple[int, int, int], ...]]
A: Module = (128, 16, ((3, 64, 16), (7, 64, 16), (11, 64, 16)))
A_NARROW: Module = (128, 16, ((3, 32, 16), (7, 32, 16), (11, 32, 16)))
B: Module = (128, 32, ((3, 32, 32), (5, 32, 32), (7, 32, 32)))
B_WIDE: Module = (128, 32, ((3, 64, 32), (5, 64, 32), (7, 64, 32)))
C: Module = (128, 32, ((3, 64, 32), (7, 64, 32), (11, 64, 32)))
D: Module = (128, 64, ((3, 32, 64), (5, 32, 64), (7, 32, 64)))
E: Module = (256, 64, ((3, 32, 64), (5, 32, 64), (7, 32, 64)))
F_: Module = (256, 64, ((3, 64, 64), (7, 64, 64), (11, 64, 64)))
G: Module = (256, 32, ((3, 32, 32), (5, 32, 32), (7, 32, 32)))
# Of each level, from the inside out: its modules at half the size before and after the level inside, and at its own.
LEVELS: tuple[tuple[tuple[Module, ...], tuple[Module, ...], tuple[Module, ...]], ...] = (
    ((E, E, E), (), (E, E)),
    ((E, E), (E, F_), (E, F_)),
    ((B, D), (E, G), (B, C)),
    ((B, B), (B_WIDE, A_NARROW), (A,)),
)


def _names() -> dict[str, str]:
    """Return how the authors' names of weights become those here."""
    names = {
        r"^module\.": "",
        r"^seq\.([01])\.": r"stem.\1.",
        "^pred_layer": "head",
        r"^uncertainty_layer\.0": "confidence",
    }
    old, new = r"seq\.3", "levels"
    for smaller in (0, 0, 1, 1):  # which of a level's two paths is the one at half the size, from the outside in
        for place in range(1, 6):  # after the pooling
            names[rf"^{old}\.list\.{smaller}\.{place}\."] = f"{new}.smaller.{place - 1}."
        names[rf"^{old}\.list\.{1 - smaller}\."] = f"{new}.beside."
        new = f"{new}.smaller.2"
        old = re.escape(new)
    return names | {r"\.convs\.": ".branches."}


@register(
    "hourglass",
    tasks=("depth", "dense"),
    small=dict(width=0.125),
    paper="Learning the Depths of Moving People by Watching Frozen People",
    authors="Li, Dekel, Cole, Tucker, Snavely, Liu, Freeman",
    venue="CVPR 2019",
    year=2019,
    arxiv="1904.11111",
    pins="models/hourglass.py of google/mannequinchallenge",
    parameters={1: 5_357_153},
    variants=(
        (dict(confidence=True), {1: 5_357_730}),
        (dict(confidence=True, in_channels=6), {1: 5_376_546}),
        (dict(confidence=True, in_channels=7), {1: 5_382_818}),
    ),
    recipe=dict(
        optimizer="adam", lr=4e-4, weight_decay=0.0, batch_size=8, epochs=40, schedule="step", step_epochs=8,
        step_factor=0.5, warmup=0.0, class_weights="none",
        loss={"scale_invariant": 1.5, "gradient": 0.75, "smoothness": 0.075, "laplacian": 0.1},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.5, color=0.0),
    ),
)  # fmt: skip
class Hourglass(SegmentationModel):
    """The hourglass.

    Args:
        num_classes: Number of maps: 1 for depth, whose logarithm it gives.
        in_channels: Channels of the input; the paper has up to 7, with a mask of people and the depth from parallax.
        width: Factor on the channels of every layer, for small versions.
        confidence: Builds the file's second head; its output is under `confidence`, in 0..1.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: float = 1.0, confidence: bool = False) -> None:
        super().__init__()
        first = _scaled(128, width)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, first, 7, padding=3), nn.BatchNorm2d(first), nn.ReLU())
        level: nn.Module | None = None
        for before, after, beside in LEVELS:
            level = Level(before, level, after, beside, width)
        self.levels = level
        last = 4 * _scaled(16, width)
        self.head = nn.Conv2d(last, num_classes, 3, padding=1)
        self.confidence = nn.Conv2d(last, 1, 3, padding=1) if confidence else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert self.levels is not None
        features = self.levels(self.stem(pad_to_multiple(images, 2 ** len(LEVELS))))
        outputs = {"out": crop(self.head(features), 0, images.shape)}
        if self.confidence is not None and self.training:
            outputs["confidence"] = crop(self.confidence(features), 0, images.shape).sigmoid()
        return outputs

    renames = _names()


class Level(nn.Module):
    """A path at the map's own size, and one at half of it around the level inside."""

    def __init__(
        self,
        before: Sequence[Module],
        inside: nn.Module | None,
        after: Sequence[Module],
        beside: Sequence[Module],
        width: float,
    ) -> None:
        super().__init__()
        inner = [inside] if inside is not None else []
        self.smaller = nn.Sequential(*_modules(before, width), *inner, *_modules(after, width))
        self.beside = nn.Sequential(*_modules(beside, width))

    def forward(self, x: Tensor) -> Tensor:
        smaller = self.smaller(F.avg_pool2d(x, 2))
        sized = F.interpolate(smaller, x.shape[-2:], mode="bilinear", align_corners=True)
        added: Tensor = sized + self.beside(x)
        return added


class Inception(nn.Module):
    """Branches side by side: a 1x1 convolution, and others that a 1x1 convolution narrows first."""

    def __init__(self, module: Module, width: float) -> None:
        super().__init__()
        given, first, others = module
        before = _scaled(given, width)
        self.branches = nn.ModuleList([nn.Sequential(*_conv(before, _scaled(first, width), 1))])
        for kernel, narrow, wide in others:
            inner, out = _scaled(narrow, width), _scaled(wide, width)
            self.branches.append(nn.Sequential(*_conv(before, inner, 1), *_conv(inner, out, kernel)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _modules(modules: Sequence[Module], width: float) -> list[nn.Module]:
    return [Inception(module, width) for module in modules]


def _conv(before: int, after: int, kernel: int) -> list[nn.Module]:
    """Return a convolution with bias, batch norm without factors, and ReLU."""
    return [
        nn.Conv2d(before, after, kernel, padding=kernel // 2),
        nn.BatchNorm2d(after, affine=False),
        nn.ReLU(inplace=True),
    ]


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
