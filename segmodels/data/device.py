"""What is left to do for a batch on the device that computes with it: colours of bytes.

A loader that feeds a GPU sends images as uint8, with the map of colours that was drawn for each (`augment.color_map`);
the device multiplies them out. Images that are floats already stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

COLORS, INSIDE = "colors", "inside"


def on_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a batch on the device, its images as normalised float32 `[N, 3, H, W]`.

    Args:
        batch: `image`, uint8 or float `[N, 3, H, W]`, and targets; with uint8 images `colors`, float32 `[N, 3, 4]`, the
            matrix and the offset of each, and where images are padded `inside`, int64 `[N, 4]`: top, left, bottom and
            right of what is no padding, which is 0.
        device: Where it goes.
    """
    moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    colors, inside = moved.pop(COLORS, None), moved.pop(INSIDE, None)
    if colors is None:
        return moved
    image = moved["image"]
    pixels = torch.baddbmm(colors[:, :, 3:], colors[:, :, :3], image.flatten(2).float()).view(image.shape)
    if inside is not None:
        rows = torch.arange(image.shape[-2], device=device)[:, None]
        columns = torch.arange(image.shape[-1], device=device)
        top, left, bottom, right = inside[:, :, None, None].unbind(1)
        there = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        pixels = torch.where(there[:, None], pixels, 0.0)
    return {**moved, "image": pixels}
