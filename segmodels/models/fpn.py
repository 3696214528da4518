"""Semantic FPN, the semantic branch of Panoptic Feature Pyramid Networks.

Alexander Kirillov, Ross Girshick, Kaiming He, Piotr Dollár. CVPR 2019. arXiv 1901.02446.

A feature pyramid (Lin et al., CVPR 2017) on a ResNet: four maps of 256 channels at strides 4 to 32. Figure 3: each is
brought to stride 4 by as many 3x3 convolutions, group norm, ReLU and doublings as it needs; the four are added, and a
1x1 convolution and a four-fold up-sampling give the logits. Pinned by detectron2's `semantic_R_50_FPN_1x.yaml`.

Sizes that are not multiples of 32 are extended by repeating the last row and column, and the result is cropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import stride_first
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.norm import freeze_batch_norm
from segmodels.layers.resize import crop, pad_to_multiple, resize
from segmodels.models.base import SegmentationModel


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path that doubles and adds, a 3x3 convolution on each sum.

    Args:
        in_channels: Of the maps at strides 4, 8, 16 and 32.
        channels: Of the pyramid.
        smooth: The 3x3 convolutions, which lessen the aliasing of the doubling.
    """

    def __init__(self, in_channels: list[int], channels: int = 256, smooth: bool = True) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in in_channels])
        self.output = nn.ModuleList(
            [nn.Conv2d(channels, channels, 3, padding=1) if smooth else nn.Identity() for _ in in_channels]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        sums = [self.lateral[-1](maps[-1])]
        for x, lateral in zip(maps[-2::-1], self.lateral[-2::-1], strict=True):
            sums.append(lateral(x) + F.interpolate(sums[-1], scale_factor=2.0, mode="nearest"))
        return [output(x) for x, output in zip(sums[::-1], self.output, strict=True)]


class SemanticHead(nn.Module):
    """Figure 3 up to the sum at stride 4.

    Args:
        in_channels: Of the pyramid.
        channels: Of the branches.
        levels: How many maps the pyramid has, the finest at stride 4.
    """

    def __init__(self, in_channels: int, channels: int, levels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for level in range(levels):
            layers: list[nn.Module] = []
            for number in range(max(1, level)):
                before = in_channels if number == 0 else channels
                layers += [
                    nn.Conv2d(before, channels, 3, padding=1, bias=False),
                    nn.GroupNorm(min(32, channels), channels),
                    nn.ReLU(inplace=True),
                ]
                if level > 0:
                    layers.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
            self.branches.append(nn.Sequential(*layers))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return torch.stack([branch(x) for branch, x in zip(self.branches, pyramid, strict=True)]).sum(0)


@register(
    "fpn",
    small=dict(backbone="test_resnet", channels=16, head_channels=8),
    paper="Panoptic Feature Pyramid Networks",
    authors="Kirillov, Girshick, He, Dollár",
    venue="CVPR 2019",
    year=2019,
    arxiv="1901.02446",
    pins="configs/Misc/semantic_R_50_FPN_1x.yaml of detectron2",
    parameters={19: 47_365_459 + 105_344},
    variants=(
        ({"backbone": "resnet50"}, {19: 28_425_555 + 53_120}),
        ({"backbone": "resnet50", "frozen_norm": True}, {19: 28_425_555, 54: 28_430_070}),
        ({"frozen_norm": True}, {19: 47_365_459}),
    ),
    published={"Cityscapes val mIoU, ResNet-101": "77.7", "Cityscapes val mIoU, ResNeXt-101": "79.1"},
    differences=(
        "The ResNet's batch norm learns; frozen_norm=True keeps its factors as constants, as detectron2 does and "
        "counts.",
        "The ResNet strides in its 3x3 convolutions, as those for which timm has ImageNet weights; stride_in_1x1=True "
        "is detectron2's, which begins with the weights of He et al.",
        "Images are extended by repeating the last row and column; detectron2 extends them by zeros.",
    ),
    backbones=("resnet50", "resnet101", "any backbone with maps at strides 4 to 32"),
    recipe=dict(
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, decay_biases=True, batch_size=32,
        iterations=65_000, schedule="step", milestones=(40_000, 55_000), step_factor=0.1, warmup=1_000 / 65_000,
        class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(512, 1024), flip=0.5, color=0.4),
    ),
)  # fmt: skip
class SemanticFPN(SegmentationModel):
    """Semantic FPN.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder; its maps at strides 4, 8, 16 and 32 are used.
        channels: Of the pyramid.
        head_channels: Of the semantic branch.
        smooth: A 3x3 convolution on each map of the pyramid, as in the paper.
        frozen_norm: The encoder's batch norm is a constant, as with ImageNet weights that are only refined.
        stride_in_1x1: A ResNet's units stride in their first convolution, as the ones of detectron2's configurations.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        channels: int = 256,
        head_channels: int = 128,
        smooth: bool = True,
        frozen_norm: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        if stride_in_1x1:
            stride_first(self.backbone.body)
        if frozen_norm:
            freeze_batch_norm(self.backbone)
        self.levels = [self.backbone.last(stride) for stride in (4, 8, 16, 32)]
        self.backbone.keep(*self.levels)
        self.pyramid = FeaturePyramid([self.backbone.channels[level] for level in self.levels], channels, smooth)
        self.head = SemanticHead(channels, head_channels, len(self.levels))
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)
        for part in (self.pyramid, self.head, self.classifier):
            part.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        extended = pad_to_multiple(images, 32)
        _, score = self._pyramid_and_score(extended)
        return {"out": crop(resize(score, extended.shape), 0, images.shape)}

    def _pyramid_and_score(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the pyramid's maps and the logits at stride 4, of images whose sides are multiples of 32."""
        maps = self.backbone(images)
        pyramid = self.pyramid([maps[level] for level in self.levels])
        return pyramid, self.classifier(self.head(pyramid))
