"""DeconvNet: Learning Deconvolution Network for Semantic Segmentation.

Hyeonwoo Noh, Seunghoon Hong, Bohyung Han. ICCV 2015. arXiv 1505.04366.

Figure 2: VGG16 with its two fully connected layers, mirrored by a deconvolution network that un-pools with the
switches of the pools and densifies with transposed convolutions (section 3.2). Batch norm follows every convolution
(section 3.3). At the authors' 224x224 the middle is a single vector of 4096 numbers, seven by seven pixels of pool5.

The paper trains in two stages, on crops around objects and then on object proposals (section 4.1): here these are the
augmentation's `focus: objects` and `focus: proposals`. In testing it segments up to fifty proposals and keeps, at each
pixel, the highest score of each class (section 4.2, equation 1): `proposals=50`. The default segments whole images of
any size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import convolutions, from_torchvision, scaled, vgg16_stages
from segmodels.catalog.registry import register
from segmodels.layers.conv import WideConv2d, WideConvTranspose2d
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel

# The size of a proposal, and the smallest pool5 whose middle is one vector.
_SIDE, _KERNEL = 224, 7
# Of the batch norm in the authors' Caffe.
_EPS = 1e-9


@register(
    "deconvnet",
    small=dict(width=0.04),
    paper="Learning Deconvolution Network for Semantic Segmentation",
    authors="Noh, Hong, Han",
    venue="ICCV 2015",
    year=2015,
    arxiv="1505.04366",
    pins="training/002_stage_2/stage_2_train.prototxt of the authors",
    parameters={21: 251_805_653, 11: 251_805_003},
    published={
        "PASCAL VOC 2012 test mIoU": "69.6",
        "PASCAL VOC 2012 test mIoU, with CRF": "70.5",
        "PASCAL VOC 2012 test mIoU, ensemble with FCN-8s, with CRF": "72.5",
        "CamVid test mIoU, as the FC-DenseNet paper lists it": "48.9",
    },
    differences=(
        "fc6 is padded, so that images of any size keep their map; fc6='valid' is the paper's form, for 224x224.",
        "Proposals are windows at several scales, not edge boxes; forward takes other boxes, too.",
    ),
    recipe=dict(
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=5e-4, bias_lr=2.0, batch_size=8, accumulate=8,
        schedule="step", step_factor=0.1, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        norm_statistics="exact", augment=dict(scale=(1.0, 1.0), crop=(224, 224), flip=0.5, color=0.0),
        stages=(
            dict(iterations=20_000, milestones=(9_000, 18_000), augment=dict(focus="objects")),
            dict(iterations=40_000, milestones=(10_000, 20_000, 30_000), augment=dict(focus="proposals")),
        ),
    ),
)  # fmt: skip
class DeconvNet(SegmentationModel):
    """DeconvNet on VGG16.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        fc6: `same` pads the 7x7 convolution; `valid` is the paper's, for images of at least 193 pixels a side.
        proposals: In evaluation, segments this many windows at 224x224 and keeps each class's highest score; 0
            segments the image as a whole.
        width: Factor on every layer's width; 1 is the paper's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        fc6: Literal["same", "valid"] = "same",
        proposals: int = 0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if fc6 not in ("same", "valid"):
            raise ValueError(f"fc6 is '{fc6}'; the convolution is 'same' or 'valid'")
        self.fc6_padding, self.proposals, self.classes = fc6, proposals, num_classes
        stages, hidden = vgg16_stages(width), scaled(width, 4096)
        before = [in_channels, *[stage[-1] for stage in stages]]
        self.encoder = nn.ModuleList(
            [
                convolutions([first, *stage], batch_norm=True, eps=_EPS)
                for first, stage in zip(before, stages, strict=False)
            ]
        )
        deep = stages[-1][-1]
        down, up = (WideConv2d, WideConvTranspose2d) if fc6 == "same" else (nn.Conv2d, nn.ConvTranspose2d)
        self.fc6 = _normed(down(deep, hidden, _KERNEL))
        self.fc7 = _normed(nn.Conv2d(hidden, hidden, 1))
        self.fc6_deconv = _normed(up(hidden, deep, _KERNEL))
        # Each stage leaves as many channels as the pool below it had.
        below = [stages[0][0], *[stage[-1] for stage in stages[:-1]]]
        self.decoder = nn.ModuleList(
            [_deconvolutions([*stage, last]) for stage, last in zip(stages[::-1], below[::-1], strict=True)]
        )
        self.classifier = nn.Conv2d(below[0], num_classes, 1)
        self.apply(he_normal)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, images: Tensor, boxes: list[tuple[int, int, int, int]] | None = None) -> dict[str, Tensor]:
        """As every architecture's; `boxes` are proposals (top, left, bottom, right) in place of the windows."""
        if boxes is None and self.proposals and not self.training:
            boxes = windows(images.shape[-2], images.shape[-1], self.proposals)
        return {"out": self._segment(images) if boxes is None else self._aggregate(images, boxes)}

    def _segment(self, images: Tensor) -> Tensor:
        x, switches = images, []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[-2:]
            x, indices = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            switches.append((indices, size))
        if self.fc6_padding == "valid" and min(x.shape[-2:]) < _KERNEL:
            raise ValueError(
                f"images of {images.shape[-2]}x{images.shape[-1]} leave pool5 less than 7x7; fc6='valid' needs 193 "
                "pixels a side"
            )
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for stage in self.decoder:
            indices, size = switches.pop()
            x = stage(F.max_unpool2d(x, indices, [2, 2], output_size=size))
        score: Tensor = self.classifier(x)
        return score

    def _aggregate(self, images: Tensor, boxes: list[tuple[int, int, int, int]]) -> Tensor:
        """Equation 1: the highest score of each class among the proposals that cover a pixel; 0 outside of them all."""
        best = images.new_full((len(images), self.classes, *images.shape[-2:]), -math.inf)
        for top, left, bottom, right in boxes:
            crop = images[..., top:bottom, left:right]
            score = resize(self._segment(resize(crop, (_SIDE, _SIDE))), crop.shape).to(best.dtype)
            here = best[..., top:bottom, left:right]
            best[..., top:bottom, left:right] = torch.maximum(here, score)
        return torch.where(best.isinf(), torch.zeros_like(best), best)

    imagenet = "VGG16_BN_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["encoder"])


def windows(height: int, width: int, count: int) -> list[tuple[int, int, int, int]]:
    """At most `count` overlapping windows (top, left, bottom, right) at several scales, the whole image first."""
    boxes = [(0, 0, height, width)]
    parts = 2
    while len(boxes) < count and min(height, width) // parts >= 32:
        rows, columns = height // parts, width // parts
        for top in range(0, height - rows + 1, max(1, rows // 2)):
            lefts = range(0, width - columns + 1, max(1, columns // 2))
            boxes += [(top, left, top + rows, left + columns) for left in lefts]
        parts += 1
    return boxes[:count]


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, eps=_EPS), nn.ReLU(inplace=True))


def _deconvolutions(channels: list[int]) -> nn.Sequential:
    """3x3 transposed convolutions from each width to the next, each with batch norm and ReLU."""
    pairs = itertools.pairwise(channels)
    return nn.Sequential(*[layer for a, b in pairs for layer in _normed(nn.ConvTranspose2d(a, b, 3, padding=1))])
