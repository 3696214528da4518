"""Eigen and Fergus: Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture.

David Eigen, Rob Fergus. ICCV 2015. arXiv 1411.4734.

Three networks, each at a finer scale (figure 2). Scale 1 sees the whole image: the convolutions of VGG16 (or AlexNet)
and two fully connected layers give 64 maps at 1/16. Scale 2 joins them, four times as large, with features of the image
and predicts at 1/4; scale 3 joins that prediction with further features and predicts at 1/2. No gradient goes from
scale 3 into the others. Pinned by the authors' `models/iccv15/depthnormals_nyud_{vgg,alexnet}.py` and `.conf`, of which
jhmitchel/eecs442normals-w18 has a copy.

The fully connected layers fix the size of what scale 1 sees, 228x304. Images of other sizes are averaged to that for
scale 1 alone; scales 2 and 3 see them as they are. An image of 228x304 passes as it does in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import from_torchvision, scaled, vgg16_stages
from segmodels.catalog.registry import register
from segmodels.layers.init import gaussian, he_normal
from segmodels.layers.resize import crop, grid_means, resize
from segmodels.models.base import SegmentationModel

# Where the first pixel of scales 2 and 3 lies in the image: the centre of what it sees.
FIRST = 5
Predicts = Literal["depth", "normals", "labels"]
Size = tuple[int, int]


@register(
    "eigen_fergus",
    tasks=("depth", "dense"),
    small=dict(width=0.0625, input_size=[64, 80]),
    paper="Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture",
    authors="Eigen, Fergus",
    venue="ICCV 2015",
    year=2015,
    arxiv="1411.4734",
    pins="models/iccv15/depthnormals_nyud_vgg.conf of the authors, as jhmitchel/eecs442normals-w18 has it",
    parameters={1: 217_359_528, 3: 217_365_062, 40: 217_542_736},
    variants=(
        (dict(trunk="alexnet"), {1: 124_603_112}),
        (dict(stage="coarse"), {1: 217_076_775}),
        (dict(scale3_features=63), {1: 217_298_676}),
        (dict(scale3_features=61), {3: 217_300_522}),
    ),
    differences=(
        "A network has one task; the authors' for depth and normals has a stack for each on a common scale 1, and both "
        "predictions of scale 2 go into either stack of scale 3.",
        "An image of another size than 228x304 is averaged to that for scale 1, and scale 1's features are resized to "
        "scale 2's map; the original takes no other size.",
        "The prediction, which the original leaves at 109x147 over the middle of the image, is interpolated to the "
        "image's size; the outermost five pixels repeat their neighbours. Losses compare it there, not at 1/4 and 1/2.",
        "By default scales 1 and 2 learn by the prediction of scale 2 and scale 3 by its own at the same time; "
        "`recipe: paper` trains them one after the other, scale 3 on whole images where the authors crop.",
        "All scales take images normalised by ImageNet's mean and deviation, and depth is the logarithm of metres; the "
        "files normalise for each scale by itself and divide the logarithm by its deviation, 0.457.",
        "With in_channels above 3 every scale reads all channels together; the authors' file for labels has "
        "convolutions of their own for colours, depth and normals, and shows scale 1 the colours alone.",
        "The authors' file for labels drops 0.8 after full1: dropout=0.8.",
        "From scratch the trunk's convolutions are initialised by He's scheme; the original loads ImageNet's.",
    ),
    unconfirmed=(
        "Scale 3's 96 maps of the image: the paper's figure has not been read, two ports of it have them; the authors' "
        "files have 64 with the predictions, which scale3_features=63 gives for depth and 61 for normals.",
        "The form for labels: the .conf of the authors' file for it was not to be had.",
    ),
    recipe=dict(
        optimizer="sgd", lr=1.0, momentum=0.9, weight_decay=1e-4, batch_size=16, epochs=450, schedule="step",
        step_epochs=350, step_factor=0.1, warmup=0.0, class_weights="none",
        lr_factors={
            "scale1.trunk": 0.001, "scale1.full": 0.1, "scale2.places": 0.1, "scale2.conv[15]*": 0.001,
            "scale2.conv[234]*": 0.01, "scale3.conv[14]*": 0.001, "scale3.conv[23]*": 0.01,
        },
        loss={"silog": 1.0, "squared_gradient": 1.0},
        augment=dict(scale=(1.0, 1.5), crop=(228, 304), flip=0.5, color=0.2),
        stages=(dict(options=dict(stage="coarse")), dict(options=dict(stage="fine"))),
    ),
)  # fmt: skip
class EigenFergus(SegmentationModel):
    """The three scales.

    Args:
        num_classes: Number of maps C: 1 for depth, whose logarithm it gives, 3 for normals.
        in_channels: Channels of the input.
        trunk: `vgg16` or `alexnet`: the convolutions of scale 1.
        predicts: What the maps are, by which scale 3 reads those of scale 2. None takes `depth` for one map, `normals`
            for three (say `labels` where they are three classes) and `labels` otherwise.
        stage: `coarse` is scales 1 and 2 alone, the first stage of training; `fine` has them fixed and trains scale 3;
            `full` trains all.
        input_size: (height, width) that scale 1 sees; its fully connected layers are as large as that asks.
        scale3_features: Maps of the image that scale 3 joins with the prediction of scale 2.
        width: Factor on the channels of every layer, for small versions.
        dropout: Probability after the first fully connected layer.
    """

    aux_weight = 1.0  # scale 2 learns by its own prediction alone
    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        trunk: Literal["vgg16", "alexnet"] = "vgg16",
        predicts: Predicts | None = None,
        stage: Literal["full", "coarse", "fine"] = "full",
        input_size: Size = (228, 304),
        scale3_features: int = 96,
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if stage not in ("full", "coarse", "fine"):
            raise ValueError(f"stage is '{stage}'; the scales are trained in the stages 'coarse' and 'fine', or 'full'")
        predicts = predicts or _PREDICTED.get(num_classes, "labels")
        if predicts not in _AS_READ:
            raise ValueError(f"predicts is '{predicts}'; it is one of {', '.join(_AS_READ)}")
        self.stage, self.predicts = stage, predicts
        size = (int(input_size[0]), int(input_size[1]))
        self.scale1 = Scale1(in_channels, trunk, size, width, dropout, rectified=predicts != "labels")
        places = _map_size(size) if predicts == "depth" else None
        self.scale2 = Scale2(num_classes, in_channels, width, places)
        self.scale3 = None if stage == "coarse" else Scale3(num_classes, in_channels, scale3_features, width)
        if stage == "fine":
            self.scale1.requires_grad_(False)
            self.scale2.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        coarse = self.scale2(images, self.scale1(images))
        if self.scale3 is None:
            return {"out": _placed(coarse, 4, images.shape)}
        fine = self.scale3(images, _AS_READ[self.predicts](coarse.detach()))
        outputs = {"out": _placed(fine, 2, images.shape)}
        if self.training and self.stage == "full":
            outputs["aux"] = _placed(coarse, 4, images.shape)
        return outputs

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["scale1.trunk"])


class Scale1(nn.Module):
    """The whole image: a trunk and two fully connected layers, which give 64 maps at 1/4 of the size that it sees.

    Args:
        in_channels: Channels of the input.
        trunk: `vgg16` or `alexnet`.
        input_size: (height, width) that it sees.
        width: Factor on channels.
        dropout: Probability after the first fully connected layer.
        rectified: Whether ReLU follows the second one; it does not in the authors' file for labels.
    """

    def __init__(
        self, in_channels: int, trunk: str, input_size: Size, width: float, dropout: float, rectified: bool
    ) -> None:
        super().__init__()
        if trunk not in _TRUNKS:
            raise ValueError(f"trunk is '{trunk}'; it is one of {', '.join(_TRUNKS)}")
        self.input_size, self.rectified = input_size, rectified
        build, left = _TRUNKS[trunk]
        if min(map(left, input_size)) < 1:
            raise ValueError(f"input_size is {input_size}; nothing is left of it after the convolutions of {trunk}")
        self.trunk, channels = build(in_channels, width)
        self.trunk.apply(he_normal)
        self.grid = tuple(max(1, round(side / 16)) for side in input_size)
        hidden, self.maps = scaled(width, 4096), scaled(width, 64)
        self.full1 = _linear(channels * left(input_size[0]) * left(input_size[1]), hidden, 0.01)
        self.full2 = _linear(hidden, self.maps * self.grid[0] * self.grid[1], 0.001)
        self.drop, self.kept = nn.Dropout(dropout), 1 - dropout

    def forward(self, images: Tensor) -> Tensor:
        # Features of ImageNet's networks are large: the authors take a hundredth.
        x = 0.01 * self.trunk(grid_means(images, self.input_size)).flatten(1)
        # Their dropout leaves what it keeps as it is, and testing takes its mean.
        x = self.full2(self.kept * self.drop(F.relu(self.full1(x))))
        x = F.relu(x) if self.rectified else x
        # Interpolated to four times the size, with zeros around.
        x = F.pad(x.view(-1, self.maps, *self.grid), (1, 1, 1, 1))
        x = resize(x, (4 * self.grid[0] + 5, 4 * self.grid[1] + 5), align_corners=True)
        return crop(x, 3, _map_size(self.input_size))


class Scale2(nn.Module):
    """Predictions at 1/4 from scale 1's features and those of the image.

    Args:
        num_classes: Number of maps.
        in_channels: Channels of the input.
        width: Factor on channels.
        places: (height, width) of a bias for each place (`depths_bias` in the authors' file); None has none.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float, places: Size | None) -> None:
        super().__init__()
        image, inner = scaled(width, 96), scaled(width, 64)
        self.conv1 = gaussian(nn.Conv2d(in_channels, image, 9, stride=2, padding=1), 0.001)
        self.conv2 = gaussian(nn.Conv2d(inner + image, inner, 5, padding=2), 0.01)
        self.conv3 = gaussian(nn.Conv2d(inner, inner, 5, padding=2), 0.01)
        self.conv4 = gaussian(nn.Conv2d(inner, inner, 5, padding=2), 0.01)
        self.conv5 = _prediction(inner, num_classes)
        self.places = nn.Parameter(torch.zeros(1, num_classes, *places)) if places is not None else None

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 3, stride=2)
        x = torch.cat([resize(features, x.shape), x], dim=1)
        x = F.relu(self.conv4(F.relu(self.conv3(F.relu(self.conv2(x))))))
        prediction: Tensor = self.conv5(x)
        if self.places is not None:
            prediction = prediction + resize(self.places, prediction.shape)
        return prediction


class Scale3(nn.Module):
    """Predictions at 1/2 from those of scale 2 and features of the image."""

    def __init__(self, num_classes: int, in_channels: int, features: int, width: float) -> None:
        super().__init__()
        image, inner = scaled(width, features), scaled(width, 64)
        self.conv1 = gaussian(nn.Conv2d(in_channels, image, 9, stride=2, padding=1), 0.001)
        self.conv2 = gaussian(nn.Conv2d(num_classes + image, inner, 5, padding=2), 0.01)
        self.conv3 = gaussian(nn.Conv2d(inner, inner, 5, padding=2), 0.01)
        self.conv4 = _prediction(inner, num_classes)

    def forward(self, images: Tensor, coarse: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 3, stride=1)
        twice = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        x = torch.cat([crop(twice, 0, x.shape), x], dim=1)
        prediction: Tensor = self.conv4(F.relu(self.conv3(F.relu(self.conv2(x)))))
        return prediction


def _vgg16(in_channels: int, width: float) -> tuple[nn.Sequential, int]:
    """Return VGG16's convolutions, the first two without padding, and how many channels they give."""
    layers: list[nn.Module] = []
    for number, stage in enumerate(vgg16_stages(width)):
        for channels in stage:
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1 if number else 0), nn.ReLU(inplace=True)]
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers), in_channels


def _alexnet(in_channels: int, width: float) -> tuple[nn.Sequential, int]:
    """Return AlexNet's convolutions in one group, with the authors' padding, and how many channels they give."""
    c1, c2, c3, c4, c5 = (scaled(width, channels) for channels in (96, 256, 384, 384, 256))
    layers = nn.Sequential(
        nn.Conv2d(in_channels, c1, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), _norm(),
        nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), _norm(),
        nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    return layers, c5


def _norm() -> nn.LocalResponseNorm:
    """Return (2 + 0.0001 * the sum of five squares)^-0.75; torch divides alpha by five."""
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def _after_alexnet(side: int) -> int:
    side = (side - 7) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side


# Each trunk, and how many pixels of a side it leaves.
_TRUNKS = {"vgg16": (_vgg16, lambda side: (side - 4) // 32), "alexnet": (_alexnet, _after_alexnet)}
# What so many maps are, and how scale 3 reads them.
_PREDICTED: dict[int, Predicts] = {1: "depth", 3: "normals"}
_AS_READ: dict[Predicts, Callable[[Tensor], Tensor]] = {
    "depth": lambda maps: maps,
    "normals": lambda maps: maps * torch.rsqrt((maps**2).sum(1, keepdim=True) + 1e-4),
    "labels": lambda maps: maps.softmax(1),
}


def _map_size(size: Size) -> Size:
    """Return (height, width) of scale 2's map of an image."""
    height, width = (((side - 7) // 2 - 2) // 2 + 1 for side in size)
    return height, width


def _placed(maps: Tensor, step: int, size: torch.Size) -> Tensor:
    """Return maps at an image's size: their pixels lie `step` apart from `FIRST` on, and the edge is repeated."""
    height, width = (step * (side - 1) + 1 for side in maps.shape[-2:])
    maps = resize(maps, (height, width), align_corners=True)
    rows = (torch.arange(size[-2], device=maps.device) - FIRST).clamp(0, height - 1)
    columns = (torch.arange(size[-1], device=maps.device) - FIRST).clamp(0, width - 1)
    return maps[..., rows[:, None], columns]


def _prediction(before: int, after: int) -> nn.ConvTranspose2d:
    """Return the last layer of a scale, which the authors write as a transposed convolution."""
    layer = nn.ConvTranspose2d(before, after, 5, padding=2)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _linear(before: int, after: int, std: float) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
