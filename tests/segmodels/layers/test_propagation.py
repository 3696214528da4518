"""Three-way propagation against the recurrence written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmodels.layers.propagation import DIRECTIONS, Direction, normalize_gates, propagate

every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def inputs(n: int = 2, c: int = 3, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, width, dtype=torch.float64, generator=generator)
    gates = torch.randn(n, 3, c, height, width, dtype=torch.float64, generator=generator)
    return x, normalize_gates(gates)


def pixel_by_pixel(x: Tensor, gates: Tensor, direction: Direction) -> Tensor:
    """h = (1 - sum p) x + sum p h(neighbour), for one pixel after the other; neighbours outside count for nothing."""
    rows, columns = {"right": (0, -1), "left": (0, 1), "down": (-1, 0), "up": (1, 0)}[direction]
    height, width = x.shape[-2:]
    h = torch.zeros_like(x)
    places = [(i, j) for i in range(height) for j in range(width)]
    # In the order of the scan, a whole column (row) before the next.
    for i, j in sorted(places, key=lambda place: -rows * place[0] - columns * place[1]):
        value = x[..., i, j].clone()
        for k, side in enumerate((-1, 0, 1)):
            a, b = (i + side, j + columns) if rows == 0 else (i + rows, j + side)
            if 0 <= a < height and 0 <= b < width:
                value += gates[:, k, :, i, j] * (h[..., a, b] - x[..., i, j])
        h[..., i, j] = value
    return h


@every_direction
def test_the_scan_is_the_recurrence(direction: Direction) -> None:
    x, gates = inputs()
    torch.testing.assert_close(propagate(x, gates, direction), pixel_by_pixel(x, gates, direction))


@every_direction
def test_its_gradients_are_those_of_the_recurrence(direction: Direction) -> None:
    x, gates = inputs(1, 2, 3, 4)
    arguments = (x.requires_grad_(), gates.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: propagate(a, b, direction), arguments)


@every_direction
def test_a_pixel_reaches_what_lies_in_the_direction_of_the_scan_and_nothing_else(direction: Direction) -> None:
    gates = torch.full((1, 3, 1, 9, 9), 0.2)
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 1
    reached = propagate(x, gates, direction)[0, 0] != 0
    away = torch.arange(9) - 4
    ahead = {"right": away[None, :], "left": -away[None, :], "down": away[:, None], "up": -away[:, None]}[direction]
    aside = away[:, None] if direction in ("right", "left") else away[None, :]
    # A cone of 45 degrees: one row to either side for each column.
    assert torch.equal(reached, aside.abs() <= ahead)


def test_weights_of_a_place_are_scaled_to_one() -> None:
    gates = torch.tensor([[0.5, -1.5, 2.0], [0.1, -0.2, 0.2], [0.0, 0.0, 0.0]]).T[None, :, None, None]
    # Liusifei/caffe-spn, models/voc_rnn_vgg_v3.prototxt: norm_divide_gate1_x1 divides always.
    expected = torch.tensor([[0.125, -0.375, 0.5], [0.2, -0.4, 0.4], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(normalize_gates(gates)[0, :, 0, 0].T, expected)
    # Theorem 2 of the paper asks for it only where they exceed one.
    expected = torch.tensor([[0.125, -0.375, 0.5], [0.1, -0.2, 0.2], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(normalize_gates(gates, always=False)[0, :, 0, 0].T, expected)


@every_direction
def test_normalised_weights_of_any_size_do_not_explode_over_a_thousand_steps(direction: Direction) -> None:
    torch.manual_seed(0)
    shape = (2, 1000) if direction in ("right", "left") else (1000, 2)
    gates = normalize_gates(100 * torch.randn(1, 3, 4, *shape))
    assert gates.abs().sum(1).max() <= 1 + 1e-5
    x = torch.zeros(1, 4, *shape)
    x[..., 0, 0] = x[..., -1, -1] = 1
    # A place's own share is at most 2 times its value (weights that sum to -1); what is handed on never grows.
    assert propagate(x, gates, direction).abs().max() <= 2 + 1e-4


def test_weights_that_sum_to_one_keep_no_share_of_the_place_itself() -> None:
    x, _ = inputs(1, 1, 4, 6)
    gates = torch.zeros(1, 3, 1, 4, 6, dtype=torch.float64)
    gates[:, 1] = 1
    # Every column is handed on whole, so all are the first.
    torch.testing.assert_close(propagate(x, gates, "right"), x[..., :1].expand_as(x))
    torch.testing.assert_close(propagate(x, gates, "up"), x[..., -1:, :].expand_as(x))


@every_direction
def test_the_exported_scan_is_the_eager_one_at_other_sizes(direction: Direction) -> None:
    class Propagation(nn.Module):
        def forward(self, x: Tensor, gates: Tensor) -> Tensor:
            return propagate(x, gates, direction)

    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        Propagation(), inputs(), dynamic_shapes=({0: auto, 2: auto, 3: auto}, {0: auto, 3: auto, 4: auto}), strict=True
    )
    for n, height, width in ((1, 9, 4), (3, 6, 13)):
        x, gates = inputs(n, 3, height, width)
        torch.testing.assert_close(program.module()(x, gates), propagate(x, gates, direction))
