"""SPN: Learning Affinity via Spatial Propagation Networks.

Sifei Liu, Shalini De Mello, Jinwei Gu, Guangyu Zhong, Ming-Hsuan Yang, Jan Kautz. NIPS 2017. arXiv 1710.01020.

A network refines another network's scores (figure 2): a guidance network looks at the image and says, for each place
and channel, how much it takes of its three neighbours in each of four directions; the scores are propagated
accordingly, the four results' maximum is propagated once more (section 3.3). Pinned by the authors'
`models/voc_rnn_vgg_v3.prototxt`: the scores are brought to 32 channels at half the size; the guidance network is VGG16
with a decoder that adds the encoder's maps.

`base` is the network whose scores are refined, any architecture of this library. `base=None` is the authors' file:
the input is the image with the scores as further channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import convolutions, from_torchvision, scaled, vgg16_stages
from segmodels.catalog.registry import create_model, register
from segmodels.layers.init import he_normal
from segmodels.layers.propagation import DIRECTIONS, normalize_gates, propagate
from segmodels.layers.resize import bilinear_kernel, crop, pad_to_multiple
from segmodels.models.base import SegmentationModel, Targets


class Guidance(nn.Module):
    """VGG16 to pool5 and up again to half the image's size: weights for four directions and three neighbours.

    Args:
        in_channels: Channels of the image.
        channels: Channels that are propagated.
        width: Factor on VGG16's width.
        always_divide: The gates are divided by their sum everywhere, not only where it exceeds 1.
    """

    def __init__(self, in_channels: int, channels: int, width: float, always_divide: bool) -> None:
        super().__init__()
        self.always_divide = always_divide
        stages = vgg16_stages(width)
        before = [in_channels, *[stage[-1] for stage in stages]]
        self.stages = nn.ModuleList([convolutions([a, *stage]) for a, stage in zip(before, stages, strict=False)])
        deep, middle = stages[4][-1], stages[2][-1]
        self.conv5 = nn.Conv2d(deep, deep, 1)
        self.up = nn.ModuleList([_double(deep), _double(deep), _double(stages[3][-1]), _double(middle)])
        self.conv6 = nn.Conv2d(deep, deep, 3, padding=1)
        self.conv7 = nn.Conv2d(deep, stages[3][-1], 3, padding=1)
        self.conv8 = nn.Conv2d(stages[3][-1], middle, 3, padding=1)
        self.gates = nn.Conv2d(middle, len(DIRECTIONS) * 3 * channels, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the normalised weights of each direction, `[N, 3, channels, H / 2, W / 2]`."""
        x, skips = images, []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        conv3, conv4, conv5 = skips[2:]
        x = F.relu(self.conv6(self.up[0](self.conv5(x)))) + conv5
        x = F.relu(self.conv7(self.up[1](x))) + conv4
        x = F.elu(self.conv8(self.up[2](x))) + conv3
        gates = self.gates(self.up[3](x)).unflatten(1, (len(DIRECTIONS), 3, -1))
        return [normalize_gates(one, always=self.always_divide) for one in gates.unbind(1)]


@register(
    "spn",
    small=dict(base="segnet_basic", base_options={"width": 4}, width=0.04, channels=4),
    paper="Learning Affinity via Spatial Propagation Networks",
    authors="Liu, De Mello, Gu, Zhong, Yang, Kautz",
    venue="NIPS 2017",
    year=2017,
    arxiv="1710.01020",
    pins="models/voc_rnn_vgg_v3.prototxt of the authors",
    parameters={21: 134_489_759 + 21_832_565},
    variants=(({"base": None}, {21: 21_832_565}),),
    published={
        "PASCAL VOC 2012 val mIoU, DeepLab VGG16 refined (recalled, not seen in a source)": "73.12 after 68.97",
        "PASCAL VOC 2012 val mIoU, DeepLab ResNet-101 refined (recalled, not seen in a source)": "79.76 after 76.40",
    },
    differences=(
        "The refined network is part of the model and trained with it; freeze_base=True trains the refiner alone, and "
        "base=None is the refiner alone, as the authors count it.",
        "always_divide=False divides the gates only where their sum exceeds 1, which is all that theorem 2 asks.",
    ),
    recipe=dict(
        optimizer="sgd", lr=1e-4, momentum=0.9, weight_decay=5e-3, bias_lr=2.0,
        lr_factors={"guidance.stages": 0.1, "reduce": 0.1}, clip=1000.0, batch_size=40, iterations=60_001,
        schedule="poly", power=0.5, warmup=0.0, class_weights="none", reduction="batch", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=(128, 128), flip=0.5, color=0.0),
    ),
)  # fmt: skip
class SPN(SegmentationModel):
    """A spatial propagation network after a segmentation network.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the image.
        base: The architecture whose scores are refined; None takes the scores as further channels of the input.
        base_options: Its keywords.
        freeze_base: Only the refiner learns.
        channels: That are propagated.
        width: Factor on the guidance network's width; 1 is the authors'.
        always_divide: The gates are divided by the sum of their absolute values everywhere, as in the authors' file.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        base: str | None = "fcn8s",
        base_options: Mapping[str, Any] | None = None,
        freeze_base: bool = False,
        channels: int = 32,
        width: float = 1.0,
        always_divide: bool = True,
    ) -> None:
        super().__init__()
        self.image_channels, self.freeze_base = in_channels, freeze_base
        self.reduce = nn.Conv2d(num_classes, channels, 4, stride=2, padding=1)
        self.guidance = Guidance(in_channels, channels, width, always_divide)
        self.up = _double(channels)
        hidden = scaled(2.0, channels)
        self.refine = nn.Conv2d(channels, hidden, 3, padding=1)
        self.classifier = nn.Conv2d(hidden, num_classes, 3, padding=1)
        for part in (self.reduce, self.guidance, self.refine, self.classifier):
            part.apply(_initialise)
        self.base = None
        if base is not None:
            self.base = create_model(base, num_classes, in_channels=in_channels, **dict(base_options or {}))
            if freeze_base:
                self.base.requires_grad_(False)

    def train(self, mode: bool = True) -> SPN:
        super().train(mode)
        if self.base is not None and self.freeze_base:
            self.base.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        given: dict[str, Tensor] = {}
        if self.base is None:
            images, score = images[:, : self.image_channels], images[:, self.image_channels :]
        else:
            given = self.base(images)
            score = given["out"]
        x, extended = pad_to_multiple(score, 32), pad_to_multiple(images, 32)
        x = self.reduce(x)
        gates = self.guidance(extended)
        for _ in range(2):
            passes = [propagate(x, weights, where) for weights, where in zip(gates, DIRECTIONS, strict=True)]
            x = torch.stack(passes).amax(0)
        refined = self.classifier(F.relu(self.refine(self.up(x))))
        outputs = {"out": crop(refined, 0, images.shape)}
        if self.training and self.base is not None and not self.freeze_base:
            outputs |= {f"base {name}": value for name, value in given.items()}
        return outputs

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return the criterion on the refined scores and, where the base learns with the refiner, the base's own
        objective.
        """
        loss = super().loss(outputs, targets)
        base = {name.removeprefix("base "): value for name, value in outputs.items() if name.startswith("base ")}
        if base and isinstance(self.base, SegmentationModel):
            self.base.criterion = self.criterion
            loss = loss + self.base.loss(base, targets)
        return loss

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["guidance.stages"])


def _double(channels: int) -> nn.ConvTranspose2d:
    """Return the fixed bilinear doubling of each channel by itself."""
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels, bias=False)
    layer.weight = nn.Parameter(bilinear_kernel(4).expand(channels, 1, 4, 4).clone(), requires_grad=False)
    return layer


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        he_normal(module)
