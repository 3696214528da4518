"""ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation.

Adam Paszke, Abhishek Chaurasia, Sangpil Kim, Eugenio Culurciello. arXiv 2016. arXiv 1606.02147.

Table 1 and figure 2, as the authors' `encoder.lua` and `decoder.lua` build them. The encoder works at 1/8 and is
trained first, with a 1x1 classifier of its own; then the classifier goes, the small decoder comes (section 4). Here
`stage="encoder"` and `stage="full"`: train the first, give it as `weights=` to the second.

Sizes that are not multiples of 8 are extended by repeating the last row and column, and the result is cropped.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import crop, pad_to_multiple, shrink_targets
from segmodels.models.base import SegmentationModel, Targets

# Stages 2 and 3: what the middle convolution of each bottleneck is.
_REPEATED = ("regular", "dilated 2", "asymmetric 5", "dilated 4", "regular", "dilated 8", "asymmetric 5", "dilated 16")


class InitialBlock(nn.Module):
    """Figure 2a: 13 filters of stride 2 beside the max-pooled input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.norm = _norm(out_channels)
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(torch.cat([self.conv(x), self.pool(x)], dim=1)))
        return y


class Bottleneck(nn.Module):
    """Figure 2b: 1x1 projection, a convolution, 1x1 expansion, beside the identity.

    Args:
        channels: Channels of input and output.
        kind: `regular`, `dilated D` or `asymmetric K` (a row of K taps, then a column of K).
        dropout: Probability of the spatial dropout at the branch's end; 0 in the decoder.
        relu: The decoder uses ReLU where the encoder uses PReLU.
        row_first: An asymmetric pair begins with its row.
    """

    def __init__(
        self, channels: int, kind: str = "regular", dropout: float = 0.0, relu: bool = False, row_first: bool = True
    ) -> None:
        super().__init__()
        inner = channels // 4
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), _norm(inner), _act(inner, relu),
            *_middle(inner, kind, row_first), _norm(inner), _act(inner, relu),
            nn.Conv2d(inner, channels, 1, bias=False), _norm(channels), nn.Dropout2d(dropout),
        )  # fmt: skip
        self.act = _act(channels, relu)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x + self.branch(x))
        return y


class Downsampling(nn.Module):
    """Figure 2b with a 2x2 projection of stride 2 beside max pooling, whose indices the decoder uses."""

    def __init__(self, in_channels: int, channels: int, dropout: float) -> None:
        super().__init__()
        inner = channels // 4
        self.pad = channels - in_channels
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, inner, 2, stride=2, bias=False), _norm(inner), nn.PReLU(inner),
            *_middle(inner, "regular"), _norm(inner), nn.PReLU(inner),
            nn.Conv2d(inner, channels, 1, bias=False), _norm(channels), nn.Dropout2d(dropout),
        )  # fmt: skip
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        main, indices = F.max_pool2d(x, 2, return_indices=True)
        main = F.pad(main, (0, 0, 0, 0, 0, self.pad))
        return self.act(main + self.branch(x)), indices


class Upsampling(nn.Module):
    """Figure 2b with a transposed convolution beside max un-pooling to the encoder's places."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.main = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), _norm(channels))
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False), _norm(inner), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1), _norm(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False), _norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        return F.relu(F.max_unpool2d(self.main(x), indices, [2, 2]) + self.branch(x))


@register(
    "enet",
    small=dict(width=0.5),
    paper="ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
    authors="Paszke, Chaurasia, Kim, Culurciello",
    venue="arXiv 2016",
    year=2016,
    arxiv="1606.02147",
    pins="train/models/encoder.lua and decoder.lua of the authors",
    parameters={11: 363_791, 12: 363_856, 19: 364_311, 20: 364_376},
    published={"CamVid test mIoU": "51.3", "Cityscapes test mIoU": "58.3"},
    differences=("Any size is taken: the input is extended to a multiple of 8, the result cropped.",),
    recipe=dict(
        optimizer="adam", lr=5e-4, weight_decay=2e-4, decay_biases=True, decay_norms=True, batch_size=10, epochs=300,
        schedule="step", step_epochs=100, step_factor=0.1, warmup=0.0, class_weights="enet",
        loss={"cross_entropy": 1.0}, augment=dict(scale=(1.0, 1.0), crop=None, flip=0.0, color=0.0),
        stages=(dict(options=dict(stage="encoder"), class_weights="enet_encoder"), {}),
    ),
)  # fmt: skip
class ENet(SegmentationModel):
    """ENet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        stage: `full`, or `encoder`: the first training stage, whose classifier works at 1/8 and is compared with
            labels of that size.
        width: Factor on every layer's width; 1 is the paper's.
        row_first: An asymmetric pair is a row of taps and then a column, as in the authors' file; the paper's text
            names them the other way round.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        stage: Literal["full", "encoder"] = "full",
        width: float = 1.0,
        row_first: bool = True,
    ) -> None:
        super().__init__()
        if stage not in ("full", "encoder"):
            raise ValueError(f"stage is '{stage}'; ENet is trained in the stages 'encoder' and 'full'")
        narrow, middle, wide = (max(4, int(width * c) // 4 * 4) for c in (16, 64, 128))
        self.stage = stage
        self.initial = InitialBlock(in_channels, max(narrow, in_channels + 1))
        self.down1 = Downsampling(max(narrow, in_channels + 1), middle, dropout=0.01)
        self.stage1 = nn.Sequential(*[Bottleneck(middle, dropout=0.01) for _ in range(4)])
        self.down2 = Downsampling(middle, wide, dropout=0.1)
        self.stage2 = nn.Sequential(*[Bottleneck(wide, kind, 0.1, row_first=row_first) for kind in _REPEATED])
        self.stage3 = nn.Sequential(*[Bottleneck(wide, kind, 0.1, row_first=row_first) for kind in _REPEATED])
        if stage == "encoder":
            self.classifier = nn.Conv2d(wide, num_classes, 1)
        else:
            self.up4 = Upsampling(wide, middle)
            self.stage4 = nn.Sequential(*[Bottleneck(middle, relu=True) for _ in range(2)])
            self.up5 = Upsampling(middle, narrow)
            self.stage5 = Bottleneck(narrow, relu=True)
            self.fullconv = nn.ConvTranspose2d(narrow, num_classes, 2, stride=2)
        self.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.initial(pad_to_multiple(images, 8))
        x, indices1 = self.down1(x)
        x = self.stage1(x)
        x, indices2 = self.down2(x)
        x = self.stage3(self.stage2(x))
        if self.stage == "encoder":
            score = self.classifier(x)
            full = F.interpolate(score, scale_factor=8, mode="bilinear", align_corners=False)
            out = {"out": crop(full, 0, images.shape)}
            return out | {"encoder": score} if self.training else out
        x = self.stage4(self.up4(x, indices2))
        x = self.stage5(self.up5(x, indices1))
        return {"out": crop(self.fullconv(x), 0, images.shape)}

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return cross-entropy; in the encoder stage against labels taken at 1/8 (section 4)."""
        if "encoder" not in outputs:
            return super().loss(outputs, targets)
        score = outputs["encoder"]
        loss: Tensor = self.criterion(score, shrink_targets(targets, score.shape))
        return loss


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _act(channels: int, relu: bool) -> nn.Module:
    return nn.ReLU(inplace=True) if relu else nn.PReLU(channels)


def _middle(channels: int, kind: str, row_first: bool = True) -> list[nn.Module]:
    name, _, size = kind.partition(" ")
    if name == "dilated":
        return [nn.Conv2d(channels, channels, 3, padding=int(size), dilation=int(size))]
    if name == "asymmetric":
        k = int(size)
        first, second = ((1, k), (k, 1)) if row_first else ((k, 1), (1, k))
        return [
            nn.Conv2d(channels, channels, first, padding=(first[0] // 2, first[1] // 2), bias=False),
            nn.Conv2d(channels, channels, second, padding=(second[0] // 2, second[1] // 2)),
        ]
    return [nn.Conv2d(channels, channels, 3, padding=1)]
