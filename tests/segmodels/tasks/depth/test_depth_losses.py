"""Losses of log depth: what they ignore, and what they are on maps that one can compute by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segmodels.tasks.depth import losses

IMAGE = torch.zeros(2, 3, 20, 24)
DEPTH = torch.rand(2, 20, 24, generator=torch.Generator().manual_seed(0)) * 9 + 1


def given(depth: Tensor, image: Tensor = IMAGE) -> dict[str, Tensor]:
    return {"depth": depth, "image": image}


def log(depth: Tensor) -> Tensor:
    return depth.log()[:, None]


@pytest.mark.parametrize("name", ["silog", "scale_invariant", "squared_gradient", "gradient"])
def test_the_truth_costs_nothing(name: str) -> None:
    assert losses.TERMS[name]()(log(DEPTH), given(DEPTH)).item() == pytest.approx(0, abs=1e-6)


def test_a_wrong_scale_costs_half_of_its_square_or_nothing() -> None:
    twice = log(2 * DEPTH)
    assert losses.TERMS["silog"]()(twice, given(DEPTH)).item() == pytest.approx(0.5 * math.log(2) ** 2)
    for free in ("scale_invariant", "squared_gradient", "gradient"):
        assert losses.TERMS[free]()(twice, given(DEPTH)).item() == pytest.approx(0, abs=1e-6)


def test_each_image_has_its_own_scale() -> None:
    depth = torch.cat([DEPTH[:1], 3 * DEPTH[1:]])
    assert losses.TERMS["scale_invariant"]()(log(DEPTH), given(depth)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["silog", "scale_invariant", "squared_gradient", "gradient"])
def test_pixels_without_a_depth_count_nowhere(name: str) -> None:
    term = losses.TERMS[name]()
    hole, other = DEPTH.clone(), log(DEPTH).clone() + 0.1 * torch.randn(2, 1, 20, 24)
    hole[:, 3:9, 4:10] = 0
    before = term(other, given(hole))
    other[:, :, 3:9, 4:10] = 7.0
    assert torch.equal(term(other, given(hole)), before)


@pytest.mark.parametrize("name", list(losses.TERMS))
def test_a_batch_without_any_depth_has_finite_gradients(name: str) -> None:
    maps = torch.randn(2, 1, 20, 24, requires_grad=True)
    losses.TERMS[name]()(maps, given(torch.zeros_like(DEPTH))).backward()
    assert maps.grad is not None and maps.grad.isfinite().all()


def test_the_gradient_term_is_what_the_file_computes() -> None:
    """One row of differences over two pixels, at every scale at which there are some."""
    truth = torch.ones(1, 1, 8).exp()  # log depth 1 everywhere
    predicted = torch.arange(8.0).view(1, 1, 1, 8)
    # Scale k has every 2^k-th pixel: differences over two of them are 2 * 2^k, while three pixels are left.
    term = losses.TERMS["gradient"]()(predicted, {"depth": truth, "image": torch.zeros(1, 3, 1, 8)})
    assert term.item() == pytest.approx(2 + 4)


def test_squared_slopes_of_the_error_are_means_over_pairs_that_are_known() -> None:
    """Two rows of three pixels, of which the last of the second has no depth."""
    error = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 9.0]])
    truth = torch.tensor([[2.0, 5.0, 7.0], [1.0, 3.0, 0.0]])
    predicted = truth.clamp(min=1e-3).log() + error
    targets = {"depth": truth[None], "image": torch.zeros(1, 3, 2, 3)}
    loss = losses.TERMS["squared_gradient"]()(predicted[None, None], targets)
    # Across (1 - 0)^2, (3 - 1)^2 and (0 - 2)^2; down (2 - 0)^2 and (0 - 1)^2.
    assert loss.item() == pytest.approx((1 + 4 + 4) / 3 + (4 + 1) / 2)


@pytest.mark.parametrize("name", ["silog", "scale_invariant", "squared_gradient", "gradient"])
def test_depths_beyond_the_farthest_are_unknown(name: str) -> None:
    capped, plain = losses.UpTo(losses.TERMS[name](), 6.0), losses.TERMS[name]()
    predicted = log(DEPTH) + 0.1 * torch.randn(2, 1, 20, 24, generator=torch.Generator().manual_seed(1))
    without = torch.where(DEPTH > 6, 0.0, DEPTH)
    assert torch.equal(capped(predicted, given(DEPTH)), plain(predicted, given(without)))
    assert not torch.equal(capped(predicted, given(DEPTH)), plain(predicted, given(DEPTH)))
    assert torch.equal(losses.UpTo(plain, 10.0)(predicted, given(DEPTH)), plain(predicted, given(DEPTH)))


def test_slopes_cost_less_where_the_image_has_an_edge() -> None:
    """Differences of colours count in 0..1, whatever training normalises by."""
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1.0
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1.0
    normalised = edge / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    depth = torch.ones(1, 4, 4)
    plain = losses.TERMS["smoothness"]()(step, given(depth, torch.zeros_like(edge)))
    softened = losses.TERMS["smoothness"]()(step, given(depth, normalised))
    assert plain.item() == pytest.approx(1 / 3 + 1 / 2)  # one of three columns; then 2 x 2 pixels, half as much
    assert softened.item() == pytest.approx(plain.item() * math.exp(-1), rel=1e-5)


def test_a_plane_has_no_curvature() -> None:
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    plane = (0.3 * rows + 0.1 * columns).view(1, 1, 12, 16)
    assert losses.TERMS["laplacian"]()(plane, given(DEPTH[:1, :12, :16], IMAGE[:1, :, :12, :16])).item() < 1e-5


def test_half_precision_is_computed_in_float32() -> None:
    maps = log(DEPTH) + 0.2
    for name, term in losses.TERMS.items():
        half = term()(maps.bfloat16(), given(DEPTH))
        assert torch.equal(half, term()(maps.bfloat16().float(), given(DEPTH))), name
