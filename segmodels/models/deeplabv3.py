"""DeepLab v3: Rethinking Atrous Convolution for Semantic Image Segmentation.

Liang-Chieh Chen, George Papandreou, Florian Schroff, Hartwig Adam. arXiv 2017. arXiv 1706.05587.

Figure 5: a ResNet whose last stages are dilated instead of strided, the three units of the very last by the
multi-grid (1, 2, 4) times its rate (section 3.1.2, table 4); atrous spatial pyramid pooling (section 3.3); logits at
the output stride, up-sampled to full size before the loss. Output stride 16 in training and 8 in testing, where all
rates double (section 3.3): the weights stay, strides and dilations follow from `output_stride`, which `train()` and
`eval()` set.

| output stride | conv4: stride, dilation | conv5: stride, dilation | rates of the pyramid |
|---:|---|---|---|
| 16 | 2, 1 | 1, 2 x multi-grid | 6, 12, 18 |
| 8 | 1, 2 | 1, 4 x multi-grid | 12, 24, 36 |

torchvision's network, whose published weights are used most, is `multi_grid=None, output_stride=8,
rates=(12, 24, 36)`, weight for weight; with `aux=True` it has its auxiliary head, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from segmodels.backbones import Backbone, create_backbone
from segmodels.backbones.dilation import set_multi_grid
from segmodels.catalog.registry import register
from segmodels.layers.aspp import ASPP
from segmodels.layers.conv import conv_bn_relu
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel


@register(
    "deeplabv3",
    small=dict(backbone="test_resnet", channels=16),
    paper="Rethinking Atrous Convolution for Semantic Image Segmentation",
    authors="Chen, Papandreou, Schroff, Adam",
    venue="arXiv 2017",
    year=2017,
    arxiv="1706.05587",
    pins="sections 3 and 4 of the paper; torchvision's deeplabv3_resnet50 and _resnet101 for the layers",
    parameters={21: 58_630_997, 19: 58_630_483},
    variants=(
        ({"backbone": "resnet50"}, {21: 39_638_869, 19: 39_638_355}),
    ),
    training_parameters=(
        ({"backbone": "resnet50", "aux": True}, {21: 42_004_074}),
        ({"aux": True}, {21: 60_996_202}),
    ),
    published={
        "PASCAL VOC 2012 val mIoU, output stride 16": "77.21",
        "PASCAL VOC 2012 val mIoU, output stride 8": "78.51",
        "PASCAL VOC 2012 test mIoU": "85.7",
        "Cityscapes test mIoU": "81.3",
    },
    differences=(
        "A 3x3 convolution stands between the pyramid and the classifier, as in the implementations whose weights are "
        "in use; the text has none: head_conv=False.",
    ),
    backbones=("resnet50", "resnet101", "any dilatable backbone"),
    unconfirmed=("The authors' TensorFlow code has not been read: torchvision's form stands for it.",),
    recipe=dict(
        optimizer="sgd", lr=7e-3, momentum=0.9, weight_decay=4e-5, batch_size=16, iterations=30_000, schedule="poly",
        power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(513, 513), flip=0.5, color=0.0),
    ),
)  # fmt: skip
class DeepLabV3(SegmentationModel):
    """DeepLab v3.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder.
        output_stride: In training: 8 or 16.
        test_output_stride: In evaluation; rates and dilations follow. None keeps that of training.
        rates: Of the pyramid at output stride 16 (at `output_stride` where that is 8).
        multi_grid: Factors on the dilations of the last stage's units; None dilates them alike. ResNets of
            bottleneck units alone have it.
        channels: Of the pyramid.
        head_conv: A 3x3 convolution between the pyramid and the classifier.
        aux: An auxiliary head on the last but one stage.
        dropout: Probability at the pyramid's end.
    """

    renames: ClassVar = {
        r"^backbone\.(?!body\.)": "backbone.body.",
        r"^classifier\.0\.convs\.4\.": "classifier.0.convs.4.project.",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        output_stride: int = 16,
        test_output_stride: int | None = 8,
        rates: Sequence[int] = (6, 12, 18),
        multi_grid: Sequence[int] | None = (1, 2, 4),
        channels: int = 256,
        head_conv: bool = True,
        aux: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.training_stride, self.test_stride = output_stride, test_output_stride or output_stride
        # It can work at less than what it is built at.
        built_at = max(self.training_stride, self.test_stride)
        self.backbone = create_backbone(backbone, output_stride=built_at, in_channels=in_channels)
        self.backbone.keep(*((-2, -1) if aux else (-1,)))
        _set_multi_grid(self.backbone, multi_grid)
        deep, middle = self.backbone.channels[-1], self.backbone.channels[-2]
        self.classifier = nn.Sequential(
            ASPP(deep, rates, channels, dropout=dropout),
            *(conv_bn_relu(channels, channels) if head_conv else ()),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.aux_classifier = (
            nn.Sequential(*conv_bn_relu(middle, middle // 4), nn.Dropout(0.1), nn.Conv2d(middle // 4, num_classes, 1))
            if aux
            else None
        )
        self.classifier.apply(he_normal)
        self.rates = {
            stride: tuple(rate * output_stride // stride for rate in rates) for stride in self.backbone.output_strides
        }
        for stride in (self.test_stride, self.training_stride):
            self.output_stride = stride

    @property
    def output_stride(self) -> int:
        """Stride of the map that the pyramid sees, 8 or 16; `train()` and `eval()` set it to that of the settings.

        Set, it changes strides and dilations of the backbone and the rates of the pyramid, and no weight.

        Raises:
            ValueError: The network cannot work at it.
        """
        return self.backbone.output_stride

    @output_stride.setter
    def output_stride(self, value: int) -> None:
        self.backbone.output_stride = value
        pyramid: Any = self.classifier[0]
        pyramid.rates = self.rates[value]

    def train(self, mode: bool = True) -> DeepLabV3:
        super().train(mode)
        self.output_stride = self.training_stride if mode else self.test_stride
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        outputs = {"out": resize(self.classifier(features[-1]), images.shape)}
        if self.training and self.aux_classifier is not None:
            outputs["aux"] = resize(self.aux_classifier(features[-2]), images.shape)
        return outputs


def _set_multi_grid(backbone: Backbone, factors: Sequence[int] | None) -> None:
    stage = getattr(getattr(backbone, "body", None), "layer4", None)
    if factors is not None and stage is not None and len(stage) == len(factors):
        set_multi_grid(stage, factors, 32 // backbone.output_stride)
