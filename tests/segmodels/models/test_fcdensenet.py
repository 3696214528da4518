"""What the FC-DenseNet paper fixes, and that the form that keeps less computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.models.fcdensenet import DenseBlock, FCDenseNet

LAYERS = (2, 3, 2)


def network(**options: Any) -> Any:
    torch.manual_seed(0)
    return FCDenseNet(4, **{"growth_rate": 4, "layers": LAYERS, "first": 8, **options}).double().train()


def images(n: int = 2, height: int = 40, width: int = 52) -> Tensor:
    return torch.randn(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def trained_on_once(model: Any) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and the state after one pass forwards and backwards, with the randomness of one seed."""
    torch.manual_seed(3)
    out = model(images())["out"]
    torch.manual_seed(4)  # what runs between the passes must not matter
    model.loss({"out": out}, {"labels": torch.randint(0, 4, (2, 40, 52))}).backward()
    return out, {k: p.grad for k, p in model.named_parameters()}, model.state_dict()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_efficient_form_gives_the_same_output_gradients_and_statistics(dropout: float) -> None:
    plain = trained_on_once(network(dropout=dropout))
    efficient = trained_on_once(network(dropout=dropout, efficient=True))
    torch.testing.assert_close(efficient[0], plain[0])
    torch.testing.assert_close(efficient[1], plain[1])
    torch.testing.assert_close(efficient[2], plain[2])
    moved = [k for k, v in efficient[2].items() if k.endswith("num_batches_tracked") and v.item() != 1]
    assert moved == []


def kept_bytes(model: Any, x: Tensor) -> int:
    """What a forward pass keeps for the backward pass, each piece of memory once, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(kept.values())


def test_the_efficient_form_keeps_less_than_half() -> None:
    x = torch.randn(1, 3, 64, 64)
    bytes_kept = []
    for efficient in (False, True):
        torch.manual_seed(0)
        model = create_model("fcdensenet103", 11, growth_rate=8, first=24, efficient=efficient).train()
        bytes_kept.append(kept_bytes(model, x))
    assert bytes_kept[1] < 0.5 * bytes_kept[0]


def test_what_the_efficient_form_keeps_of_a_block_grows_with_its_layers_and_not_with_their_square() -> None:
    x = torch.randn(1, 8, 32, 32, requires_grad=True)

    def kept(count: int, efficient: bool) -> int:
        return kept_bytes(DenseBlock(8, 8, count, 0.0, efficient).train(), x)

    assert kept(16, True) < 2.5 * kept(8, True)
    assert kept(16, False) > 3 * kept(8, False)


def test_batch_statistics_are_those_of_the_batch_in_evaluation() -> None:
    model = network(batch_statistics=True, dropout=0.0)
    with torch.no_grad():
        expected = model(images())["out"]
        statistics = {k: v.clone() for k, v in model.state_dict().items()}
        model.eval()
        together = model(images())["out"]
        torch.testing.assert_close(together, expected)
        assert not torch.allclose(model(images()[:1])["out"], together[:1])
    for key, value in model.state_dict().items():
        assert torch.equal(value, statistics[key]), key


def test_running_averages_are_the_default_in_evaluation() -> None:
    model = network(dropout=0.0)
    with torch.no_grad():
        batch = model(images())["out"]
        model.eval()
        together = model(images())["out"]
        assert not torch.allclose(together, batch)
        torch.testing.assert_close(model(images()[:1])["out"], together[:1])


def test_each_layer_sees_all_maps_before_it_and_a_block_gives_the_new_ones() -> None:
    block = DenseBlock(5, 3, 4, 0.0, efficient=False).eval()
    assert [layer.norm.num_features for layer in block.layers] == [5, 8, 11, 14]  # type: ignore[union-attr]
    x = torch.randn(1, 5, 6, 7)
    maps = [x]
    for layer in block.layers:
        joined: Any = torch.cat(maps, dim=1)
        maps.append(layer.conv(F.relu(layer.norm(joined))))  # type: ignore[operator]
    torch.testing.assert_close(block(x), torch.cat(maps[1:], dim=1))


def test_only_a_blocks_new_maps_are_up_sampled() -> None:
    model = network(growth_rate=16, layers=(4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4), first=48)
    transitions = [(t.in_channels, t.out_channels) for t in model.transitions_up]
    assert transitions == [(n, n) for n in (240, 192, 160, 112, 80)]
    # The channel table that the authors' README corrects: what enters each block on the way up, with its new maps.
    leaves = [block.layers[-1].norm.num_features + 16 for block in model.up]
    assert leaves == [1088, 816, 576, 384, 256]


def test_dropout_follows_every_convolution_of_the_dense_layers_and_the_transitions_down_alone() -> None:
    model = network(dropout=0.3)
    places = {name.rsplit(".", 1)[0] for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.3}
    assert len(places) == sum(LAYERS) + 1
    assert not any(name.startswith(("first", "transitions_up", "classifier")) for name in places)


def test_as_many_blocks_down_as_up_are_asked_for() -> None:
    with pytest.raises(ValueError, match="layers has 4 blocks; there are as many down as up, and one between them"):
        FCDenseNet(4, layers=(1, 1, 1, 1))
