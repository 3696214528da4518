"""The FCN of torchvision: a small convolutional head on a dilated ResNet.

The idea of Long, Shelhamer and Darrell (CVPR 2015) in the form in which it lives on: no skips and no VGG, but an
encoder whose last stages are dilated, at stride 8. Pinned by `fcn_resnet50` and `fcn_resnet101` of torchvision
(`torchvision/models/segmentation/fcn.py`), whose published weights load. The networks of the paper are in `fcn.py`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from segmodels.backbones import create_backbone
from segmodels.catalog.registry import register
from segmodels.layers.conv import conv_bn_relu
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel


@register(
    "fcn",
    small=dict(backbone="test_resnet"),
    pins="torchvision's fcn_resnet50 and fcn_resnet101, the form in which the idea lives on: no skips, but stride 8",
    parameters={},
    backbones=("resnet50", "resnet101", "any dilatable backbone"),
    published={"COCO val2017 with VOC labels, mIoU, ResNet-50 (torchvision)": "60.5"},
    recipe=dict(
        optimizer="sgd", lr=2e-2, momentum=0.9, weight_decay=1e-4, decay_biases=True, decay_norms=True, batch_size=32,
        epochs=30, schedule="poly", power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(480, 480), flip=0.5, color=0.0),
    ),
    paper="Fully Convolutional Networks for Semantic Segmentation",
    authors="Long, Shelhamer, Darrell",
    venue="CVPR 2015 / TPAMI 2017",
    year=2015,
    arxiv="1411.4038",
    differences=("This is not a network of the paper: see fcn32s, fcn16s and fcn8s.",),
)  # fmt: skip
class DilatedFCN(SegmentationModel):
    """A small convolutional head on a dilated encoder.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder.
        output_stride: 8, 16 or 32.
        aux: An auxiliary head on the last but one stage.
        dropout: Probability before the classifier.
    """

    aux_weight = 0.5
    renames: ClassVar = {r"^backbone\.(?!body\.)": "backbone.body."}

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet50",
        output_stride: int = 8,
        aux: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, output_stride=output_stride, in_channels=in_channels)
        self.backbone.keep(-1, *([-2] if aux else []))
        middle, deep = self.backbone.channels[-2:]
        self.classifier = _head(deep, num_classes, dropout)
        self.aux_classifier = _head(middle, num_classes, dropout) if aux else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        outputs = {"out": resize(self.classifier(features[-1]), images.shape)}
        if self.training and self.aux_classifier is not None:
            outputs["aux"] = resize(self.aux_classifier(features[-2]), images.shape)
        return outputs


def _head(before: int, classes: int, dropout: float) -> nn.Sequential:
    head = nn.Sequential(*conv_bn_relu(before, before // 4), nn.Dropout(dropout), nn.Conv2d(before // 4, classes, 1))
    return head.apply(he_normal)
