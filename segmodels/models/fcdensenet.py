"""FC-DenseNet: The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic Segmentation.

Simon Jégou, Michal Drozdzal, David Vazquez, Adriana Romero, Yoshua Bengio. CVPR Workshops 2017. arXiv 1611.09326.

Figure 1: dense blocks, in which each layer (batch norm, ReLU, 3x3 convolution, dropout: table 1a) sees all maps before
it, joined by transitions down and up. On the way up only a block's new maps are up-sampled, so that the number of
channels stays bounded (section 3.2). Pinned by the authors' `FC-DenseNet.py` and `layers.py`.

The published figures take batch statistics in testing, too: `batch_statistics=True` does. `efficient=True` keeps only
what each dense layer and transition produces and computes the rest again in the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segmodels.catalog.registry import register
from segmodels.layers.norm import PooledBatchNorm2d
from segmodels.layers.resize import center_crop
from segmodels.models.base import SegmentationModel

_PAPER: dict[str, Any] = dict(
    small=dict(growth_rate=2, first=4, layers=[1] * 11),
    paper="The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic Segmentation",
    authors="Jégou, Drozdzal, Vazquez, Romero, Bengio",
    venue="CVPR Workshops 2017",
    year=2017,
    arxiv="1611.09326",
    pins="FC-DenseNet.py, layers.py and config/ of the authors",
    recipe=dict(
        optimizer="rmsprop_lasagne", lr=1e-3, weight_decay=2e-4, batch_size=3, epochs=750, early_stop=150,
        schedule="step", step_epochs=1, step_factor=0.995, warmup=0.0, class_weights="none",
        loss={"cross_entropy": 1.0}, augment=dict(scale=(1.0, 1.0), crop=(224, 224), flip=0.5, color=0.0),
        stages=({}, dict(lr=1e-4, early_stop=50, augment=dict(crop=None))),
    ),
)  # fmt: skip
_STATISTICS = (
    "The published figures take the batch's statistics in testing; here that is batch_statistics=True with a batch of "
    "ten, and the default takes the running averages, so that an image's result does not depend on its neighbours."
)


@register(
    "fcdensenet56",
    defaults=dict(growth_rate=12, layers=(4,) * 11),
    parameters={11: 1_376_795},
    published={"CamVid test mIoU": "58.9"},
    differences=(
        "The paper prints 1.5 M parameters; its code has 1.38 M, 1.40 M with running statistics.",
        _STATISTICS,
    ),
    **_PAPER,
)
@register(
    "fcdensenet67",
    defaults=dict(growth_rate=16, layers=(5,) * 11),
    parameters={11: 3_463_243},
    published={"CamVid test mIoU": "65.8"},
    differences=(_STATISTICS,),
    **_PAPER,
)
@register(
    "fcdensenet103",
    defaults=dict(growth_rate=16, layers=(4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)),
    parameters={11: 9_322_091, 12: 9_322_348, 19: 9_324_147},
    published={"CamVid test mIoU": "66.9", "Gatech test pixel accuracy (recalled, not seen in a source)": "79.4"},
    differences=("The paper's 9.4 M parameters count the running statistics, too.", _STATISTICS),
    **_PAPER,
)
class FCDenseNet(SegmentationModel):
    """FC-DenseNet.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        growth_rate: Maps that each dense layer adds.
        layers: Of each dense block: as many down as up, one between them.
        first: Maps of the first convolution.
        dropout: Probability after every convolution of the dense layers and the transitions down.
        norm_eps: Of batch norm; 1e-4 is Lasagne's.
        batch_statistics: Batch norm takes the batch's statistics in evaluation, too.
        efficient: Computes dense layers and transitions down again in the backward pass in place of keeping them.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        growth_rate: int = 16,
        layers: Sequence[int] = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4),
        first: int = 48,
        dropout: float = 0.2,
        norm_eps: float = 1e-4,
        batch_statistics: bool = False,
        efficient: bool = False,
    ) -> None:
        super().__init__()
        if len(layers) % 2 == 0:
            raise ValueError(f"layers has {len(layers)} blocks; there are as many down as up, and one between them")
        depth = len(layers) // 2
        self.efficient = efficient
        self.first = nn.Conv2d(in_channels, first, 3, padding=1)
        channels, skips = first, []
        self.down, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        for count in layers[:depth]:
            self.down.append(DenseBlock(channels, growth_rate, count, dropout, efficient))
            channels += count * growth_rate
            skips.append(channels)
            self.transitions_down.append(TransitionDown(channels, dropout))
        self.bottleneck = DenseBlock(channels, growth_rate, layers[depth], dropout, efficient)
        new = layers[depth] * growth_rate
        self.up, self.transitions_up = nn.ModuleList(), nn.ModuleList()
        for count in layers[depth + 1 :]:
            self.transitions_up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            channels = new + skips.pop()
            self.up.append(DenseBlock(channels, growth_rate, count, dropout, efficient))
            new = count * growth_rate
        self.classifier = nn.Conv2d(channels + new, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, BatchNorm):
                module.batch_statistics, module.eps = batch_statistics, norm_eps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.first(images)
        skips = []
        for block, transition in zip(self.down, self.transitions_down, strict=True):
            x = torch.cat([x, block(x)], dim=1)
            skips.append(x)
            x = _recomputed(transition, x) if self.efficient and self.training else transition(x)
        new = self.bottleneck(x)
        for transition, block in zip(self.transitions_up, self.up, strict=True):
            skip = skips.pop()
            x = torch.cat([center_crop(transition(new), skip.shape), skip], dim=1)
            new = block(x)
        return {"out": self.classifier(torch.cat([x, new], dim=1))}


class BatchNorm(PooledBatchNorm2d):
    """Batch norm that can take the batch's statistics in evaluation and leave its own alone when computed again."""

    batch_statistics = False
    computed_again = False

    def forward(self, x: Tensor) -> Tensor:
        single = x.shape[0] * x.shape[2] * x.shape[3] == 1
        if not single and self.batch_statistics and not self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if not single and self.computed_again and self.running_mean is not None and self.running_var is not None:
            # Copies, not None: the second pass must keep as many tensors as the first.
            mean, var = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


class DenseLayer(nn.Module):
    """Table 1a: batch norm, ReLU, 3x3 convolution, dropout."""

    def __init__(self, channels: int, growth_rate: int, dropout: float) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.conv = nn.Conv2d(channels, growth_rate, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *maps: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.conv(F.relu(self.norm(torch.cat(maps, dim=1)), inplace=True)))
        return out


class DenseBlock(nn.Module):
    """Figure 2: each layer sees the input and what all layers before it gave; the block gives the new maps alone."""

    def __init__(self, channels: int, growth_rate: int, count: int, dropout: float, efficient: bool) -> None:
        super().__init__()
        self.efficient = efficient
        self.layers = nn.ModuleList(
            [DenseLayer(channels + number * growth_rate, growth_rate, dropout) for number in range(count)]
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(_recomputed(layer, *maps) if self.efficient and self.training else layer(*maps))
        return torch.cat(maps[1:], dim=1)


class TransitionDown(nn.Module):
    """Table 1b: batch norm, ReLU, 1x1 convolution, dropout, 2x2 max pooling."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.dropout(self.conv(F.relu(self.norm(x), inplace=True))), 2)


def _recomputed(layer: nn.Module, *maps: Tensor) -> Tensor:
    """Return the layer's result; joining, normalising and dropping out are done once more in the backward pass."""
    out: Tensor = checkpoint(
        layer, *maps, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _again(layer))
    )
    return out


@contextlib.contextmanager
def _again(layer: nn.Module) -> Iterator[None]:
    """Where a layer is computed for the second time: its running statistics have seen the batch already."""
    norms = [module for module in layer.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.computed_again = True
    try:
        yield
    finally:
        for norm in norms:
            norm.computed_again = False
