"""SETR: Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers.

Sixiao Zheng, Jiachen Lu, Hengshuang Zhao, Xiatian Zhu, Zekun Luo, Yabiao Wang, Yanwei Fu, Jianfeng Feng, Tao Xiang,
Philip H. S. Torr, Li Zhang. CVPR 2021. arXiv 2012.15840.

Figure 1: a Vision Transformer reads the image as a sequence of 16x16 patches and keeps that resolution to its end; one
of three decoders makes logits of it (section 3.3). Naive: two 1x1 convolutions and one up-sampling. PUP (progressive
up-sampling): four 3x3 convolutions, the size doubled after each. MLA (multi-level aggregation): four layers' maps,
added from the top down, each through convolutions of its own, joined. Auxiliary heads look at earlier layers in
training. Pinned by `configs/SETR/` and `mmseg/models/` of the authors.

The authors count parameters of training models for 150 classes and 512 pixels, with auxiliary heads and with a layer
in every head that nothing uses: `unused_layer=True` has it, so that their printed numbers come out exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.vit import ViT
from segmodels.catalog.registry import register
from segmodels.layers.resize import resize
from segmodels.models.base import SegmentationModel

# What belongs to the authors' decode_head and auxiliary_head.
_HEAD = {"decoder.": 10.0, "streams.": 10.0, "classifier.": 10.0, "aux_heads.": 10.0}
_PAPER: dict[str, Any] = dict(
    small=dict(backbone="test_vit", image_size=64, channels=8),
    paper="Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
    authors="Zheng, Lu, Zhao, Zhu, Luo, Wang, Fu, Feng, Xiang, Torr, Zhang",
    venue="CVPR 2021",
    year=2021,
    arxiv="2012.15840",
    differences=(
        "The auxiliary heads exist in training alone and are counted apart; the authors print them together, with a "
        "layer in every head that nothing uses (unused_layer=True).",
        "The table of positions is for image_size; images of other sizes interpolate it.",
    ),
    backbones=("vit_large_patch16_224", "vit_base_patch16_224", "any plain ViT of timm"),
    recipe=dict(
        optimizer="sgd", lr=1e-3, min_lr=1e-4, momentum=0.9, weight_decay=0.0, batch_size=16, iterations=160_000,
        schedule="poly", power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        lr_factors=_HEAD, augment=dict(scale=(0.5, 2.0), crop=(512, 512), flip=0.5, color=0.4),
    ),
    testing=dict(window=(512, 512), stride=(341, 341)),
)  # fmt: skip
_BASE = {"backbone": "vit_base_patch16_224"}
_POSITIONS = "backbone.body.pos_embed"


class SETR(SegmentationModel):
    """The encoder, the auxiliary heads and the training objective; the decoders are in the subclasses.

    Args:
        backbone: A plain ViT of timm.
        in_channels: Channels of the input.
        image_size: Side of the square image for which the table of positions is made.
        layers: Blocks whose maps are used, counted for 24 blocks.
        class_token: The class token takes part in the blocks.
    """

    training_only: ClassVar = ("aux", "unused")

    def __init__(
        self, backbone: str, in_channels: int, image_size: int, layers: Sequence[int], *, class_token: bool = True
    ) -> None:
        super().__init__()
        self.backbone = ViT(backbone, in_channels, image_size, (), class_token=class_token)
        self.backbone.layers = self._scaled(layers)

    def _scaled(self, layers: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, round(layer * self.backbone.depth / 24)) for layer in layers)

    def _initialise(self, unused: int, classes: int) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("backbone"):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # What the base class of the authors' heads makes, and no head calls.
        self.unused = nn.ModuleList([nn.Conv2d(512, classes, 1).requires_grad_(False) for _ in range(unused)])

    def _outputs(self, images: Tensor, score: Tensor, aux: list[Tensor]) -> dict[str, Tensor]:
        outputs = {"out": resize(score, images.shape)}
        return outputs | {f"aux{i}": resize(x, images.shape) for i, x in enumerate(aux)}

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        translated = super().translate(tensors)
        if _POSITIONS in translated:
            translated[_POSITIONS] = self.backbone.resized(translated[_POSITIONS])
        return translated


class ConvolutionHead(nn.Module):
    """Layer norm, convolutions with batch norm and ReLU, each followed by an up-sampling, and a 1x1 convolution.

    Args:
        before: Channels of the transformer.
        channels: Of the convolutions.
        classes: Number of classes.
        size: Of the kernels before the last one.
        zooms: For each of these convolutions, the factor by which its map is up-sampled.
    """

    def __init__(self, before: int, channels: int, classes: int, size: int, zooms: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(before, eps=1e-6)
        widths = [before, *[channels] * len(zooms)]
        self.convs = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(a, b, size, padding=size // 2), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
                for a, b in itertools.pairwise(widths)
            ]
        )
        self.classifier = nn.Conv2d(channels, classes, 1)
        self.zooms = tuple(zooms)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        for conv, zoom in zip(self.convs, self.zooms, strict=True):
            x = conv(x)
            if zoom > 1:
                x = F.interpolate(x, scale_factor=float(zoom), mode="bilinear", align_corners=False)
        score: Tensor = self.classifier(x)
        return score


@register(
    "setr_naive",
    pins="configs/SETR/SETR_Naive_*.py of the authors; ViT-L/16",
    parameters={150: 304_450_966},
    variants=(({"image_size": 768}, {19: 305_728_019}),),
    training_parameters=(({"unused_layer": True}, {150: 305_669_296}),),
    published={"ADE20K val mIoU": "48.06", "Cityscapes val mIoU, 40k iterations": "77.37"},
    **_PAPER | dict(recipe=_PAPER["recipe"] | dict(lr=1e-2)),
)
class SETRNaive(SETR):
    """SETR-Naive.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: A plain ViT of timm.
        image_size: Side of the square image for which the table of positions is made.
        channels: Of the decoder.
        aux: Auxiliary heads on blocks 10, 15 and 20 of 24 in training.
        unused_layer: The unused layer of the authors' heads.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "vit_large_patch16_224",
        image_size: int = 512,
        channels: int = 256,
        aux: bool = True,
        unused_layer: bool = False,
    ) -> None:
        super().__init__(backbone, in_channels, image_size, (10, 15, 20, 24))
        head = (self.backbone.channels, channels, num_classes, 1, (1,))
        self.decoder = ConvolutionHead(*head)
        self.aux_heads = nn.ModuleList([ConvolutionHead(*head) for _ in range(3 if aux else 0)])
        self._initialise((1 + len(self.aux_heads)) * unused_layer, num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        *early, last = self.backbone(images)
        heads = list(self.aux_heads) if self.training else []
        return self._outputs(images, self.decoder(last), [head(x) for head, x in zip(heads, early, strict=False)])


@register(
    "setr_pup",
    pins="configs/SETR/SETR_PUP_*.py of the authors; ViT-L/16",
    parameters={150: 308_319_894},
    variants=(({"image_size": 768}, {19: 309_596_947}), (_BASE, {150: 90_015_126})),
    training_parameters=(
        ({"unused_layer": True}, {150: 318_307_292}),
        ({"unused_layer": True, **_BASE}, {150: 97_641_180}),
    ),
    published={"ADE20K val mIoU": "48.58", "Cityscapes val mIoU, 80k iterations": "79.34", "Cityscapes test": "81.08"},
    **_PAPER,
)
class SETRPUP(SETR):
    """SETR-PUP.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: A plain ViT of timm.
        image_size: Side of the square image for which the table of positions is made.
        channels: Of the decoder.
        aux: Auxiliary heads on blocks 10, 15, 20 and 24 of 24 in training.
        unused_layer: The unused layer of the authors' heads.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "vit_large_patch16_224",
        image_size: int = 512,
        channels: int = 256,
        aux: bool = True,
        unused_layer: bool = False,
    ) -> None:
        super().__init__(backbone, in_channels, image_size, (10, 15, 20, 24))
        width = self.backbone.channels
        # The size is doubled after each of the four; the last doubling is the one to the image's size.
        self.decoder = ConvolutionHead(width, channels, num_classes, 3, (2, 2, 2, 1))
        self.aux_heads = nn.ModuleList(
            [ConvolutionHead(width, channels, num_classes, 3, (4,)) for _ in range(4 if aux else 0)]
        )
        self._initialise((1 + len(self.aux_heads)) * unused_layer, num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)
        heads = list(self.aux_heads) if self.training else []
        return self._outputs(images, self.decoder(maps[-1]), [head(x) for head, x in zip(heads, maps, strict=False)])


@register(
    "setr_mla",
    pins="configs/SETR/SETR_MLA_*.py of the authors; ViT-L/16",
    parameters={150: 310_030_486},
    variants=(({"image_size": 768}, {19: 310_737_427}), (_BASE, {150: 92_051_862})),
    training_parameters=(
        ({"unused_layer": True}, {150: 310_568_836}),
        ({"unused_layer": True, **_BASE}, {150: 92_590_212}),
    ),
    published={"ADE20K val mIoU": "48.64", "Cityscapes val mIoU, 80k iterations": "77.24"},
    **_PAPER,
)
class SETRMLA(SETR):
    """SETR-MLA.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: A plain ViT of timm.
        image_size: Side of the square image for which the table of positions is made.
        channels: Of the aggregation; the streams after it have half as many.
        aux: Auxiliary heads on the four streams in training.
        unused_layer: The unused layer of the authors' heads.
        class_token: The class token takes part in the blocks; the authors drop it before them.
        align_corners: The streams are up-sampled with their corners aligned, as the authors' are.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "vit_large_patch16_224",
        image_size: int = 512,
        channels: int = 256,
        aux: bool = True,
        unused_layer: bool = False,
        class_token: bool = False,
        align_corners: bool = True,
    ) -> None:
        super().__init__(backbone, in_channels, image_size, (6, 12, 18, 24), class_token=class_token)
        self.align_corners = align_corners
        width, half = self.backbone.channels, channels // 2
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(4)])
        self.reduce = nn.ModuleList([_conv(width, channels, 1) for _ in range(4)])
        self.smooth = nn.ModuleList([_conv(channels, channels, 3) for _ in range(4)])
        self.streams = nn.ModuleList(
            [nn.Sequential(*_conv(channels, half, 3), *_conv(half, half, 3)) for _ in range(4)]
        )
        self.classifier = nn.Conv2d(4 * half, num_classes, 3, padding=1)
        self.aux_heads = nn.ModuleList(
            [nn.Conv2d(channels, num_classes, 1, bias=False) for _ in range(4 if aux else 0)]
        )
        self._initialise((1 + len(self.aux_heads)) * unused_layer, num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = [
            norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(self.norms, self.backbone(images), strict=True)
        ]
        reduced = [reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)]
        # From the top down: each level has all the levels above it.
        for level in (2, 1, 0):
            reduced[level] = reduced[level] + reduced[level + 1]
        levels = [smooth(x) for smooth, x in zip(self.smooth, reduced, strict=True)]
        streams = [
            resize(stream(x), (4 * x.shape[-2], 4 * x.shape[-1]), align_corners=self.align_corners)
            for stream, x in zip(self.streams, levels, strict=True)
        ]
        heads = list(self.aux_heads) if self.training else []
        score = self.classifier(torch.cat(streams, dim=1))
        return self._outputs(images, score, [head(x) for head, x in zip(heads, levels, strict=False)])


def _conv(before: int, after: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
