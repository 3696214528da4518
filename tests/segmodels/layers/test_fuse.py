"""Batch norm merged into convolutions changes no result, whatever the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model, list_models, model_info
from segmodels.layers.fuse import fuse_batch_norm


def randomised(model: Any) -> Any:
    """Norms of no special value: the identity could be left out unseen."""
    for module in model.double().eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    for module in model.modules():
        # Some papers start their classifiers from zero, from which nothing could be seen.
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def images(channels: int = 3, height: int = 64, width: int = 80) -> Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", list_models())
def test_every_architecture_gives_the_same_at_every_size(name: str) -> None:
    torch.manual_seed(0)
    model = randomised(create_model(name, 5, **model_info(name).small))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fused = fuse_batch_norm(model, images())
    assert norms(fused) < norms(model) or norms(model) == 0 or name.startswith("fcdensenet")
    for size in ((64, 80), (45, 51)):
        torch.testing.assert_close(fused(images(3, *size))["out"], model(images(3, *size))["out"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["segnet", "linknet", "icnet", "pspnet", "deeplabv3", "deconvnet", "segformer_b0", "hourglass"]
)
def test_where_every_norm_follows_a_convolution_none_is_left(name: str) -> None:
    # An auxiliary head runs in training alone: nothing is known of its norm.
    aux = {"aux": False} if "aux" in model_info(name).options else {}
    model = create_model(name, 5, **{**model_info(name).small, **aux}).double()
    assert norms(model) > 0
    assert norms(fuse_batch_norm(model, images())) == 0


@torch.no_grad()
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ],
    ids=["plain", "grouped", "transposed", "transposed-grouped"],
)
def test_every_kind_of_convolution(conv: nn.Module) -> None:
    model = randomised(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU()))
    torch.testing.assert_close(fuse_batch_norm(model, images(4))(images(4)), model(images(4)))


class Branching(nn.Module):
    """A convolution whose result the norm takes, and something else, too."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again, self.other = nn.Conv2d(4, 4, 1), other

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.other == "a module":
            return self.norm(x) + self.again(x)
        if self.other == "a function":
            return self.norm(x) + F.relu(x)
        if self.other == "an operator":
            return self.norm(x) + x
        if self.other == "a list":
            return torch.cat([self.norm(x), x], dim=1)
        return self.norm(F.relu(x))


@torch.no_grad()
@pytest.mark.parametrize("other", ["a module", "a function", "an operator", "a list", "a function between"])
def test_a_convolution_whose_result_goes_elsewhere_too_stays_as_it_is(other: str) -> None:
    torch.manual_seed(0)
    model = randomised(Branching(other))
    fused = fuse_batch_norm(model, images())
    torch.testing.assert_close(fused(images()), model(images()))
    assert norms(fused) == 1


@torch.no_grad()
def test_a_norm_or_a_convolution_that_serves_twice_stays_as_it_is() -> None:
    norm = nn.BatchNorm2d(4)
    twice = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 3), norm))
    torch.testing.assert_close(fuse_batch_norm(twice, images())(images()), twice(images()))
    conv = nn.Conv2d(3, 3, 3, padding=1)
    shared = randomised(nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU(), conv))
    torch.testing.assert_close(fuse_batch_norm(shared, images())(images()), shared(images()))


@torch.no_grad()
def test_a_norm_that_also_takes_what_is_no_convolutions_result_stays_as_it_is() -> None:
    norm = nn.BatchNorm2d(3)
    model = randomised(nn.Sequential(norm, nn.Conv2d(3, 3, 3), norm))
    torch.testing.assert_close(fuse_batch_norm(model, images())(images()), model(images()))


@torch.no_grad()
def test_a_network_that_runs_several_times_on_one_image_is_merged() -> None:
    model = randomised(create_model("deeplabv2", 5, **model_info("deeplabv2").small))
    assert norms(fuse_batch_norm(model, images())) == 0


@torch.no_grad()
def test_asking_for_the_size_of_a_result_is_no_use_of_it() -> None:
    class Asking(Branching):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            out: Tensor = F.interpolate(self.norm(x), size=(x.shape[-2] // 2, x.size(-1)))
            return out

    model = randomised(Asking(""))
    fused = fuse_batch_norm(model, images())
    assert norms(fused) == 0
    torch.testing.assert_close(fused(images()), model(images()))
