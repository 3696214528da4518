"""Three-way linear propagation over a map (Learning Affinity via Spatial Propagation Networks, section 3).

Along one axis every place takes a share of its three neighbours in the row or column before it: with weights p_k,
h[t] = (1 - sum_k p_k) x[t] + sum_k p_k h[t - 1, k]. That is a scan: the columns follow one another, but all rows,
channels and images of a column are computed at once. The backward pass is the same scan in the other direction.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Direction = Literal["right", "left", "down", "up"]
DIRECTIONS: tuple[Direction, ...] = ("right", "left", "down", "up")


def propagate(x: Tensor, gates: Tensor, direction: Direction) -> Tensor:
    """Return one pass over the map.

    Args:
        x: `[N, C, H, W]`.
        gates: `[N, 3, C, H, W]`: the weights of the neighbours above, beside and below (left, beside and right) in the
            column (row) before. Weights of neighbours outside the map are not used.
        direction: Where the scan goes.

    Returns:
        `[N, C, H, W]`, at least float32. It cannot explode where the absolute values of a place's weights
        add up to 1 at most.
    """
    # A product along a whole side: bf16's eight bits would not last.
    dtype = torch.promote_types(torch.promote_types(x.dtype, gates.dtype), torch.float32)
    x, gates = x.to(dtype), gates.to(dtype)
    vertical, reverse = direction in ("down", "up"), direction in ("left", "up")
    if vertical:
        x, gates = x.transpose(-1, -2), gates.transpose(-1, -2)
    # Time first, so that every step works on one block of memory: [T, N, C, S].
    values, weights = x.movedim(-1, 0), gates.movedim(-1, 0).movedim(2, 1)
    if reverse:
        values, weights = values.flip(0), weights.flip(0)
    weights = weights * _inside(weights)
    out = scan(values.contiguous(), weights.contiguous())
    if reverse:
        out = out.flip(0)
    out = out.movedim(0, -1)
    return out.transpose(-1, -2) if vertical else out


def normalize_gates(gates: Tensor, *, always: bool = True) -> Tensor:
    """Divide the three weights of a place by the sum of their absolute values.

    Args:
        gates: `[N, 3, C, H, W]`.
        always: As the authors' network does; otherwise only where the sum exceeds 1, which is all that theorem 2 asks.

    Returns:
        The same, at least float32.
    """
    gates = gates.to(torch.promote_types(gates.dtype, torch.float32))
    # The authors' layer takes 1e-6 for a sum that is less.
    return gates / gates.abs().sum(1, keepdim=True).clamp(min=1e-6 if always else 1.0)


def scan(x: Tensor, weights: Tensor) -> Tensor:
    """h[t] = (1 - sum_k p_k[t]) x[t] + sum_k p_k[t] shift_k(h[t - 1]).

    Args:
        x: `[T, N, C, S]`.
        weights: `[T, 3, N, C, S]`, zero where the neighbour lies outside.
    """
    if torch.compiler.is_exporting():
        return _exported(x, weights)
    out: Tensor = _Scan.apply(x, weights)
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        base = (1 - weights.sum(1)) * x
        # A row of zeros on either side stands for the neighbours outside.
        out = F.pad(base, (1, 1))
        for t in range(1, len(out)):
            before, now = out[t - 1], out[t, ..., 1:-1]
            now.addcmul_(weights[t, 0], before[..., :-2])
            now.addcmul_(weights[t, 1], before[..., 1:-1])
            now.addcmul_(weights[t, 2], before[..., 2:])
        ctx.save_for_backward(x, weights, out)
        return out[..., 1:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weights, out = ctx.saved_tensors
        adjoint = F.pad(gradients[0], (1, 1))
        for t in range(len(out) - 2, -1, -1):
            # What place s of the next step took from its neighbours goes back to them.
            taken = F.pad(weights[t + 1] * adjoint[t + 1, ..., 1:-1], (1, 1))
            now = adjoint[t, ..., 1:-1]
            now.add_(taken[0, ..., 2:]).add_(taken[1, ..., 1:-1]).add_(taken[2, ..., :-2])
        adjoint = adjoint[..., 1:-1]
        before = torch.cat([torch.zeros_like(out[:1]), out[:-1]])
        neighbours = torch.stack([before[..., :-2], before[..., 1:-1], before[..., 2:]], dim=1)
        return (1 - weights.sum(1)) * adjoint, adjoint[:, None] * (neighbours - x[:, None])


def _inside(weights: Tensor) -> Tensor:
    """0 where a weight's neighbour lies outside the map, `[T, 3, 1, 1, S]`."""
    steps, size = weights.shape[0], weights.shape[-1]
    place = torch.arange(size, device=weights.device)
    sides = torch.stack([place > 0, place >= 0, place < size - 1])
    later = torch.arange(steps, device=weights.device) > 0
    return (later[:, None, None] & sides[None])[:, :, None, None].to(weights.dtype)


def _exported(x: Tensor, weights: Tensor) -> Tensor:
    """Return the same as one operator with a free number of steps, which an exported model keeps."""
    from torch._higher_order_ops.scan import scan as scan_operator

    base = (1 - weights.sum(1)) * x

    def step(before: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        value, p = now
        padded = F.pad(before, (1, 1))
        value = value + p[0] * padded[..., :-2] + p[1] * padded[..., 1:-1] + p[2] * padded[..., 2:]
        return value, value.clone()

    _, out = scan_operator(step, torch.zeros_like(base[0]), (base, weights), dim=0)
    return out
