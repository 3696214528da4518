"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation.

Vijay Badrinarayanan, Alex Kendall, Roberto Cipolla. TPAMI 2017. arXiv 1511.00561 (precursor 1505.07293).
Bayesian SegNet: Kendall, Badrinarayanan, Cipolla. BMVC 2017. arXiv 1511.02680.

The encoder stores where each maximum stood; the decoder puts its sparse maps back to those places and convolves
(figures 2 and 3). SegNet's encoder is VGG16's thirteen convolutions; SegNet-Basic has four 7x7 convolutions of
64 channels, and its decoder has no ReLU (section 3.1). The Bayesian forms keep dropout at test time and average
samples; `segmodels.inference.averaging.monte_carlo` gives the mean and the uncertainty.

Pinned by the authors' `segnet_train.prototxt`, `segnet_basic_train.prototxt` and `bayesian_segnet_*` files.
Odd sizes: pooling rounds up and un-pooling returns to the encoder's size, as the files force for 360x480.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import convolutions, from_torchvision, vgg16_stages
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.models.base import SegmentationModel

_SEGNET: dict[str, Any] = dict(
    paper="SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    authors="Badrinarayanan, Kendall, Cipolla",
    venue="TPAMI 2017",
    year=2015,
    arxiv="1511.00561",
)
_BAYESIAN: dict[str, Any] = dict(
    paper="Bayesian SegNet: Model Uncertainty in Deep Convolutional Encoder-Decoder Architectures",
    authors="Kendall, Badrinarayanan, Cipolla",
    venue="BMVC 2017",
    year=2015,
    arxiv="1511.02680",
)
_RECIPE: dict[str, Any] = dict(
    optimizer="sgd", momentum=0.9, weight_decay=5e-4, bias_lr=2.0, batch_size=4, schedule="constant", warmup=0.0,
    class_weights="median_frequency", loss={"cross_entropy": 1.0}, norm_statistics="exact",
    augment=dict(scale=(1.0, 1.0), crop=None, flip=0.0, color=0.0),
)  # fmt: skip
# Of the batch norm in the authors' Caffe.
_EPS = 1e-9
_SEGNET_COUNTS = {11: 29_449_355, 12: 29_449_932, 19: 29_453_971, 21: 29_455_125, 37: 29_464_357}


class _IndexedDecoder(SegmentationModel):
    """Figure 2: encoders that remember their maxima, decoders that put the maps back there."""

    norm: nn.Module
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    classifier: nn.Conv2d
    dropout: nn.Dropout

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, pooled = self.norm(images), []
        for number, stage in enumerate(self.encoder, start=1):
            x = stage(x)
            size = x.shape[-2:]
            x, indices = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            pooled.append((indices, size))
            if number >= 3:
                x = self.dropout(x)
        for number, stage in zip(range(len(pooled), 0, -1), self.decoder, strict=True):
            indices, size = pooled.pop()
            x = stage(F.max_unpool2d(x, indices, [2, 2], output_size=size))
            if number >= 3:
                x = self.dropout(x)
        return {"out": self.classifier(x)}


@register(
    "segnet",
    small=dict(width=0.08),
    pins="Models/segnet_train.prototxt of the authors",
    parameters=_SEGNET_COUNTS,
    published={
        "CamVid test mIoU, 3433 training images, VGG16 weights": "60.1",
        "CamVid test mIoU, as the FC-DenseNet paper lists it": "46.4",
        "SUN RGB-D mIoU": "31.84",
    },
    recipe=_RECIPE | dict(lr=1e-3, iterations=40_000),
    **_SEGNET,
)
@register(
    "bayesian_segnet",
    small=dict(width=0.08),
    defaults=dict(dropout=0.5),
    pins="Models/bayesian_segnet_train.prototxt of the authors",
    parameters={11: 29_449_355},
    published={"CamVid test mIoU": "63.1"},
    recipe=_RECIPE | dict(lr=1e-3, iterations=60_000),
    testing=dict(mc_samples=4),
    **_BAYESIAN,
)
class SegNet(_IndexedDecoder):
    """SegNet on the thirteen convolutions of VGG16.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Factor on every layer's width; 1 is the paper's.
        dropout: Probability at the six places of Bayesian SegNet: after pool3, pool4, pool5 and after the decoder
            stages 5, 4 and 3. 0 is SegNet.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        stages = vgg16_stages(width)
        self.norm = nn.Identity()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for stage in stages:
            self.encoder.append(convolutions([channels, *stage], batch_norm=True, eps=_EPS))
            channels = stage[-1]
        below = [stages[0][0], *[stage[-1] for stage in stages[:-1]]]
        for stage, out in zip(stages[:0:-1], below[:0:-1], strict=True):
            self.decoder.append(convolutions([*stage, out], batch_norm=True, eps=_EPS))
        self.decoder.append(convolutions([stages[0][-1], stages[0][0]], batch_norm=True, eps=_EPS))
        self.classifier = nn.Conv2d(stages[0][0], num_classes, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.apply(he_normal)

    imagenet = "VGG16_BN_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["encoder"])


@register(
    "segnet_basic",
    small=dict(width=8),
    pins="Models/segnet_basic_train.prototxt of the authors",
    parameters={11: 1_416_587},
    published={"CamVid test mIoU, median-frequency weights": "47.7", "CamVid test mIoU, no weights": "46.3"},
    differences=(
        "The paper counts 1.425 M parameters and says that the convolutions have no bias; its file has them.",
    ),
    recipe=_RECIPE | dict(lr=0.1, iterations=10_000),
    **_SEGNET,
)
@register(
    "bayesian_segnet_basic",
    small=dict(width=8),
    defaults=dict(dropout=0.5),
    pins="Models/bayesian_segnet_basic_train.prototxt of the authors",
    parameters={11: 1_416_587},
    published={"CamVid test mIoU (recalled, not seen in a source)": "55.8"},
    recipe=_RECIPE | dict(lr=0.1, iterations=10_000),
    testing=dict(mc_samples=8),
    **_BAYESIAN,
)
class SegNetBasic(_IndexedDecoder):
    """SegNet-Basic: four 7x7 encoders and four 7x7 decoders of 64 channels.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Channels of every layer.
        dropout: Probability at the four places of Bayesian SegNet-Basic: after pool3, pool4, decoder 4 and decoder 3.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        # The file gives no k; Caffe's default is 1.
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for channels in (in_channels, width, width, width):
            conv = nn.Conv2d(channels, width, 7, padding=3)
            self.encoder.append(nn.Sequential(conv, nn.BatchNorm2d(width, eps=_EPS), nn.ReLU(inplace=True)))
        for _ in range(4):
            self.decoder.append(nn.Sequential(nn.Conv2d(width, width, 7, padding=3), nn.BatchNorm2d(width, eps=_EPS)))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.dropout = nn.Dropout(dropout)
        self.apply(he_normal)
