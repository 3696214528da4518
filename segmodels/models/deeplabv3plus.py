"""DeepLab v3+: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation.

Liang-Chieh Chen, Yukun Zhu, George Papandreou, Florian Schroff, Hartwig Adam. ECCV 2018. arXiv 1802.02611.

Figure 2: DeepLab v3's pyramid as the encoder, a small decoder behind it. The encoder's map (stride 16) is up-sampled by
four and joined with the backbone's map at stride 4, reduced to 48 channels; two 3x3 convolutions of 256 channels
refine them (table 2); then the logits, up-sampled by four. With Xception the pyramid's and the decoder's 3x3
convolutions are separable: depthwise, then pointwise (figure 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import dilate_alike
from segmodels.catalog.registry import register
from segmodels.layers.aspp import ASPP
from segmodels.layers.conv import conv_bn_relu, separable_conv_bn_relu
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel

# What other implementations, whose weights are in use, build from the same figure.
_PLAIN = {"separable": False, "decoder_convs": 1}
_SMP = {"norm_between": False, "encoder_conv": True, "decoder_convs": 1}


@register(
    "deeplabv3plus",
    small=dict(backbone="test_resnet", channels=16, low_channels=8),
    paper="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors="Chen, Zhu, Papandreou, Schroff, Adam",
    venue="ECCV 2018",
    year=2018,
    arxiv="1802.02611",
    pins="sections 3.1 and 4.1 of the paper; the authors' TensorFlow code for the separable form",
    parameters={21: 41_055_413, 19: 41_054_899},
    variants=(
        ({"backbone": "resnet50", **_PLAIN}, {21: 39_761_845}),
        ({"backbone": "resnet101", **_PLAIN}, {21: 58_753_973}),
        ({"backbone": "resnet50", **_SMP}, {21: 26_682_725}),
        ({"backbone": "resnet101", **_SMP}, {21: 45_674_853}),
    ),
    published={
        "PASCAL VOC 2012 val mIoU, ResNet-101": "78.85",
        "PASCAL VOC 2012 test mIoU, Xception": "87.8",
        "Cityscapes val mIoU, Xception-65": "78.79",
        "Cityscapes test mIoU": "82.1",
    },
    differences=(
        "Xception-65 is timm's: the aligned, modified one of the paper.",
        "separable=False, decoder_convs=1 is the plain form that other ports build; norm_between=False, "
        "encoder_conv=True, decoder_convs=1 is segmentation-models-pytorch's separable one.",
    ),
    backbones=("xception65", "resnet50", "resnet101", "any dilatable backbone"),
    unconfirmed=("The authors' TensorFlow code has not been read: an independent library's form stands for it.",),
    recipe=dict(
        optimizer="sgd", lr=7e-3, momentum=0.9, weight_decay=4e-5, batch_size=16, iterations=30_000, schedule="poly",
        power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(513, 513), flip=0.5, color=0.0),
    ),
)  # fmt: skip
class DeepLabV3Plus(SegmentationModel):
    """DeepLab v3+.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder's network.
        output_stride: 8 or 16.
        rates: Of the pyramid.
        uniform_dilation: All units of a dilated stage of a ResNet are dilated alike; otherwise its first one like the
            stage before, as timm and torchvision do.
        channels: Of the pyramid and the decoder.
        low_channels: To which the map at stride 4 is reduced.
        separable: The 3x3 convolutions are depthwise separable.
        norm_between: Batch norm and ReLU between depthwise and pointwise convolution.
        encoder_conv: A 3x3 convolution between the pyramid and the decoder.
        decoder_convs: 3x3 convolutions after the maps are joined.
        dropout: Probability at the pyramid's end.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "xception65",
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        uniform_dilation: bool = True,
        channels: int = 256,
        low_channels: int = 48,
        separable: bool = True,
        norm_between: bool = True,
        encoder_conv: bool = False,
        decoder_convs: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        conv3 = partial(separable_conv_bn_relu, norm_between=norm_between) if separable else conv_bn_relu
        self.backbone = create_backbone(backbone, output_stride=output_stride, in_channels=in_channels)
        if uniform_dilation:
            dilate_alike(self.backbone.body)
        self.low = self.backbone.last(4)
        self.backbone.keep(self.low, -1)
        self.encoder = nn.Sequential(
            ASPP(self.backbone.channels[-1], rates, channels, dropout=dropout, atrous=conv3),
            *([conv3(channels, channels)] if encoder_conv else []),
        )
        self.reduce = conv_bn_relu(self.backbone.channels[self.low], low_channels, 1)
        widths = [channels + low_channels, *[channels] * decoder_convs]
        self.decoder = nn.Sequential(*[conv3(before, channels) for before in widths[:-1]])
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)
        for part in (self.encoder, self.reduce, self.decoder, self.classifier):
            part.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        low = self.reduce(features[self.low])
        x = torch.cat([resize(self.encoder(features[-1]), low.shape), low], dim=1)
        return {"out": resize(self.classifier(self.decoder(x)), images.shape)}
