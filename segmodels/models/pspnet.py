"""PSPNet: Pyramid Scene Parsing Network.

Hengshuang Zhao, Jianping Shi, Xiaojuan Qi, Xiaogang Wang, Jiaya Jia. CVPR 2017. arXiv 1612.01105.

Figure 3: a dilated ResNet at stride 8, whose map is pooled to 1x1, 2x2, 3x3 and 6x6 bins; each is reduced to a quarter
of the channels and up-sampled, and all are joined with the map (section 3.2). An auxiliary classifier on the last but
one stage helps training, with weight 0.4 (section 3.3). Pinned by the authors' `evaluation/prototxt` and
`hszhao/semseg`: the ResNet has the deep stem of three 3x3 convolutions, 64, 64 and 128 wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import dilate_alike, stride_first
from segmodels.catalog.registry import register
from segmodels.layers.conv import conv_bn_relu
from segmodels.layers.init import he_normal
from segmodels.layers.norm import PooledBatchNorm2d
from segmodels.layers.resize import grid_means, resize
from segmodels.models.base import SegmentationModel

_DEEP_STEM: dict[str, Any] = {"stem_width": 64, "stem_type": "deep"}


class GridMeans(nn.Module):
    """The map's means over a grid of `side` x `side` cells."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return grid_means(x, self.side)


class PyramidPooling(nn.Module):
    """Means over grids of several sizes, each through a 1x1 convolution, joined with the map.

    Args:
        in_channels: Channels of the map.
        channels: Of each level.
        bins: Sides of the grids.
    """

    def __init__(self, in_channels: int, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    GridMeans(side),
                    nn.Conv2d(in_channels, channels, 1, bias=False),
                    PooledBatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                )
                for side in bins
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *[resize(level(x), x.shape, align_corners=True) for level in self.levels]], dim=1)


@register(
    "pspnet",
    small=dict(backbone="test_resnet", channels=16),
    paper="Pyramid Scene Parsing Network",
    authors="Zhao, Shi, Qi, Wang, Jia",
    venue="CVPR 2017",
    year=2017,
    arxiv="1612.01105",
    pins="evaluation/prototxt of the authors, and their model/pspnet.py in hszhao/semseg",
    parameters={21: 65_708_501, 19: 65_707_475, 150: 65_774_678},
    variants=(({"backbone": "resnet50"}, {150: 46_782_550, 21: 46_716_373, 19: 46_715_347}),),
    training_parameters=(
        ({"backbone": "resnet50"}, {150: 46_782_550 + 2_398_358, 21: 46_716_373 + 2_365_205}),
        ({}, {19: 65_707_475 + 2_364_691}),
    ),
    published={
        "PASCAL VOC 2012 test mIoU": "82.6",
        "PASCAL VOC 2012 test mIoU, with COCO": "85.4",
        "Cityscapes val mIoU, ResNet-101": "79.70",
        "ADE20K val mIoU, ResNet-50": "41.68",
    },
    differences=("The auxiliary head exists in training alone and is counted apart.",),
    backbones=("resnet50", "resnet101", "any dilatable backbone"),
    recipe=dict(
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, decay_biases=True, decay_norms=True,
        lr_factors={"pyramid.": 10.0, "classifier.": 10.0, "aux_head.": 10.0}, batch_size=16, epochs=100,
        schedule="poly", power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(
            scale=(0.5, 2.0), crop=(473, 473), flip=0.5, color=0.0,
            extra={
                "RandomRotation": {"degrees": 10, "interpolation": "bilinear", "p": 0.5},
                "GaussianBlur": {"kernel_size": 5, "sigma": 1.1, "p": 0.5},
            },
        ),
    ),
    testing=dict(window=(473, 473)),
)  # fmt: skip
class PSPNet(SegmentationModel):
    """PSPNet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder; ResNets get the paper's deep stem.
        output_stride: 8, 16 or 32.
        bins: Sides of the pyramid's grids.
        channels: Of the last convolution; the auxiliary head has half as many.
        kernel_size: Of the convolution that joins map and levels; 3 is the paper's, 1 is cheaper by far.
        deep_stem: Three 3x3 convolutions in place of ResNet's 7x7 one, for which alone timm has ImageNet weights.
        uniform_dilation: All units of a dilated stage of a ResNet are dilated alike, as the authors' are; otherwise its
            first one like the stage before, as timm and torchvision do.
        stride_in_1x1: A ResNet's units stride in their first convolution, as in the authors' files for Caffe, and not
            in the 3x3 one, as in their PyTorch code.
        aux: An auxiliary head in training.
        dropout: Probability, per channel, before the classifiers.
    """

    aux_weight = 0.4  # section 3.3

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        output_stride: int = 8,
        bins: Sequence[int] = (1, 2, 3, 6),
        channels: int = 512,
        kernel_size: int = 3,
        deep_stem: bool = True,
        uniform_dilation: bool = True,
        stride_in_1x1: bool = False,
        aux: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it is odd, so that the map keeps its size")
        stem = _DEEP_STEM if deep_stem and backbone in ("resnet50", "resnet101", "resnet152") else {}
        self.backbone = create_backbone(backbone, output_stride=output_stride, in_channels=in_channels, **stem)
        self.backbone.keep(-1, *([-2] if aux else []))
        if uniform_dilation:
            dilate_alike(self.backbone.body)
        if stride_in_1x1:
            stride_first(self.backbone.body)
        middle, deep = self.backbone.channels[-2:]
        self.pyramid = PyramidPooling(deep, deep // len(bins), bins)
        self.classifier = _head(deep + deep // len(bins) * len(bins), channels, num_classes, dropout, kernel_size)
        self.aux_head = _head(middle, channels // 2, num_classes, dropout) if aux else None
        self.pyramid.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        score = self.classifier(self.pyramid(features[-1]))
        outputs = {"out": resize(score, images.shape, align_corners=True)}
        if self.training and self.aux_head is not None:
            outputs["aux"] = resize(self.aux_head(features[-2]), images.shape, align_corners=True)
        return outputs


def _head(before: int, channels: int, classes: int, dropout: float, kernel_size: int = 3) -> nn.Sequential:
    joined = conv_bn_relu(before, channels, kernel_size)
    return nn.Sequential(*joined, nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1)).apply(he_normal)
