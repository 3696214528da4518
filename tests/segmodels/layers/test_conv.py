"""Kernels that are larger than their map."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from segmodels.layers.conv import ScoreConv2d, WideConv2d, WideConvTranspose2d

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


@pytest.mark.parametrize("classes", [2, 11])
def test_scores_of_few_classes_from_many_channels_are_learned_in_bf16(classes: int) -> None:
    # In a process of its own, with glibc's checks: what is written beyond the end of a bias ends it.
    code = f"""
import torch
from segmodels.layers.conv import ScoreConv2d
layer = ScoreConv2d(4096, {classes})
for _ in range(6):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = layer(torch.randn(4, 4096, 8, 8))
    scores.float().square().mean().backward()
    layer.zero_grad(set_to_none=True)
    others = [torch.randn(100) for _ in range(300)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_scores_are_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    layer = ScoreConv2d(64, 3)
    plain = nn.Conv2d(64, 3, 1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), plain(x).float(), rtol=2e-2, atol=2e-2)
