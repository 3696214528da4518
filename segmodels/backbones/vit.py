"""The Vision Transformer as an encoder of one stride (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.errors import UnknownModelError
from segmodels.layers.resize import pad_to_multiple


class ViT(nn.Module):
    """timm's blocks on images of any size.

    Args:
        name: timm's name of a plain ViT.
        in_channels: Channels of the input.
        image_size: Side of the square image for which the table of positions is made; it is interpolated for others.
        layers: Numbers of the blocks, from 1, whose results are given.
        class_token: The class token takes part in the blocks; otherwise it is dropped before them.
    """

    def __init__(
        self, name: str, in_channels: int, image_size: int, layers: Sequence[int], *, class_token: bool = True
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise UnknownModelError(f"unknown backbone '{name}'; give a plain ViT such as vit_large_patch16_224")
        self.name, self.options = name, dict(in_chans=in_channels, num_classes=0, img_size=image_size)
        try:
            self.body: Any = timm.create_model(name, **self.options)
        except TypeError:  # convolutional networks take no size
            self.body = None
        if not hasattr(self.body, "blocks") or getattr(self.body, "pos_embed", None) is None:
            raise UnknownModelError(f"backbone {name}: is no plain ViT; give one such as vit_large_patch16_224")
        # What follows the blocks is of classification; every user of the maps has its own norm.
        self.body.norm = self.body.fc_norm = self.body.head = nn.Identity()
        self.stride = int(self.body.patch_embed.patch_size[0])
        self.channels, self.depth = int(self.body.embed_dim), len(self.body.blocks)
        self.tokens = int(self.body.num_prefix_tokens)
        self.grid = image_size // self.stride
        self.layers, self.class_token = tuple(layers), class_token
        if self.tokens and not class_token:
            self.body.cls_token.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return maps `[N, channels, ceil(H / stride), ceil(W / stride)]` after each of the layers."""
        x = self.body.patch_embed.proj(pad_to_multiple(images, self.stride))
        size = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if self.tokens:
            x = torch.cat([self.body.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self._positions(size)
        tokens = self.tokens if self.class_token else 0
        x = self.body.norm_pre(self.body.pos_drop(x[:, self.tokens - tokens :]))
        maps = []
        for number, block in enumerate(self.body.blocks, start=1):
            x = block(x)
            if number in self.layers:
                maps.append(x[:, tokens:].transpose(1, 2).unflatten(2, (size[0], size[1])))
        return maps

    def resized(self, table: Tensor) -> Tensor:
        """Return a table of positions that was made for another image size, for this one's."""
        side = math.isqrt(table.shape[1] - self.tokens)
        return _interpolated(table, self.tokens, side, (self.grid, self.grid))

    def _positions(self, size: torch.Size) -> Tensor:
        table: Tensor = self.body.pos_embed
        if not torch.compiler.is_exporting() and tuple(size) == (self.grid, self.grid):
            return table
        return _interpolated(table, self.tokens, self.grid, (size[0], size[1]))


def _interpolated(table: Tensor, tokens: int, side: int, size: tuple[int, int]) -> Tensor:
    """Return a table `[1, tokens + side * side, C]` at another size; the first `tokens` have no place and stay."""
    own, grid = table[:, :tokens], table[:, tokens:]
    grid = grid.transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    return torch.cat([own, grid.flatten(2).transpose(1, 2)], dim=1)
