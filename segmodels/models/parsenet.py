"""ParseNet: Looking Wider to See Better.

Wei Liu, Andrew Rabinovich, Alexander C. Berg. ICLR 2016 workshop. arXiv 1506.04579.

Figure 1: the mean of the whole map, un-pooled to every place, is joined with the map itself. The two differ in scale
by far, so each is first normalised to length 1 at every place and multiplied by a learned factor for each channel
(section 3.3, equations 1 to 3). The trunk is DeepLab-LargeFOV (section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import from_torchvision
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel
from segmodels.models.deeplabv1 import LargeFOV


class L2Norm(nn.Module):
    """Equations 1 to 3: length 1 over the channels at every place, times a learned factor for each channel."""

    def __init__(self, channels: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.normalize(x, dim=1) * self.weight[:, None, None]


@register(
    "parsenet",
    small=dict(width=0.04),
    paper="ParseNet: Looking Wider to See Better",
    authors="Liu, Rabinovich, Berg",
    venue="ICLR 2016 workshop",
    year=2015,
    arxiv="1506.04579",
    pins="sections 3.2 and 3.3 of the paper on DeepLab-LargeFOV; the authors' model file is not in their repository",
    parameters={21: 20_528_981},
    published={"PASCAL VOC 2012 test mIoU": "69.8", "PASCAL Context mIoU": "40.4"},
    differences=(
        "The layout around the trunk is read from the text: no file of the authors pins it, so the number of "
        "parameters is that of this reading.",
        "The factors of the norm begin at 10, as recalled, not as seen in a source.",
    ),
    unconfirmed=("The authors' published model has not been read: another's network has its layers.",),
    recipe=dict(
        optimizer="sgd", lr=1e-9, momentum=0.9, weight_decay=5e-4, bias_lr=2.0, batch_size=8, iterations=20_000,
        schedule="poly", power=0.9, warmup=0.0, class_weights="none", reduction="batch", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.5, color=0.0),
    ),
)  # fmt: skip
class ParseNet(SegmentationModel):
    """ParseNet on DeepLab-LargeFOV.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Factor on every layer's width; 1 is the paper's.
        dropout: Probability after fc6 and fc7.
        align_corners: Scores and image have their outermost pixels in common, as the trunk's pools put them.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        width: float = 1.0,
        dropout: float = 0.5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.trunk = LargeFOV(in_channels, width=width, dropout=dropout)
        self.norm_local, self.norm_global = L2Norm(self.trunk.channels), L2Norm(self.trunk.channels)
        self.classifier = nn.Conv2d(2 * self.trunk.channels, num_classes, 1)
        self.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        local = self.trunk(images)
        pool6 = local.mean((2, 3), keepdim=True).expand_as(local)
        x = torch.cat([self.norm_local(local), self.norm_global(pool6)], dim=1)
        return {"out": resize(self.classifier(x), images.shape, align_corners=self.align_corners)}

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["trunk.vgg"])
