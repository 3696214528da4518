"""DeepLab v2: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs.

Liang-Chieh Chen, George Papandreou, Iasonas Kokkinos, Kevin Murphy, Alan L. Yuille. TPAMI 2018. arXiv 1606.00915.

Atrous spatial pyramid pooling: the scores of several dilated 3x3 convolutions are added (figures 4 and 7). On
ResNet-101 at stride 8 they are single convolutions to the classes, with the rates 6, 12, 18, 24; on VGG16 (ASPP-L)
each is a branch of fc6, fc7 and fc8. The network looks at the image at three scales with the same weights; its score
is their maximum (section 3.1). In training every scale's score and the maximum have a loss of their own. In testing
the fully connected CRF follows (`crf` in the settings of evaluation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import dilate_alike, stride_first
from segmodels.backbones.vgg import from_torchvision, scaled
from segmodels.catalog.registry import register
from segmodels.layers.init import gaussian, he_normal
from segmodels.layers.resize import resize, shrink_targets
from segmodels.models.base import SegmentationModel, Targets
from segmodels.models.deeplabv1 import Stride8


class SummedASPP(nn.ModuleList):
    """The branches' scores, added."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self]).sum(0)


@register(
    "deeplabv2",
    small=dict(backbone="test_resnet"),
    paper="DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected "
    "CRFs",
    authors="Chen, Papandreou, Kokkinos, Murphy, Yuille",
    venue="TPAMI 2018",
    year=2016,
    arxiv="1606.00915",
    pins="sections 3 and 4 of the paper; kazuto1011/deeplab-pytorch, a faithful port, for the layers",
    parameters={21: 44_048_532, 19: 43_901_068, 150: 53_559_960},
    variants=(({"backbone": "vgg16"}, {21: 37_877_652}),),
    published={
        "PASCAL VOC 2012 val mIoU, ResNet-101": "76.35",
        "PASCAL VOC 2012 val mIoU, ResNet-101 with CRF": "77.69",
        "PASCAL VOC 2012 test mIoU, ResNet-101 with CRF": "79.7",
        "Cityscapes test mIoU": "70.4",
    },
    differences=(
        "Batch norm learns by default; frozen_norm=True keeps it as loaded, as the paper does, which needs weights.",
        "The CRF belongs to testing, not to the network: `evaluate: {crf: {}}` or `predict --crf`.",
        "ImageNet weights are timm's, of a ResNet that strides elsewhere: they fit resnet='timm' best.",
    ),
    backbones=("resnet101", "vgg16", "any dilatable backbone"),
    unconfirmed=("The authors' Caffe files have not been read: a port that loads their weights stands for them.",),
    recipe=dict(
        optimizer="sgd", lr=2.5e-4, momentum=0.9, weight_decay=5e-4, bias_lr=2.0, lr_factors={"classifier.": 10.0},
        batch_size=10, iterations=20_000, schedule="poly", power=0.9, warmup=0.0, class_weights="none",
        loss={"cross_entropy": 1.0}, augment=dict(scale=(0.5, 1.5), crop=(321, 321), flip=0.5, color=0.0),
    ),
    testing=dict(crf=dict(spatial_weight=3.0, spatial_xy=3.0, iterations=10)),
)  # fmt: skip
class DeepLabV2(SegmentationModel):
    """DeepLab v2.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: `vgg16` is the paper's ASPP-L on VGG16; every other one gets the single convolutions of ResNet-101.
        rates: Of the pyramid.
        scales: Of the image, at which the same network looks; the last one is compared pixel by pixel with the rest.
        resnet: `released` is the ResNet of the paper: it strides in the 1x1 convolutions, dilates all units of a stage
            alike and pools its stem with sizes rounded up. `timm` is the one for which timm has ImageNet weights.
        frozen_norm: Batch norm keeps its statistics and factors in training.
        width: Factor on every layer of VGG16.
        dropout: Probability after fc6 and fc7 of VGG16's branches.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (0.5, 0.75, 1.0),
        resnet: Literal["released", "timm"] = "released",
        frozen_norm: bool = False,
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if resnet not in ("released", "timm"):
            raise ValueError(f"resnet is '{resnet}'; it is 'released' or 'timm'")
        self.scales, self.frozen_norm = tuple(scales), frozen_norm
        if backbone == "vgg16":
            trunk = Stride8(in_channels, width=width)
            stem, hidden = trunk.channels, scaled(width, 1024)
            self.backbone: nn.Module = trunk.apply(he_normal)
            self.classifier = SummedASPP([_branch(stem, hidden, num_classes, rate, dropout) for rate in rates])
        else:
            encoder = create_backbone(backbone, output_stride=8, in_channels=in_channels)
            encoder.keep(-1)
            if resnet == "released":
                dilate_alike(encoder.body)
                stride_first(encoder.body)
                pool = getattr(encoder.body, "maxpool", None)
                if isinstance(pool, nn.MaxPool2d):
                    pool.ceil_mode = True
            self.backbone = encoder
            self.classifier = SummedASPP([_score(encoder.channels[-1], num_classes, rate) for rate in rates])
        self.train()

    def train(self, mode: bool = True) -> DeepLabV2:
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = [self._score(images, scale) for scale in self.scales]
        fused = torch.stack([resize(score, scores[-1].shape) for score in scores]).amax(0)
        outputs = {"out": resize(fused, images.shape)}
        if self.training:
            outputs |= {"fused": fused} | {f"scale {s}": x for s, x in zip(self.scales, scores, strict=True)}
        return outputs

    def _score(self, images: Tensor, scale: float) -> Tensor:
        if scale != 1.0:
            images = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        features = self.backbone(images)
        score: Tensor = self.classifier(features if isinstance(features, Tensor) else features[-1])
        return score

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return cross-entropy of each scale's score and of their maximum, each against labels of its size."""
        scores = [score for name, score in outputs.items() if name != "out"]
        return torch.stack([self.criterion(score, shrink_targets(targets, score.shape)) for score in scores]).sum()

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["backbone"])


def _branch(before: int, hidden: int, classes: int, rate: int, dropout: float) -> nn.Sequential:
    """Figure 7b: fc6, fc7 and fc8 of one rate."""
    branch = nn.Sequential(
        nn.Conv2d(before, hidden, 3, padding=rate, dilation=rate), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True), nn.Dropout(dropout),
    ).apply(he_normal)  # fmt: skip
    return branch.append(gaussian(nn.Conv2d(hidden, classes, 1), 0.01))


def _score(before: int, classes: int, rate: int) -> nn.Conv2d:
    return gaussian(nn.Conv2d(before, classes, 3, padding=rate, dilation=rate), 0.01)
