"""Fitting sizes: crops, padding to a multiple, bilinear kernels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize(x: Tensor, size: torch.Size | tuple[int, ...], *, align_corners: bool = False) -> Tensor:
    """Bilinear interpolation to `size`'s last two dimensions."""
    return F.interpolate(x, size=tuple(size[-2:]), mode="bilinear", align_corners=align_corners)


def shrink_targets(
    targets: Mapping[str, Tensor], size: torch.Size | tuple[int, ...], *, align_corners: bool = False
) -> dict[str, Tensor]:
    """Return targets at `size`'s last two dimensions, each value that of one pixel.

    Args:
        targets: Name -> `[N, H, W]` or `[N, K, H, W]`.
        size: Of the scores that are compared with them.
        align_corners: The first and the last pixel of a side are those of the scores, and the rest lies evenly between
            them, as Caffe's Interp layer has it; otherwise each is one pixel of its cell.
    """
    return {name: _shrunk(values, size, align_corners) for name, values in targets.items()}


def _shrunk(values: Tensor, size: torch.Size | tuple[int, ...], align_corners: bool) -> Tensor:
    if align_corners:
        rows, columns = (
            torch.linspace(0, before - 1, after, device=values.device, dtype=torch.float64).round().long()
            for before, after in zip(values.shape[-2:], size[-2:], strict=True)
        )
        return values[..., rows[:, None], columns]
    planes = values[:, None] if values.ndim == 3 else values
    taken = F.interpolate(planes.float(), size=tuple(size[-2:]), mode="nearest").to(values.dtype)
    return taken[:, 0] if values.ndim == 3 else taken


def grid_means(x: Tensor, grid: int | tuple[int, int]) -> Tensor:
    """Means over a grid of cells, as `adaptive_avg_pool2d`'s, which may overlap.

    Args:
        x: `[N, C, H, W]`.
        grid: Rows and columns of cells; a single number stands for both.
    """
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, grid)
    # ONNX would keep the size of the cells; as products of matrices they follow the size of the map.
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    return _cells(x, x.shape[-2], rows) @ x @ _cells(x, x.shape[-1], columns).T


def window_means(x: Tensor, rows: tuple[int, int, int], columns: tuple[int, int, int]) -> Tensor:
    """Return the means over windows that may overlap.

    Args:
        x: `[N, C, H, W]`.
        rows: How many windows there are, the size of each and the step between them, which may be 0.
        columns: The same.
    """
    return _windows(x, x.shape[-2], *rows) @ x @ _windows(x, x.shape[-1], *columns).T


def _windows(x: Tensor, length: int, count: int, size: int, step: int) -> Tensor:
    """Return each place's weight in the mean of each window, `[count, length]`."""
    first = torch.arange(count, device=x.device)[:, None] * step
    place = torch.arange(length, device=x.device)[None]
    inside = (place >= first) & (place < first + size)
    return inside.to(x.dtype) / inside.sum(1, keepdim=True)


def _cells(x: Tensor, length: int, side: int) -> Tensor:
    """Return each place's weight in the mean of each cell, `[side, length]`."""
    cell, place = torch.arange(side, device=x.device)[:, None], torch.arange(length, device=x.device)[None]
    inside = (place >= cell * length // side) & (place < ((cell + 1) * length + side - 1) // side)
    return inside.to(x.dtype) / inside.sum(1, keepdim=True)


def crop(x: Tensor, offset: int, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Return the window of `size`'s last two dimensions that begins `offset` pixels from the top left."""
    height, width = size[-2], size[-1]
    if torch.compiler.is_exporting():
        # A slice's strides tell whether it took everything, and the exported model would keep the answer.
        rows, columns = (torch.arange(n, device=x.device) + offset for n in (height, width))
        return x[..., rows[:, None], columns]
    return x[..., offset : offset + height, offset : offset + width]


def center_crop(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Return the central window of `size`'s last two dimensions."""
    height, width = size[-2], size[-1]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    if torch.compiler.is_exporting():  # As in `crop`.
        rows = torch.arange(height, device=x.device) + top
        return x[..., rows[:, None], torch.arange(width, device=x.device) + left]
    return x[..., top : top + height, left : left + width]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples of `multiple`."""
    if not torch.compiler.is_exporting():
        bottom, right = (-size % multiple for size in x.shape[-2:])
        if not bottom and not right:
            return x
        if not x.requires_grad:
            return F.pad(x, (0, right, 0, bottom), mode="replicate")
    # F.pad decides by the amount, and an exported model would keep the decision; its gradient is not deterministic on a
    # GPU.
    rows, columns = (
        torch.arange((size + multiple - 1) // multiple * multiple, device=x.device).clamp(max=size - 1)
        for size in x.shape[-2:]
    )
    return x[..., rows[:, None], columns]


def mirror_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Extend an image by mirroring, also beyond its own size (where `F.pad` refuses to reflect)."""
    return _mirror(_mirror(x, -2, top, bottom), -1, left, right)


def _mirror(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    size = x.shape[dim]
    period = 2 * (size - 1)
    index = (torch.arange(-before, size + after, device=x.device) % period).abs()
    return x.index_select(dim, torch.where(index < size, index, period - index))


def bilinear_kernel(size: int) -> Tensor:
    """Return the `[size, size]` kernel with which a transposed convolution of stride `size / 2` interpolates
    bilinearly.
    """
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    line = 1 - (torch.arange(size, dtype=torch.float32) - center).abs() / factor
    return line[:, None] * line[None, :]


def bilinear_upsampling(channels: int, kernel_size: int, stride: int) -> nn.ConvTranspose2d:
    """Return a bias-free transposed convolution that begins as, and stays, bilinear interpolation of each channel.

    FCN keeps it fixed (learning rate 0); its weights are stored all the same, as in the original.
    """
    layer = nn.ConvTranspose2d(channels, channels, kernel_size, stride=stride, bias=False)
    weight = torch.zeros(channels, channels, kernel_size, kernel_size)
    diagonal = torch.arange(channels)
    weight[diagonal, diagonal] = bilinear_kernel(kernel_size)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
