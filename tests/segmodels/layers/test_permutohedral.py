"""The permutohedral lattice approximates Gaussian filtering, and is linear, whatever the dimension."""

from __future__ import annotations

import pytest
import torch

from segmodels.layers.permutohedral import PermutohedralLattice


def points(count: int, dimensions: int, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(
        1, count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(dimensions)
    )


def matrix(lattice: PermutohedralLattice) -> torch.Tensor:
    """The filter as a matrix: what each point's unit value becomes."""
    return lattice.filter(torch.eye(lattice.points, dtype=torch.float64))


@pytest.mark.parametrize(("dimensions", "error"), [(1, 0.01), (2, 0.02), (3, 0.04), (5, 0.08)])
def test_it_averages_as_a_gaussian_does(dimensions: int, error: float) -> None:
    # A cloud about one standard deviation wide, where averages are sums over many neighbours.
    features = points(400, dimensions, spread=1.0)
    values = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gaussian = torch.exp(-0.5 * torch.cdist(features[0], features[0]) ** 2)
    ours = matrix(PermutohedralLattice(features))
    exact = (gaussian @ values) / gaussian.sum(1, keepdim=True)
    approximate = (ours @ values) / ours.sum(1, keepdim=True)
    assert (approximate - exact).abs().mean() < error
    assert approximate.abs().max() <= 1 + 1e-9


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_barycentric_weights_are_those_of_a_point_in_its_simplex(dimensions: int) -> None:
    lattice = PermutohedralLattice(points(200, dimensions))
    assert lattice.weights.min() >= -1e-9
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(200, dtype=torch.float64))


def test_a_gaussian_weight_is_never_negative_and_largest_for_the_point_itself() -> None:
    ours = matrix(PermutohedralLattice(points(100, 3)))
    assert ours.min() >= 0
    assert (ours.diagonal() > 0).all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    features = points(60, 3).expand(2, -1, -1)
    ours = matrix(PermutohedralLattice(features))
    assert (ours[:60, 60:] == 0).all() and (ours[60:, :60] == 0).all()
    torch.testing.assert_close(ours[:60, :60], matrix(PermutohedralLattice(features[:1])))


def test_the_gradient_is_that_of_the_filter() -> None:
    lattice = PermutohedralLattice(points(20, 5))
    values = torch.rand(20, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, (values,))
