"""Dilation8 and Dilation10: Multi-Scale Context Aggregation by Dilated Convolutions.

Fisher Yu, Vladlen Koltun. ICLR 2016. arXiv 1511.07122.

The front end is VGG16 without its last two pools, what follows them dilated instead (section 4). The context module
sees ever wider surroundings without losing resolution: 3x3 convolutions on the classes' scores, dilated by 1, 1, 2, 4,
8, 16 and 1, then a 1x1 one (table 1), which begin as the identity (section 3). Dilation10, for Cityscapes, has two
more, dilated by 32 and 64. First the front end is trained alone (`stage="frontend"`), then the context module on top
of it (`weights=`).

The authors pad nothing inside the front end and mirror the image outwards instead, which costs three times the
arithmetic at 360x480: `padding="mirror"`. The default pads the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import (
    classifier_as_convolutions,
    from_torchvision,
    scaled,
    vgg16_stages,
)
from segmodels.catalog.registry import register
from segmodels.layers.conv import ScoreConv2d
from segmodels.layers.init import gaussian, he_normal
from segmodels.layers.resize import crop, mirror_pad, pad_to_multiple
from segmodels.models.base import SegmentationModel

# What the front end's unpadded convolutions take from each side.
_MARGIN = 186
_PAPER: dict[str, Any] = dict(
    paper="Multi-Scale Context Aggregation by Dilated Convolutions",
    authors="Yu, Koltun",
    venue="ICLR 2016",
    year=2016,
    arxiv="1511.07122",
    differences=(
        "The front end's convolutions are padded; padding='mirror' is the authors' form.",
        "Logits are up-sampled from the centres of their cells. For CamVid the authors' predict.py interpolates "
        "probabilities, from the cells' top left pixels; their file for Cityscapes up-samples as here, but fades to "
        "zero over the last four pixels.",
    ),
)
_RECIPE: dict[str, Any] = dict(
    optimizer="sgd", lr=1e-4, momentum=0.99, weight_decay=5e-4, bias_lr=2.0, batch_size=8, schedule="constant",
    warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
    augment=dict(scale=(1.0, 1.0), crop=(628, 628), flip=0.5, color=0.0),
)  # fmt: skip
# Rates that leave the front end as it is.
_FROZEN = {"stages": 0.0, "fc": 0.0, "final": 0.0}


@register(
    "dilation8",
    small=dict(width=0.04),
    pins="models/dilation8_camvid_deploy.prototxt of the authors",
    parameters={11: 134_313_443},
    variants=(({"context": "large"}, {21: 141_149_720}),),
    published={"CamVid test mIoU": "65.3", "PASCAL VOC 2012 test mIoU, with CRF-RNN": "75.3"},
    recipe=_RECIPE | dict(
        stages=(
            dict(options=dict(stage="frontend"), iterations=20_000),
            dict(lr=1e-5, momentum=0.9, batch_size=1, iterations=20_000, augment=dict(crop=(852, 852))),
        ),
    ),
    **_PAPER,
)  # fmt: skip
@register(
    "dilation10",
    small=dict(width=0.04),
    defaults=dict(dilations=(1, 1, 2, 4, 8, 16, 32, 64, 1)),
    pins="models/dilation10_cityscapes_deploy.prototxt of the authors",
    published={"Cityscapes test mIoU": "67.1"},
    recipe=_RECIPE | dict(
        stages=(
            dict(options=dict(stage="frontend"), iterations=40_000),
            dict(lr_factors=_FROZEN, batch_size=4, accumulate=25, iterations=24_000, augment=dict(crop=None)),
            dict(lr=1e-5, momentum=0.9, batch_size=1, iterations=60_000, augment=dict(crop=(1396, 1396))),
        ),
    ),
    **_PAPER,
)  # fmt: skip
class Dilation(SegmentationModel):
    """The front end and the context module.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        stage: `full`, or `frontend`: without the context module.
        context: `basic` keeps as many channels as there are classes; `large` widens them up to 32 times (table 1).
        dilations: Of the context module's 3x3 convolutions.
        context_padding: `each` convolution of the context module is padded by its own dilation, as in the files for
            CamVid and Cityscapes; `once` puts all zeros in front of the module, as the file for Pascal VOC does. None
            is `once` for the large module and `each` for the basic one.
        padding: `same`, or `mirror` as the authors do.
        width: Factor on the front end's width; 1 is the paper's.
        dropout: Probability after fc6 and fc7.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        stage: Literal["full", "frontend"] = "full",
        context: Literal["basic", "large"] = "basic",
        dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 1),
        context_padding: Literal["each", "once"] | None = None,
        padding: Literal["same", "mirror"] = "same",
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        context_padding = context_padding or ("once" if context == "large" else "each")
        for key, value, known in (
            ("stage", stage, ("full", "frontend")),
            ("context", context, ("basic", "large")),
            ("padding", padding, ("same", "mirror")),
            ("context_padding", context_padding, ("each", "once")),
        ):
            if value not in known:
                raise ValueError(f"{key} is '{value}'; it is '{known[0]}' or '{known[1]}'")
        self.padding = padding
        stages, hidden = vgg16_stages(width), scaled(width, 4096)
        same = padding == "same"
        self.stages = nn.ModuleList()
        before = in_channels
        for number, stage_channels in enumerate(stages, start=1):
            self.stages.append(_convolutions([before, *stage_channels], dilation=2 if number == 5 else 1, same=same))
            before = stage_channels[-1]
        self.fc6 = nn.Conv2d(before, hidden, 7, dilation=4, padding=12 if same else 0)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.drop6, self.drop7 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.apply(he_normal)
        self.final = gaussian(ScoreConv2d(hidden, num_classes), 0.01)
        self.context: nn.Module = nn.Identity()
        if stage == "full":
            self.context = _context(num_classes, dilations, wide=context == "large", once=context_padding == "once")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = pad_to_multiple(images, 8)
        size = x.shape
        if self.padding == "mirror":
            x = mirror_pad(x, _MARGIN, _MARGIN, _MARGIN, _MARGIN)
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if number <= 3:
                x = F.max_pool2d(x, 2)
        x = self.drop6(F.relu(self.fc6(x)))
        x = self.drop7(F.relu(self.fc7(x)))
        score = self.context(self.final(x))
        full = F.interpolate(score, size=tuple(size[-2:]), mode="bilinear", align_corners=False)
        return {"out": crop(full, 0, images.shape)}

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = from_torchvision(super().translate(tensors), self, ["stages"])
        return classifier_as_convolutions(named, "fc6", "fc7")


def _convolutions(channels: list[int], *, dilation: int, same: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, 3, dilation=dilation, padding=dilation if same else 0))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _context(classes: int, dilations: tuple[int, ...], *, wide: bool, once: bool) -> nn.Sequential:
    """Build table 1; with `once` all zeros around the map are added in front."""
    factors = [1] * (len(dilations) + 1)
    if wide:
        growth = [2, 2, 4, 8, 16, 32, 32]
        factors = [1, *growth, *[32] * (len(dilations) - len(growth))][: len(dilations) + 1]
    # An identity in its place keeps the numbers in the names of the layers.
    layers: list[nn.Module] = [nn.ZeroPad2d(sum(dilations)) if once else nn.Identity()]
    for dilation, (before, after) in zip(dilations, pairwise(factors), strict=True):
        padding = 0 if once else dilation
        conv = nn.Conv2d(before * classes, after * classes, 3, padding=padding, dilation=dilation)
        layers += [_identity(conv, classes), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, _identity(nn.Conv2d(factors[-1] * classes, classes, 1), classes))


@torch.no_grad()
def _identity(conv: nn.Conv2d, classes: int) -> nn.Conv2d:
    """Pass each class's map on (equations 4 and 5), with a little noise where the number of channels changes."""
    before, after, center = conv.in_channels, conv.out_channels, conv.kernel_size[0] // 2
    share = classes / after
    nn.init.normal_(conv.weight, std=0.0 if before == after else 0.01 * share)
    out, into = torch.arange(after), torch.arange(before)
    same = (out * classes // after)[:, None] == (into * classes // before)[None, :]
    conv.weight[:, :, center, center] += torch.eye(after) if before == after else same * share
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
