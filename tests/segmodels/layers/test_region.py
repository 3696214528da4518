"""Layers inside a region compute what masked layers compute, whether it is a mask or a list of pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.region import Region, RegionConv, region_max_pool


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("norm", [True, False])
def test_a_convolution_of_listed_pixels_is_the_masked_convolution(size: tuple[int, int], norm: bool) -> None:
    torch.manual_seed(0)
    layer = RegionConv(5, 6, size, norm=norm).double().eval()
    if layer.norm is not None:
        nn.init.normal_(layer.norm.running_mean)  # type: ignore[arg-type]
        nn.init.normal_(layer.norm.bias)
    mask = torch.rand(2, 1, 9, 11) < 0.4
    x = torch.randn(2, 5, 9, 11, dtype=torch.float64)
    listed, dense = Region(mask, listed=True), Region(mask, listed=False)
    nothing = x.new_zeros(2, 6, 9, 11)
    given = listed.leave(layer(listed.enter(x), listed), nothing)
    torch.testing.assert_close(given, dense.leave(layer(dense.enter(x), dense), nothing))
    # The definition (section 3.2): zero outside the region before and after.
    expected = layer.conv(x * mask) if layer.norm is None else F.relu(layer.norm(layer.conv(x * mask)))
    torch.testing.assert_close(given, expected * mask)


@torch.no_grad()
@pytest.mark.parametrize("listed", [False, True])
def test_the_maximum_is_that_of_the_pixels_in_the_region(listed: bool) -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 9, 11) < 0.4
    x = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    region = Region(mask, listed=listed)
    given = region.leave(region_max_pool(region.enter(x), region), torch.zeros_like(x))
    torch.testing.assert_close(given, F.max_pool2d(x * mask, 3, stride=1, padding=1) * mask)
