"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Olaf Ronneberger, Philipp Fischer, Thomas Brox. MICCAI 2015. arXiv 1505.04597.

Figure 1: a contracting path of two 3x3 convolutions and a 2x2 pooling per level, doubling the channels from 64 to
1024; an expansive path of 2x2 up-convolutions that halve them, each joined with the contracting path's map of the
same level; a 1x1 convolution at the end; dropout at the end of the contracting path.

The paper's convolutions are valid ones, so its output is smaller than its input (572 -> 388) and large images are
tiled with mirrored borders. `padding="valid"` is that form: the input is mirrored outwards so that the output covers
it. The default pads the convolutions, which costs half the arithmetic and takes any size.

`backbone` puts the expansive path on another network, whose ImageNet weights can be had. It joins the path's maps where
both have the same stride; levels that the backbone has no map for are doubled alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import center_crop, crop, mirror_pad, pad_to_multiple
from segmodels.models.base import SegmentationModel, Targets
from segmodels.tasks.semantic.losses import border_weights

_Double = Callable[[int, int], nn.Sequential]
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
    backbones=("the paper's contracting path", "any backbone in its place"),
    unconfirmed=("The authors' Caffe file has not been read: the valid form of figure 1 has no source but the paper.",),
    recipe=dict(
        optimizer="sgd", lr=1e-3, momentum=0.99, weight_decay=0.0, batch_size=1, epochs=100, schedule="constant",
        warmup=0.0, class_weights="median_frequency", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.5, color=0.2),
    ),
)  # fmt: skip
class UNet(SegmentationModel):
    """U-Net.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: An encoder in place of the contracting path; its maps at strides 1 to 32 are used.
        padding: `same`, or `valid` as in the paper.
        width: Channels of the level at stride 1, doubled from level to level; 64 is the paper's, 16 usual with a
            ResNet.
        up: How a level is doubled: `transposed`, the paper's convolutions that halve the channels, or `nearest`, which
            takes images of any size without extending them.
        batch_norm: Batch norm after every 3x3 convolution, which then has no bias; the paper has none.
        dropout: Probability at the end of the contracting path.
        border_weight: w0 of equation 2, with sigma 5 pixels; 10 is the paper's, 0 is off.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str | None = None,
        padding: Literal["same", "valid"] = "same",
        width: int = 64,
        up: Literal["transposed", "nearest"] = "transposed",
        batch_norm: bool = False,
        dropout: float = 0.5,
        border_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f"padding is '{padding}'; U-Net's convolutions are 'same' or 'valid'")
        if up not in ("transposed", "nearest"):
            raise ValueError(f"up is '{up}'; U-Net's levels are doubled by 'transposed' convolutions or 'nearest'")
        if padding == "valid" and (backbone or up == "nearest"):
            raise ValueError("padding is 'valid'; that is the paper's form, without backbone and with up='transposed'")
        self.padding, self.border_weight = padding, border_weight
        double = partial(_double, padding=int(padding == "same"), batch_norm=batch_norm)
        channels = self._contracting_path(backbone, in_channels, width, double)

        self.dropout = nn.Dropout(dropout)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        *skips, before = channels
        for level, skip in reversed(list(enumerate(skips))):
            after = width * 2**level
            if up == "transposed":
                self.up.append(nn.ConvTranspose2d(before, after, 2, stride=2))
                before = after
            self.merge.append(double(skip + before, after))
            before = after
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for part in (self.down, self.up, self.merge, self.classifier):
            part.apply(he_normal)

    def _contracting_path(self, backbone: str | None, in_channels: int, width: int, double: _Double) -> list[int]:
        """Build it; return the channels of its maps at strides 1, 2, 4, …, none where it has no such map."""
        self.down = nn.ModuleList()
        if backbone is None:
            self.backbone, channels = None, [width * 2**level for level in range(_LEVELS + 1)]
            for before, after in zip([in_channels, *channels], channels, strict=False):
                self.down.append(double(before, after))
            return channels
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        # The deepest map of each stride.
        indices = {stride: self.backbone.last(stride) for stride in self.backbone.strides}
        self.maps = [indices.get(2**level) for level in range(max(indices).bit_length())]
        self.backbone.keep(*indices.values())
        return [0 if index is None else self.backbone.channels[index] for index in self.maps]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        extended = self._extend(images)
        *skips, x = self._contract(extended)
        x = self.dropout(x)
        for number, merge in enumerate(self.merge):
            level = len(skips) - 1 - number
            skip = skips[level]
            if self.up:
                x = self.up[number](x)
            else:
                size = [-(-side // 2**level) for side in extended.shape[-2:]] if skip is None else skip.shape[-2:]
                x = F.interpolate(x, size=tuple(size), mode="nearest")
            x = merge(x if skip is None else torch.cat([center_crop(skip, x.shape), x], dim=1))
        return {"out": crop(self.classifier(x), 0, images.shape)}

    def _contract(self, images: Tensor) -> list[Any]:
        """Return the maps at strides 1, 2, 4, …, None where there is no such map; the last is always there."""
        if self.backbone is not None:
            maps = self.backbone(images)
            return [None if index is None else maps[index] for index in self.maps]
        levels: list[Any] = []
        for level, convolutions in enumerate(self.down):
            images = convolutions(F.max_pool2d(images, 2) if level else images)
            levels.append(images)
        return levels

    def _extend(self, images: Tensor) -> Tensor:
        """Return images of a size at which doubled maps meet those that they join."""
        if not self.up:
            return images
        if self.padding == "same":
            return pad_to_multiple(images, 2 ** len(self.up))
        # Outputs are 4 + 16 k pixels long (388 = 4 + 16 * 24): the first that covers the image.
        rest_h, rest_w = ((4 - size) % 2**_LEVELS for size in images.shape[-2:])
        return mirror_pad(images, _BORDER, _BORDER + rest_h, _BORDER, _BORDER + rest_w)

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return cross-entropy, each pixel weighted by 1 + equation 2's border term where `border_weight` is set."""
        loss = super().loss(outputs, targets)
        if self.border_weight > 0:
            labels = targets["labels"]
            weights = border_weights(labels, w0=self.border_weight, sigma=5.0)
            pixel = F.cross_entropy(outputs["out"].float(), labels, ignore_index=255, reduction="none")
            loss = loss + (weights * pixel).sum() / (labels != 255).sum().clamp(min=1)
        return loss


def _double(before: int, after: int, *, padding: int, batch_norm: bool) -> nn.Sequential:
    """Return two 3x3 convolutions, each with ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=padding, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
