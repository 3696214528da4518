"""Kernels that are larger than their map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segmodels.layers.conv import WideConv2d, WideConvTranspose2d

PAIRS = [(WideConv2d, nn.Conv2d), (WideConvTranspose2d, nn.ConvTranspose2d)]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 9), (4, 4), (9, 2)])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_taps_that_see_padding_alone_change_nothing(ours: Any, theirs: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    wide = ours(5, 3, 7).double()
    plain = theirs(5, 3, 7, padding=3).double()
    plain.load_state_dict(wide.state_dict(), strict=True)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    results = []
    for layer in (wide, plain):
        seen = x.clone().requires_grad_()
        out = layer(seen)
        out.square().sum().backward()
        results.append((out, seen.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS])
def test_their_gradients_are_zero_in_bf16_whatever_the_memory_held(ours: Any) -> None:
    torch.manual_seed(0)
    layer = ours(512, 1024, 7)
    x = torch.randn(4, 512, 2, 3)
    for _ in range(2):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        torch.full_like(layer.weight, torch.nan)  # freed at once: what comes next may lie there
        out.float().sum().backward()
        unseen = layer.weight.grad.clone()
        unseen[:, :, 2:5, 1:6] = 0
        assert torch.equal(unseen, torch.zeros_like(unseen))
        assert layer.weight.grad[:, :, 3, 3].abs().sum() > 0
