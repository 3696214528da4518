"""LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation.

Abhishek Chaurasia, Eugenio Culurciello. VCIP 2017. arXiv 1707.03718.

Figure 1: a ResNet-18; the input of each of its four stages is added to what the decoder block of that stage gives, so
that the decoder need not learn what pooling threw away. Figure 3: a decoder block narrows to a quarter, doubles the
size, widens. Pinned by the authors' `models/model.lua`, whose decoder's convolutions have biases.

Sizes that are not multiples of 32 are extended by repeating the last row and column, and the result is cropped.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import crop, pad_to_multiple
from segmodels.models.base import SegmentationModel


@register(
    "linknet",
    small=dict(backbone="test_resnet"),
    paper="LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation",
    authors="Chaurasia, Culurciello",
    venue="VCIP 2017",
    year=2017,
    arxiv="1707.03718",
    pins="models/model.lua of the authors",
    parameters={11: 11_535_659, 12: 11_535_788, 19: 11_536_691, 20: 11_536_820},
    published={"Cityscapes val mIoU": "76.4", "CamVid test mIoU, 768x576": "69.10"},
    backbones=("resnet18", "resnet34", "any backbone with maps at strides 4 to 32"),
    recipe=dict(
        optimizer="rmsprop", lr=5e-4, momentum=0.0, weight_decay=0.0, batch_size=8, epochs=300, schedule="step",
        step_epochs=100, step_factor=0.1, warmup=0.0, class_weights="linknet", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.0, color=0.0),
    ),
)  # fmt: skip
class LinkNet(SegmentationModel):
    """LinkNet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder; its maps at strides 4, 8, 16 and 32 are used, and its map at stride 2, where it has one,
            pooled: the input of its first stage.
        stem_link: Adds the input of the first stage to what its decoder block gives, as figure 1 does.
        norm_eps: Of the decoder's batch norms; the first one of the tail has 1e-5.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet18",
        stem_link: bool = True,
        norm_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.levels = [self.backbone.last(stride) for stride in (4, 8, 16, 32)]
        self.stem = self.backbone.last(2) if stem_link and min(self.backbone.strides) <= 2 else None
        self.backbone.keep(*self.levels, *([] if self.stem is None else [self.stem]))
        e1, e2, e3, e4 = (self.backbone.channels[level] for level in self.levels)
        e0 = e1 if self.stem is None else self.backbone.channels[self.stem]
        self.decoder4 = _decoder(e4, e3, norm_eps)
        self.decoder3 = _decoder(e3, e2, norm_eps)
        self.decoder2 = _decoder(e2, e1, norm_eps)
        self.decoder1 = _decoder(e1, e0, norm_eps, stride=1)
        self.tail = nn.Sequential(
            *_normed(nn.ConvTranspose2d(e0, 32, 3, stride=2, padding=1, output_padding=1), 1e-5),
            *_normed(nn.Conv2d(32, 32, 3, padding=1), norm_eps),
            nn.ConvTranspose2d(32, num_classes, 2, stride=2),
        )
        for part in (self.decoder4, self.decoder3, self.decoder2, self.decoder1, self.tail):
            part.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(pad_to_multiple(images, 32))
        e1, e2, e3, e4 = (maps[level] for level in self.levels)
        d3 = self.decoder4(e4) + e3
        d2 = self.decoder3(d3) + e2
        d1 = self.decoder2(d2) + e1
        d0 = self.decoder1(d1)
        if self.stem is not None:
            d0 = d0 + F.max_pool2d(maps[self.stem], 3, stride=2, padding=1)
        return {"out": crop(self.tail(d0), 0, images.shape)}


def _decoder(before: int, after: int, eps: float, stride: int = 2) -> nn.Sequential:
    """Figure 3: 1x1 to a quarter of the channels, a transposed 3x3 convolution, 1x1 to the new number."""
    inner = before // 4
    return nn.Sequential(
        *_normed(nn.Conv2d(before, inner, 1), eps),
        *_normed(nn.ConvTranspose2d(inner, inner, 3, stride=stride, padding=1, output_padding=stride - 1), eps),
        *_normed(nn.Conv2d(inner, after, 1), eps),
    )


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d, eps: float) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels, eps=eps), nn.ReLU(inplace=True)]
