"""DeepLab v1: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs.

Liang-Chieh Chen, George Papandreou, Iasonas Kokkinos, Kevin Murphy, Alan L. Yuille. ICLR 2015. arXiv 1412.7062.

DeepLab-LargeFOV: VGG16 whose pools are 3x3, the last two without stride, the fifth stage dilated by 2; fc6 is a 3x3
convolution dilated by 12, so that it sees 224 pixels with few weights (section 3.2, table 2). Scores at stride 8 are
compared with labels of that size; in testing they are up-sampled and refined by the fully connected CRF
(`crf` in the settings of evaluation; `segmodels tune-crf` searches its weights as section 4 does).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vgg import convolutions, from_torchvision, scaled, vgg16_stages
from segmodels.catalog.registry import register
from segmodels.layers.init import gaussian, he_normal
from segmodels.layers.resize import resize, shrink_targets
from segmodels.models.base import SegmentationModel, Targets


class Stride8(nn.Module):
    """VGG16 whose pools are 3x3, the last two without stride, and whose fifth stage is dilated by 2 (section 3.1).

    Args:
        in_channels: Channels of the input.
        width: Factor on every layer's width.
    """

    def __init__(self, in_channels: int, *, width: float = 1.0) -> None:
        super().__init__()
        stages = vgg16_stages(width)
        before = [in_channels, *[stage[-1] for stage in stages]]
        self.stages = nn.ModuleList(
            [
                convolutions([first, *stage], dilation=2 if number == 5 else 1)
                for number, (first, stage) in enumerate(zip(before, stages, strict=False), start=1)
            ]
        )
        self.channels = stages[-1][-1]

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for number, stage in enumerate(self.stages, start=1):
            x = F.max_pool2d(stage(x), 3, stride=2 if number <= 3 else 1, padding=1, ceil_mode=True)
        return F.avg_pool2d(x, 3, stride=1, padding=1)


class LargeFOV(nn.Module):
    """The trunk with fc6, dilated so that it sees 224 pixels, and fc7; ParseNet stands on it, too.

    Args:
        in_channels: Channels of the input.
        width: Factor on every layer's width.
        dilation: Of fc6.
        dropout: Probability after fc6 and fc7.
    """

    def __init__(self, in_channels: int, *, width: float = 1.0, dilation: int = 12, dropout: float = 0.5) -> None:
        super().__init__()
        self.vgg = Stride8(in_channels, width=width)
        self.channels = scaled(width, 1024)
        self.fc6 = nn.Conv2d(self.vgg.channels, self.channels, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(self.channels, self.channels, 1)
        self.drop6, self.drop7 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        x = self.drop6(F.relu(self.fc6(self.vgg(images))))
        out: Tensor = self.drop7(F.relu(self.fc7(x)))
        return out


@register(
    "deeplabv1",
    small=dict(width=0.04),
    paper="Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs",
    authors="Chen, Papandreou, Kokkinos, Murphy, Yuille",
    venue="ICLR 2015",
    year=2015,
    arxiv="1412.7062",
    pins="DeepLab-LargeFOV, voc12/config/vgg128_noup/train.prototxt of the authors (read from a mirror)",
    parameters={21: 20_505_429, 11: 20_495_179, 19: 20_503_379},
    published={
        "PASCAL VOC 2012 val mIoU": "62.25",
        "PASCAL VOC 2012 val mIoU, with CRF": "67.64",
        "PASCAL VOC 2012 test mIoU, with CRF": "70.3",
        "CamVid test mIoU, as the FC-DenseNet paper lists it": "61.6",
    },
    differences=("The CRF belongs to testing, not to the network: `evaluate: {crf: {}}` or `predict --crf`.",),
    recipe=dict(
        optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, bias_lr=2.0, lr_factors={"classifier.": 10.0},
        batch_size=30, iterations=6_000, schedule="step", milestones=(2_000, 4_000), step_factor=0.1, warmup=0.0,
        class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(1.0, 1.0), crop=(321, 321), flip=0.5, color=0.0),
    ),
    testing=dict(crf=dict(spatial_weight=3.0, spatial_xy=3.0, iterations=10)),
)  # fmt: skip
class DeepLabV1(SegmentationModel):
    """DeepLab-LargeFOV on VGG16.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        width: Factor on every layer's width; 1 is the paper's.
        dilation: Of fc6: 12 is LargeFOV.
        dropout: Probability after fc6 and fc7.
        align_corners: Scores and image have their outermost pixels in common, as in the authors' files: pools that pad
            put place i of the scores onto pixel 8 i.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        width: float = 1.0,
        dilation: int = 12,
        dropout: float = 0.5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.trunk = LargeFOV(in_channels, width=width, dilation=dilation, dropout=dropout)
        self.trunk.apply(he_normal)
        self.classifier = gaussian(nn.Conv2d(self.trunk.channels, num_classes, 1), 0.01)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        score = self.classifier(self.trunk(images))
        outputs = {"out": resize(score, images.shape, align_corners=self.align_corners)}
        return outputs | {"score": score} if self.training else outputs

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return cross-entropy at stride 8, against labels of that size (section 3.3)."""
        score = outputs["score"]
        loss: Tensor = self.criterion(score, shrink_targets(targets, score.shape, align_corners=self.align_corners))
        return loss

    imagenet = "VGG16_Weights.IMAGENET1K_V1"

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_torchvision(super().translate(tensors), self, ["trunk.vgg"])
