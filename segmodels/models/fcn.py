"""FCN: Fully Convolutional Networks for Semantic Segmentation.

Jonathan Long, Evan Shelhamer, Trevor Darrell. CVPR 2015 and TPAMI 2017. arXiv 1411.4038, 1605.06211.

VGG16 made convolutional: fc6 becomes a 7x7 and fc7 a 1x1 convolution, a 1x1 layer scores the classes at stride 32,
and transposed convolutions bring the scores back to the pixels. FCN-16s and FCN-8s add scores of pool4 and pool3
(figure 3). Pinned by the authors' Caffe files `voc-fcn{32,16,8}s` and `voc-fcn8s-atonce`.

The first convolution pads by 100, so that the valid fc6 fits for every input; the crop offsets 19, 5, 27, 9 and 31
undo it. Up-sampling kernels are fixed bilinear ones. The classifiers start from zero, so until the first step the
gradient reaches them alone, as in the original, which starts from ImageNet weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import classifier_as_convolutions, from_torchvision, scaled, vgg16_stages
from segmodels.catalog.registry import register
from segmodels.layers.conv import ScoreConv2d
from segmodels.layers.init import he_normal
from segmodels.layers.resize import bilinear_upsampling, crop
from segmodels.models.base import SegmentationModel

_PAPER: dict[str, Any] = dict(
    paper="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    venue="CVPR 2015 / TPAMI 2017",
    year=2015,
    arxiv="1411.4038",
    differences=("From scratch the VGG16 convolutions are initialised by He's scheme; the original loads ImageNet's.",),
)
_RECIPE: dict[str, Any] = dict(
    optimizer="sgd", momentum=0.99, weight_decay=5e-4, bias_lr=2.0, batch_size=1, iterations=100_000,
    schedule="constant", warmup=0.0, class_weights="none", reduction="batch", loss={"cross_entropy": 1.0},
    augment=dict(scale=(1.0, 1.0), crop=None, flip=0.0, color=0.0),
)  # fmt: skip


@register(
    "fcn32s",
    small=dict(width=0.04),
    defaults=dict(stride=32),
    pins="voc-fcn32s/train.prototxt of the authors",
    parameters={21: 136_152_917},
    published={"PASCAL VOC 2011 seg11valid mIoU": "63.6"},
    recipe=_RECIPE | dict(lr=1e-10),
    **_PAPER,
)
@register(
    "fcn16s",
    small=dict(width=0.04),
    defaults=dict(stride=16),
    pins="voc-fcn16s/train.prototxt of the authors; start it from fcn32s (`weights=`) as they do",
    parameters={21: 134_815_994},
    published={"PASCAL VOC 2011 seg11valid mIoU": "65.0"},
    recipe=_RECIPE | dict(lr=1e-12),
    **_PAPER,
)
@register(
    "fcn8s",
    small=dict(width=0.04),
    defaults=dict(stride=8),
    pins="voc-fcn8s/train.prototxt of the authors; start it from fcn16s (`weights=`) as they do",
    parameters={21: 134_489_759, 11: 134_348_929, 19: 134_456_985},
    published={
        "PASCAL VOC 2011 seg11valid mIoU": "65.5",
        "PASCAL VOC 2012 test mIoU": "67.2",
        "CamVid test mIoU (trained by the FC-DenseNet authors)": "57.0",
    },
    recipe=_RECIPE | dict(lr=1e-14),
    **_PAPER,
)
@register(
    "fcn8s_atonce",
    small=dict(width=0.04),
    defaults=dict(stride=8, at_once=True),
    pins="voc-fcn8s-atonce/train.prototxt of the authors",
    parameters={21: 134_490_527},
    published={"PASCAL VOC 2011 seg11valid mIoU": "65.4"},
    recipe=_RECIPE | dict(lr=1e-10, iterations=300_000),
    **_PAPER,
)
class FCN(SegmentationModel):
    """FCN with VGG16 at prediction stride 32, 16 or 8.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        stride: 32, 16 or 8: the finest stride whose scores are used.
        at_once: Trains all strides together: pool4 and pool3 are scaled by fixed 0.01 and 0.0001 before scoring
            (TPAMI version, section 4.3).
        width: Factor on every layer's width; 1 is the paper's.
        dropout: Probability after fc6 and fc7.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        stride: Literal[32, 16, 8] = 8,
        at_once: bool = False,
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if stride not in (32, 16, 8):
            raise ValueError(f"stride is {stride}; FCN predicts at stride 32, 16 or 8")
        self.stride = stride
        self.at_once = at_once

        # VGG16; its first convolution pads by 100 (see above).
        c1, c2, c3, c4, c5 = (stage[-1] for stage in vgg16_stages(width))
        self.conv1_1 = nn.Conv2d(in_channels, c1, 3, padding=100)
        self.conv1_2 = nn.Conv2d(c1, c1, 3, padding=1)
        self.conv2_1 = nn.Conv2d(c1, c2, 3, padding=1)
        self.conv2_2 = nn.Conv2d(c2, c2, 3, padding=1)
        self.conv3_1 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv3_2 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv3_3 = nn.Conv2d(c3, c3, 3, padding=1)
        self.conv4_1 = nn.Conv2d(c3, c4, 3, padding=1)
        self.conv4_2 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv4_3 = nn.Conv2d(c4, c4, 3, padding=1)
        self.conv5_1 = nn.Conv2d(c4, c5, 3, padding=1)
        self.conv5_2 = nn.Conv2d(c5, c5, 3, padding=1)
        self.conv5_3 = nn.Conv2d(c5, c5, 3, padding=1)
        hidden = scaled(width, 4096)
        self.fc6 = nn.Conv2d(c5, hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.drop6, self.drop7 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.apply(he_normal)

        self.score_fr = _zero(ScoreConv2d(hidden, num_classes))
        if stride == 32:
            self.upscore = bilinear_upsampling(num_classes, 64, 32)
            return
        self.upscore2 = bilinear_upsampling(num_classes, 4, 2)
        self.score_pool4 = _zero(nn.Conv2d(c4, num_classes, 1))
        if at_once:
            self.scale_pool4 = _Scale(c4, 0.01)
        if stride == 16:
            self.upscore16 = bilinear_upsampling(num_classes, 32, 16)
            return
        self.upscore_pool4 = bilinear_upsampling(num_classes, 4, 2)
        self.score_pool3 = _zero(nn.Conv2d(c3, num_classes, 1))
        if at_once:
            self.scale_pool3 = _Scale(c3, 0.0001)
        self.upscore8 = bilinear_upsampling(num_classes, 16, 8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pool1 = _pooled(images, self.conv1_1, self.conv1_2)
        pool2 = _pooled(pool1, self.conv2_1, self.conv2_2)
        pool3 = _pooled(pool2, self.conv3_1, self.conv3_2, self.conv3_3)
        pool4 = _pooled(pool3, self.conv4_1, self.conv4_2, self.conv4_3)
        pool5 = _pooled(pool4, self.conv5_1, self.conv5_2, self.conv5_3)
        x = self.drop6(F.relu(self.fc6(pool5)))
        x = self.drop7(F.relu(self.fc7(x)))
        score = self.score_fr(x)
        if self.stride == 32:
            return {"out": crop(self.upscore(score), 19, images.shape)}

        score = self.upscore2(score)
        if self.at_once:
            pool4 = self.scale_pool4(pool4)
        score = score + crop(self.score_pool4(pool4), 5, score.shape)
        if self.stride == 16:
            return {"out": crop(self.upscore16(score), 27, images.shape)}

        score = self.upscore_pool4(score)
        if self.at_once:
            pool3 = self.scale_pool3(pool3)
        score = score + crop(self.score_pool3(pool3), 9, score.shape)
        return {"out": crop(self.upscore8(score), 31, images.shape)}

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = from_torchvision(super().translate(tensors), self, ["conv"])
        return classifier_as_convolutions(named, "fc6", "fc7")


def _pooled(x: Tensor, *convs: nn.Conv2d) -> Tensor:
    """Return what a stage of VGG16 leaves: its convolutions, each with ReLU, then the maximum of 2x2 pixels."""
    for conv in convs:
        x = F.relu(conv(x))
    return F.max_pool2d(x, 2, ceil_mode=True)


class _Scale(nn.Module):
    """A fixed factor for each channel, stored as weights (Caffe's Scale layer with learning rate 0)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), value), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
