"""SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers.

Enze Xie, Wenhai Wang, Zhiding Yu, Anima Anandkumar, Jose M. Alvarez, Ping Luo. NeurIPS 2021. arXiv 2105.15203.

Figure 2: a hierarchical transformer without tables of positions, and a decoder of linear layers alone. Each of the
four stages merges overlapping patches, attends to keys and values of a shrunk map (efficient self-attention, equation
2) and mixes neighbours by a depthwise 3x3 convolution in its feed-forward part, which tells positions apart (Mix-FFN,
equation 3). The decoder brings the four maps to one width and size, joins them and classifies (equation 4). Sizes B0
to B5 are those of table 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel
from segmodels.settings.schema import merge

_PAPER: dict[str, Any] = dict(
    small=dict(widths=[8, 8, 16, 16], depths=[1, 1, 1, 1], heads=[1, 1, 2, 2], channels=16),
    paper="SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    authors="Xie, Wang, Yu, Anandkumar, Alvarez, Luo",
    venue="NeurIPS 2021",
    year=2021,
    arxiv="2105.15203",
    pins="table 6 of the paper",
    recipe=dict(
        optimizer="adamw", lr=6e-5, weight_decay=0.01, decay_biases=True,
        lr_factors={"project": 10.0, "fuse": 10.0, "classifier": 10.0}, batch_size=16, iterations=160_000,
        schedule="poly", power=1.0, warmup=1_500 / 160_000, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(512, 512), flip=0.5, color=0.4),
    ),
)  # fmt: skip
# Of the norms before attention and feed-forward part and at a stage's end; the others have PyTorch's default.
_EPS = 1e-6
_NARROW, _WIDE = dict(widths=(32, 64, 160, 256)), dict(widths=(64, 128, 320, 512))


class EfficientAttention(nn.Module):
    """Section 3.1: multi-head attention whose keys and values come from a map shrunk by `reduction` on each side."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.shrink = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        source = x
        if self.shrink is not None and self.norm is not None:
            source = x.transpose(1, 2).unflatten(2, (height, width))
            source = self.norm(self.shrink(source).flatten(2).transpose(1, 2))
        query, key, value = (
            layer(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        out: Tensor = self.project(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class MixFFN(nn.Module):
    """Equation 3: linear, depthwise 3x3, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.first(x).transpose(1, 2).unflatten(2, (height, width))
        out: Tensor = self.second(F.gelu(self.depthwise(x).flatten(2).transpose(1, 2)))
        return out


class Block(nn.Module):
    """Attention and Mix-FFN, each behind a layer norm and beside the identity."""

    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attention = EfficientAttention(width, heads, reduction)
        self.ffn = MixFFN(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x), height, width))
        out: Tensor = x + self.drop_path(self.ffn(self.norm2(x), height, width))
        return out


class Stage(nn.Module):
    """Overlapped patch merging (section 3.1) and the blocks on it."""

    def __init__(
        self, before: int, width: int, patch: int, stride: int, heads: int, reduction: int, drop_paths: Sequence[float]
    ) -> None:
        super().__init__()
        self.merge = nn.Conv2d(before, width, patch, stride=stride, padding=patch // 2)
        self.merge_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width, heads, reduction, rate) for rate in drop_paths])
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.merge(x)
        height, width = x.shape[-2:]
        x = self.merge_norm(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x, height, width)
        return self.norm(x).transpose(1, 2).unflatten(2, (height, width))


@register(
    "segformer_b0",
    defaults=dict(**_NARROW, depths=(2, 2, 2, 2), channels=256),
    published={"ADE20K val mIoU": "37.4", "Cityscapes val mIoU": "76.2"},
    **_PAPER,
)
@register(
    "segformer_b1",
    defaults=dict(**_WIDE, depths=(2, 2, 2, 2), channels=256),
    published={"ADE20K val mIoU": "42.2", "Cityscapes val mIoU": "78.5"},
    **_PAPER,
)
@register(
    "segformer_b2",
    defaults=dict(**_WIDE, depths=(3, 4, 6, 3), channels=768),
    published={"ADE20K val mIoU": "46.5", "Cityscapes val mIoU": "81.0"},
    **_PAPER,
)
@register(
    "segformer_b3",
    defaults=dict(**_WIDE, depths=(3, 4, 18, 3), channels=768),
    published={"ADE20K val mIoU": "49.4", "Cityscapes val mIoU": "81.7"},
    **_PAPER,
)
@register(
    "segformer_b4",
    defaults=dict(**_WIDE, depths=(3, 8, 27, 3), channels=768),
    published={"ADE20K val mIoU": "50.3", "Cityscapes val mIoU": "82.3"},
    **_PAPER,
)
@register(
    "segformer_b5",
    defaults=dict(**_WIDE, depths=(3, 6, 40, 3), channels=768),
    published={"ADE20K val mIoU": "51.0", "Cityscapes val mIoU": "82.4"},
    **_PAPER | dict(recipe=merge(_PAPER["recipe"], {"augment": {"crop": (640, 640)}})),
)
class SegFormer(SegmentationModel):
    """SegFormer.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        widths: Of the four stages.
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
        channels: Of the decoder.
        drop_path: Probability with which the last block is skipped; the ones before it less, down to 0.
        dropout: Probability before the classifier.
    """

    # transformers' names, in which the authors' weights are published.
    renames: ClassVar = {
        r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj": r"stages.\1.merge",
        r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm": r"stages.\1.merge_norm",
        r"^segformer\.encoder\.layer_norm\.(\d)": r"stages.\1.norm",
        r"^segformer\.encoder\.block\.(\d)\.(\d+)\.": r"stages.\1.blocks.\2.",
        r"\.layer_norm_([12])\.": r".norm\1.",
        r"\.attention\.self\.sr\.": ".attention.shrink.",
        r"\.attention\.self\.layer_norm\.": ".attention.norm.",
        r"\.attention\.self\.": ".attention.",
        r"\.attention\.output\.dense\.": ".attention.project.",
        r"\.mlp\.dense1\.": ".ffn.first.",
        r"\.mlp\.dwconv\.dwconv\.": ".ffn.depthwise.",
        r"\.mlp\.dense2\.": ".ffn.second.",
        r"^decode_head\.linear_c\.(\d)\.proj\.": r"project.\1.",
        r"^decode_head\.linear_fuse\.": "fuse.0.",
        r"^decode_head\.batch_norm\.": "fuse.1.",
        r"^decode_head\.classifier\.": "classifier.",
    }

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        heads: Sequence[int] = (1, 2, 5, 8),
        channels: int = 768,
        drop_path: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        rates = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList()
        before = in_channels
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            patch, stride = (7, 4) if number == 0 else (3, 2)
            mine, rates = rates[:depth], rates[depth:]
            self.stages.append(Stage(before, width, patch, stride, heads[number], 8 >> number, mine))
            before = width
        self.project = nn.ModuleList([nn.Linear(width, channels) for width in widths])
        self.fuse = nn.Sequential(
            nn.Conv2d(4 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        levels = [
            resize(project(x.movedim(1, -1)).movedim(-1, 1), maps[0].shape)
            for project, x in zip(self.project, maps, strict=True)
        ]
        # The deepest first, as in the authors' code.
        score = self.classifier(self.dropout(self.fuse(torch.cat(levels[::-1], dim=1))))
        return {"out": resize(score, images.shape)}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
