"""RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation.

Guosheng Lin, Anton Milan, Chunhua Shen, Ian Reid. CVPR 2017. arXiv 1611.06612.

Figure 2c: four blocks, from the coarsest map of a ResNet to the finest; each takes the map of its stage and what the
block below gave. Figure 3, a block: residual convolution units adapt each input, the inputs are fused at the finer
size, chained residual pooling gathers context, residual convolution units finish. There is no batch norm in it.

The text's blocks pool twice and finish with one unit (`pools=2, output_units=1`); the released models, whose figures
are the published ones, pool four times and finish with three: the default.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.catalog.registry import register
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel


class ResidualConvUnit(nn.Module):
    """Figure 3b: ReLU, 3x3 convolution, ReLU, 3x3 convolution, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class ChainedResidualPooling(nn.Module):
    """Figure 3d: each pool works on what the pool before it gave; all are added to the input."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(pools)])

    def forward(self, x: Tensor) -> Tensor:
        x = pooled = F.relu(x)
        for conv in self.convs:
            pooled = conv(F.max_pool2d(pooled, 5, stride=1, padding=2))
            x = x + pooled
        return x


class RefineBlock(nn.Module):
    """Figure 3a, for a stage's map and, but for the coarsest block, what the block below gave.

    Args:
        in_channels: Of the stage's map.
        channels: Of the block.
        below: Whether there is a block below; it has been brought to this block's channels.
        after: Channels for the block above; None keeps this block's.
        pools: Of the chained residual pooling.
        output_units: Residual convolution units at the end.
    """

    def __init__(
        self, in_channels: int, channels: int, *, below: bool, after: int | None, pools: int, output_units: int
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.adapt = nn.Sequential(*[ResidualConvUnit(channels) for _ in range(2)])
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1, bias=False) if below else None
        self.pooling = ChainedResidualPooling(channels, pools)
        self.output = nn.Sequential(*[ResidualConvUnit(channels) for _ in range(output_units)])
        # The fusion's convolution of this block's result, which belongs to the block above in figure 3c.
        self.onward = nn.Conv2d(channels, after, 3, padding=1, bias=False) if after else nn.Identity()

    def forward(self, stage: Tensor, below: Tensor | None = None) -> Tensor:
        x = self.adapt(self.reduce(stage))
        if below is not None and self.fuse is not None:
            x = self.fuse(x) + resize(below, x.shape, align_corners=True)
        out: Tensor = self.onward(self.output(self.pooling(x)))
        return out


@register(
    "refinenet",
    small=dict(backbone="test_resnet", channels=8, deep_channels=16),
    paper="RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation",
    authors="Lin, Milan, Shen, Reid",
    venue="CVPR 2017",
    year=2017,
    arxiv="1611.06612",
    pins="the released models as DrSleep/refinenet-pytorch ports them: four pools, three output units",
    parameters={21: 118_052_437, 19: 118_047_827},
    variants=(
        ({"backbone": "resnet50"}, {21: 99_060_309}),
        ({"backbone": "resnet152"}, {21: 133_696_085, 150: 133_993_430}),
    ),
    published={
        "PASCAL VOC 2012 test mIoU, ResNet-152": "83.4",
        "Cityscapes test mIoU, ResNet-101": "73.6",
        "ADE20K val mIoU, ResNet-152": "40.7",
    },
    differences=("pools=2, output_units=1 is the configuration of the paper's text.",),
    backbones=("resnet50", "resnet101", "resnet152", "any backbone with maps at strides 4 to 32"),
    unconfirmed=("The authors' MatConvNet graph has not been run: a port that loads its weights stands for it.",),
    recipe=dict(
        optimizer="sgd", lr=5e-4, momentum=0.9, weight_decay=5e-4, lr_factors={"backbone.": 0.1}, batch_size=1,
        epochs=70, schedule="constant", warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.7, 1.3), crop=(400, 400), flip=0.5, color=0.0), stages=({}, dict(lr=5e-5, epochs=30)),
    ),
    testing=dict(scales=(0.4, 0.6, 0.8, 1.0, 1.2)),
)  # fmt: skip
class RefineNet(SegmentationModel):
    """RefineNet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder; its maps at strides 4, 8, 16 and 32 are refined.
        pools: Of each block's chained residual pooling.
        output_units: Residual convolution units at each block's end.
        channels: Of the blocks.
        deep_channels: Of the coarsest block.
        dropout: Probability on the two coarsest maps and before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        pools: int = 4,
        output_units: int = 3,
        channels: int = 256,
        deep_channels: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, in_channels=in_channels)
        self.levels = [self.backbone.last(stride) for stride in (4, 8, 16, 32)]
        self.backbone.keep(*self.levels)
        c1, c2, c3, c4 = (self.backbone.channels[level] for level in self.levels)
        form = {"pools": pools, "output_units": output_units}
        self.block4 = RefineBlock(c4, deep_channels, below=False, after=channels, **form)
        self.block3 = RefineBlock(c3, channels, below=True, after=channels, **form)
        self.block2 = RefineBlock(c2, channels, below=True, after=channels, **form)
        self.block1 = RefineBlock(c1, channels, below=True, after=None, **form)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 3, padding=1)
        for block in (self.block4, self.block3, self.block2, self.block1, self.classifier):
            block.apply(_small_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)
        l1, l2, l3, l4 = (maps[level] for level in self.levels)
        x = self.block4(self.dropout(l4))
        x = self.block3(self.dropout(l3), x)
        x = self.block2(l2, x)
        x = self.block1(l1, x)
        return {"out": resize(self.classifier(self.dropout(x)), images.shape)}


def _small_normal(module: nn.Module) -> None:
    """Residual sums without norm: small weights keep their sum at the size of the input."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
