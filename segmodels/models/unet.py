"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Olaf Ronneberger, Philipp Fischer, Thomas Brox. MICCAI 2015. arXiv 1505.04597.

Figure 1: a contracting path of two 3x3 convolutions and a 2x2 pooling per level, doubling the channels from 64 to
1024; an expansive path of 2x2 up-convolutions that halve them, each joined with the contracting path's map of the
same level; a 1x1 convolution at the end; dropout at the end of the contracting path.

The paper's convolutions are valid ones, so its output is smaller than its input (572 -> 388) and large images are
tiled with mirrored borders. `padding="valid"` is that form: the input is mirrored outwards so that the output covers
it. The default pads the convolutions, which costs half the arithmetic and takes any size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.layers.init import he_normal
from segmodels.layers.model import SegmentationModel
from segmodels.layers.resize import center_crop, crop, mirror_pad, pad_to_multiple
from segmodels.losses import border_weights
from segmodels.registry import register

_LEVELS = 4
# What the valid convolutions take from each side: 572 -> 388.
_BORDER = 92


@register(
    "unet",
    small=dict(width=6),
    paper="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Ronneberger, Fischer, Brox",
    venue="MICCAI 2015",
    year=2015,
    arxiv="1505.04597",
    pins="figure 1 and section 3 of the paper",
    parameters={11: 31_032_395, 21: 31_033_045},
    published={"ISBI EM segmentation, warping error (recalled, not seen in a source)": "0.000353"},
    differences=(
        "Convolutions are padded; padding='valid' is the paper's form.",
        "The border weight map (equation 2) separates touching cells; it is off unless border_weight is set to 10.",
    ),
    recipe=dict(
        optimizer="sgd", lr=1e-3, momentum=0.99, weight_decay=0.0, batch_size=1, schedule="constant", warmup=0.0,
        class_weights="median_frequency", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.5, color=0.2),
    ),
)  # fmt: skip
class UNet(SegmentationModel):
    """U-Net.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        padding: `same`, or `valid` as in the paper.
        width: Channels of the first level; 64 is the paper's.
        batch_norm: Batch norm after every 3x3 convolution, which then has no bias; the paper has none.
        dropout: Probability at the end of the contracting path.
        border_weight: w0 of equation 2, with sigma 5 pixels; 10 is the paper's, 0 is off.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        padding: Literal["same", "valid"] = "same",
        width: int = 64,
        batch_norm: bool = False,
        dropout: float = 0.5,
        border_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f"padding is '{padding}'; U-Net's convolutions are 'same' or 'valid'")
        self.padding, self.border_weight = padding, border_weight
        channels = [width * 2**level for level in range(_LEVELS + 1)]

        def double(before: int, after: int) -> nn.Sequential:
            return _double(before, after, int(padding == "same"), batch_norm)

        self.down = nn.ModuleList([double(a, b) for a, b in zip([in_channels, *channels], channels, strict=False)])
        self.dropout = nn.Dropout(dropout)
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs])
        self.merge = nn.ModuleList([double(a, b) for a, b in pairs])
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self._extend(images)
        skips = []
        for level, convolutions in enumerate(self.down):
            x = convolutions(x)
            if level < _LEVELS:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        x = self.dropout(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([center_crop(skips.pop(), x.shape), x], dim=1))
        return {"out": crop(self.classifier(x), 0, images.shape)}

    def _extend(self, images: Tensor) -> Tensor:
        if self.padding == "same":
            return pad_to_multiple(images, 2**_LEVELS)
        # Outputs are 4 + 16 k pixels long (388 = 4 + 16 * 24): the first that covers the image.
        rest_h, rest_w = ((4 - size) % 2**_LEVELS for size in images.shape[-2:])
        return mirror_pad(images, _BORDER, _BORDER + rest_h, _BORDER, _BORDER + rest_w)

    def loss(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Cross-entropy, each pixel weighted by 1 + equation 2's border term where `border_weight` is set."""
        loss = super().loss(outputs, target)
        if self.border_weight > 0:
            weights = border_weights(target, w0=self.border_weight, sigma=5.0)
            pixel = F.cross_entropy(outputs["out"].float(), target, ignore_index=255, reduction="none")
            loss = loss + (weights * pixel).sum() / (target != 255).sum().clamp(min=1)
        return loss


def _double(before: int, after: int, padding: int, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions, each with ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=padding, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
