"""ICNet: ICNet for Real-Time Semantic Segmentation on High-Resolution Images.

Hengshuang Zhao, Xiaojuan Qi, Xiaoyong Shen, Jianping Shi, Jiaya Jia. ECCV 2018. arXiv 1704.08545.

Figure 2: the image cascade. The whole of a half-width PSPNet-50 sees the image at a quarter of its size, its first
stages see it at half, and three convolutions see it in full; cascade feature fusion units (figure 3) bring the results
together from coarse to fine. The quarter and the half share their first stages: the map at half is shrunk and goes
on. In training each level has a classifier of its own, cascade label guidance (section 3.4), with the weights 0.16,
0.4 and 1. Pinned by the authors' `evaluation/prototxt/icnet_cityscapes*.prototxt`.

`norm=False` is the form in which batch norm has been merged into the convolutions, as the authors release it for
inference; `segmodels.layers.fuse.fuse_batch_norm` makes it from trained weights, of this and of every other network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import grid_means, resize, shrink_targets, window_means
from segmodels.models.base import SegmentationModel, Targets


class Bottleneck(nn.Module):
    """ResNet's bottleneck with the dilation in its 3x3 convolution; the stride is in the first one."""

    def __init__(self, before: int, inner: int, after: int, stride: int, dilation: int, norm: bool) -> None:
        super().__init__()
        self.reduce = _conv(before, inner, 1, stride=stride, norm=norm)
        self.conv = _conv(inner, inner, 3, dilation=dilation, norm=norm)
        self.increase = _conv(inner, after, 1, norm=norm, relu=False)
        changes = stride != 1 or before != after
        self.project = _conv(before, after, 1, stride=stride, norm=norm, relu=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.project(x) + self.increase(self.conv(self.reduce(x))))


class CascadeFeatureFusion(nn.Module):
    """Figure 3: the coarse map, up-sampled and dilated, plus the fine one, projected."""

    def __init__(self, coarse: int, fine: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.conv = _conv(coarse, channels, 3, dilation=2, norm=norm, relu=False)
        self.project = _conv(fine, channels, 1, norm=norm, relu=False)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused map, and the up-sampled coarse one, on which label guidance looks."""
        coarse = resize(coarse, fine.shape, align_corners=True)
        return F.relu(self.conv(coarse) + self.project(fine)), coarse


@register(
    "icnet",
    small=dict(width=0.25),
    paper="ICNet for Real-Time Semantic Segmentation on High-Resolution Images",
    authors="Zhao, Qi, Shen, Shi, Jia",
    venue="ECCV 2018",
    year=2018,
    arxiv="1704.08545",
    pins="evaluation/prototxt/icnet_cityscapes.prototxt and _bnnomerge.prototxt of the authors",
    parameters={19: 6_699_987},
    variants=(({"norm": False}, {19: 6_685_715}),),
    published={
        "Cityscapes val mIoU": "67.7",
        "Cityscapes test mIoU, trained on train and val": "69.5",
        "CamVid test mIoU, 720x960 (recalled, not seen in a source)": "67.1",
    },
    differences=("The two classifiers of label guidance exist in training alone and are counted apart.",),
    recipe=dict(
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, batch_size=16, iterations=30_000, schedule="poly",
        power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(720, 720), flip=0.5, color=0.0),
    ),
)  # fmt: skip
class ICNet(SegmentationModel):
    """ICNet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        norm: Batch norm after every convolution; without it the convolutions have biases, as merged ones do.
        guidance: Weights of the losses at 1/16, 1/8 and 1/4.
        windows: Over which the pyramid's means are taken: `overlapping` are those of the authors' file, `even` divide
            the map as PSPNet's do.
        width: Factor on every layer's width; 1 is the paper's half-width PSPNet-50.
    """

    training_only: ClassVar = ("guide4", "guide2")

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        norm: bool = True,
        guidance: Sequence[float] = (0.16, 0.4, 1.0),
        windows: Literal["overlapping", "even"] = "overlapping",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if windows not in ("overlapping", "even"):
            raise ValueError(f"windows is '{windows}'; the pyramid's are 'overlapping' or 'even'")
        self.guidance, self.means = tuple(guidance), _overlapping if windows == "overlapping" else grid_means
        c32, c64, c128, c256, c512, c1024 = (max(1, round(width * c)) for c in (32, 64, 128, 256, 512, 1024))
        # Stages 1 to 3_1, which the branches at a half and a quarter share.
        self.stem = nn.Sequential(
            _conv(in_channels, c32, 3, stride=2, norm=norm),
            _conv(c32, c32, 3, norm=norm),
            _conv(c32, c64, 3, norm=norm),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stage2 = _stage(c64, c32, c128, 3, 1, 1, norm)
        self.stage3_1 = Bottleneck(c128, c64, c256, 2, 1, norm)
        # The rest sees a quarter of the image.
        self.stage3 = _stage(c256, c64, c256, 3, 1, 1, norm)
        self.stage4 = _stage(c256, c128, c512, 6, 1, 2, norm)
        self.stage5 = _stage(c512, c256, c1024, 3, 1, 4, norm)
        self.pyramid_bins = (1, 2, 3, 6)
        self.reduce5 = _conv(c1024, c256, 1, norm=norm)
        self.fuse4 = CascadeFeatureFusion(c256, c256, c128, norm)
        # The whole image, three convolutions deep.
        self.fine = nn.Sequential(
            _conv(in_channels, c32, 3, stride=2, norm=norm),
            _conv(c32, c32, 3, stride=2, norm=norm),
            _conv(c32, c64, 3, stride=2, norm=norm),
        )
        self.fuse2 = CascadeFeatureFusion(c128, c64, c128, norm)
        self.classifier = nn.Conv2d(c128, num_classes, 1)
        self.guide4 = nn.Conv2d(c256, num_classes, 1)
        self.guide2 = nn.Conv2d(c128, num_classes, 1)
        self.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        half = resize(images, ((height + 1) // 2, (width + 1) // 2), align_corners=True)
        shared = self.stage3_1(self.stage2(self.stem(half)))

        small = ((shared.shape[-2] + 1) // 2, (shared.shape[-1] + 1) // 2)
        x = self.stage5(self.stage4(self.stage3(resize(shared, small, align_corners=True))))
        pooled = [resize(self.means(x, side), x.shape, align_corners=True) for side in self.pyramid_bins]
        x = self.reduce5(torch.stack([x, *pooled]).sum(0))

        x, coarse = self.fuse4(x, shared)
        x, middle = self.fuse2(x, self.fine(images))
        # The classifier looks at a quarter of the image: between each two pixels of the finest map there is one more.
        x = resize(x, (2 * x.shape[-2] - 1, 2 * x.shape[-1] - 1), align_corners=True)
        score = self.classifier(x)
        outputs = {"out": resize(score, images.shape, align_corners=True)}
        if self.training:
            outputs |= {"guide4": self.guide4(coarse), "guide2": self.guide2(middle), "score": score}
        return outputs

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Cascade label guidance (equation 3): each level against labels of its size."""
        scores = (outputs["guide4"], outputs["guide2"], outputs["score"])
        terms = [
            weight * self.criterion(score, shrink_targets(targets, score.shape, align_corners=True))
            for weight, score in zip(self.guidance, scores, strict=True)
        ]
        return torch.stack(terms).sum()


# Step of the pyramid's windows, of a map of n places on a side, as a share of n - 1: 16, 10 and 5 of 32 in the file.
_STEPS = {1: 0, 2: 16, 3: 10, 6: 5}


def _overlapping(x: Tensor, side: int) -> Tensor:
    """Return the means over `side` x `side` windows that have the steps of the authors' file and reach the end."""
    steps = [(size - 1) * _STEPS[side] // 32 for size in x.shape[-2:]]
    rows, columns = ((side, size - (side - 1) * step, step) for size, step in zip(x.shape[-2:], steps, strict=True))
    return window_means(x, rows, columns)


def _stage(before: int, inner: int, after: int, units: int, stride: int, dilation: int, norm: bool) -> nn.Sequential:
    first = Bottleneck(before, inner, after, stride, dilation, norm)
    rest = [Bottleneck(after, inner, after, 1, dilation, norm) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)


def _conv(
    before: int, after: int, size: int, *, stride: int = 1, dilation: int = 1, norm: bool, relu: bool = True
) -> nn.Sequential:
    padding = dilation * (size // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(before, after, size, stride=stride, padding=padding, dilation=dilation, bias=not norm)
    ]
    layers += [nn.BatchNorm2d(after)] if norm else []
    layers += [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(*layers)
