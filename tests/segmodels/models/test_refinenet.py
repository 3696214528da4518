"""What RefineNet and LinkNet, which refine a ResNet's maps from coarse to fine, fix beyond their parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.models.refinenet import ChainedResidualPooling, RefineBlock, RefineNet, ResidualConvUnit


def refinenet(**options: Any) -> RefineNet:
    torch.manual_seed(0)
    return RefineNet(4, **{"backbone": "test_resnet", "channels": 8, "deep_channels": 16, **options}).eval()


def linknet() -> Any:
    torch.manual_seed(0)
    return create_model("linknet", 4, backbone="test_resnet").eval()


@pytest.mark.parametrize(("options", "pools", "units"), [({}, 4, 3), ({"pools": 2, "output_units": 1}, 2, 1)])
def test_released_models_pool_four_times_and_finish_with_three_units_and_the_texts_with_two_and_one(
    options: dict[str, Any], pools: int, units: int
) -> None:
    model = refinenet(**options)
    for block in (model.block1, model.block2, model.block3, model.block4):
        assert (len(block.pooling.convs), len(block.output)) == (pools, units)
        assert len(block.adapt) == 2
    assert model(torch.randn(1, 3, 64, 64))["out"].shape == (1, 4, 64, 64)


@torch.no_grad()
def test_a_residual_unit_adds_two_convolutions_of_what_is_positive_to_its_input() -> None:
    unit = ResidualConvUnit(3)
    x = torch.randn(1, 3, 6, 7)
    before = x.clone()
    expected = x + unit.conv2(F.relu(unit.conv1(F.relu(x))))
    torch.testing.assert_close(unit(x), expected)
    assert torch.equal(x, before)


@torch.no_grad()
def test_chained_pooling_pools_what_the_pool_before_it_gave_and_adds_all() -> None:
    torch.manual_seed(0)
    pooling = ChainedResidualPooling(3, 3)
    x = torch.randn(1, 3, 9, 11)
    total = link = F.relu(x)
    for conv in pooling.convs:
        link = conv(F.max_pool2d(link, 5, stride=1, padding=2))
        total = total + link
    torch.testing.assert_close(pooling(x), total)


@torch.no_grad()
def test_a_block_fuses_its_stage_with_the_block_below_at_the_finer_size() -> None:
    torch.manual_seed(0)
    block = RefineBlock(5, 4, below=True, after=6, pools=2, output_units=1)
    stage, below = torch.randn(1, 5, 8, 10), torch.randn(1, 4, 4, 5)
    assert block.fuse is not None
    up = F.interpolate(below, size=(8, 10), mode="bilinear", align_corners=True)
    fused = block.fuse(block.adapt(block.reduce(stage))) + up
    expected = block.onward(block.output(block.pooling(fused)))
    assert expected.shape == (1, 6, 8, 10)
    torch.testing.assert_close(block(stage, below), expected)


@torch.no_grad()
def test_refinement_goes_from_stride_32_to_stride_4() -> None:
    model = refinenet()
    seen: list[tuple[int, ...]] = []
    for block in (model.block1, model.block2, model.block3, model.block4):
        block.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    model(torch.randn(1, 3, 64, 96))
    assert seen == [(2, 3), (4, 6), (8, 12), (16, 24)]


def test_refinenet_has_no_batch_norm_outside_its_encoder() -> None:
    model = refinenet()
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(name.startswith("backbone.") for name in norms)


@torch.no_grad()
def test_refinenet_drops_the_two_coarsest_maps_and_what_the_classifier_sees() -> None:
    model = refinenet(dropout=0.4)
    dropped: list[tuple[int, ...]] = []
    model.dropout.register_forward_hook(lambda _, __, output: dropped.append(tuple(output.shape[-2:])))
    model(torch.randn(1, 3, 64, 96))
    assert dropped == [(2, 3), (4, 6), (16, 24)]
    assert model.dropout.p == 0.4


@torch.no_grad()
def test_linknet_adds_the_encoders_maps_to_the_decoders() -> None:
    model = linknet()
    images = torch.randn(2, 3, 64, 96)
    maps = model.backbone(images)
    e1, e2, e3, e4 = (maps[level] for level in model.levels)
    inputs: dict[str, Tensor] = {}
    for name in ("decoder1", "decoder2", "decoder3", "decoder4"):
        part = getattr(model, name)
        part.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
    out = model(images)["out"]
    torch.testing.assert_close(inputs["decoder4"], e4)
    torch.testing.assert_close(inputs["decoder3"], model.decoder4(e4) + e3)
    torch.testing.assert_close(inputs["decoder2"], model.decoder3(inputs["decoder3"]) + e2)
    torch.testing.assert_close(inputs["decoder1"], model.decoder2(inputs["decoder2"]) + e1)
    # Figure 1, and bypass2dec(64, 1, 1, 0) in e-lab/LinkNet, models/model.lua: the input of the first block, too.
    first = F.max_pool2d(maps[model.stem], 3, stride=2, padding=1)
    torch.testing.assert_close(out, model.tail(model.decoder1(inputs["decoder1"]) + first))


def test_a_decoder_block_of_linknet_narrows_to_a_quarter_doubles_and_widens() -> None:
    with torch.device("meta"):
        model: Any = create_model("linknet", 4)
    channels = []
    for name in ("decoder4", "decoder3", "decoder2", "decoder1"):
        convs = [m for m in getattr(model, name) if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert [conv.kernel_size for conv in convs] == [(1, 1), (3, 3), (1, 1)]
        channels.append([convs[0].in_channels, *[conv.out_channels for conv in convs], convs[1].stride[0]])
    assert channels == [[512, 128, 128, 256, 2], [256, 64, 64, 128, 2], [128, 32, 32, 64, 2], [64, 16, 16, 64, 1]]
