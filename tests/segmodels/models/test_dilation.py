"""What the paper on dilated convolutions fixes beyond the number of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmodels.catalog.registry import create_model
from segmodels.models.dilation import Dilation


def dilation(name: str = "dilation8", **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, 4, **{"width": 0.04, **options}).eval()


def convolutions(context: nn.Module) -> list[nn.Conv2d]:
    return [m for m in context.modules() if isinstance(m, nn.Conv2d)]


def receptive_field(context: nn.Module) -> int:
    return 1 + 2 * sum(conv.dilation[0] for conv in convolutions(context) if conv.kernel_size == (3, 3))


def test_the_context_module_has_the_dilations_of_table_1_and_two_more_in_dilation10() -> None:
    dilations = {
        name: [conv.dilation[0] for conv in convolutions(dilation(name).context)]
        for name in ("dilation8", "dilation10")
    }
    assert dilations == {
        "dilation8": [1, 1, 2, 4, 8, 16, 1, 1],
        "dilation10": [1, 1, 2, 4, 8, 16, 32, 64, 1, 1],
    }
    # Table 1: 67 x 67 in the last 3x3 layer.
    assert receptive_field(dilation().context) == 67
    assert receptive_field(dilation("dilation10").context) == 67 + 2 * (32 + 64)


@pytest.mark.parametrize(
    ("name", "context", "widths"),
    [
        ("dilation8", "basic", [1] * 8),
        ("dilation8", "large", [2, 2, 4, 8, 16, 32, 32, 1]),
        ("dilation10", "basic", [1] * 10),
    ],
)
def test_the_context_module_is_as_wide_as_table_1_says(name: str, context: str, widths: list[int]) -> None:
    model = dilation(name, context=context)
    assert [conv.out_channels // 4 for conv in convolutions(model.context)] == widths


@torch.no_grad()
@pytest.mark.parametrize("name", ["dilation8", "dilation10"])
def test_the_basic_context_module_begins_as_the_identity(name: str) -> None:
    # Of what its ReLUs let through.
    score = torch.rand(2, 4, 20, 24)
    torch.testing.assert_close(dilation(name).context(score), score)


@torch.no_grad()
def test_the_large_context_module_begins_as_the_identity_but_for_a_little_noise() -> None:
    score = torch.rand(2, 4, 20, 24)
    given = dilation(context="large").context(score)
    assert (given - score).abs().mean() < 0.2 * score.mean()
    assert (given != score).any()


@torch.no_grad()
def test_the_context_module_sees_as_far_as_its_receptive_field_and_no_further() -> None:
    context = dilation().context
    for conv in convolutions(context):
        nn.init.uniform_(conv.weight, 0.1, 1)
    score = torch.zeros(1, 4, 1, 101)
    score[..., 50] = 1
    reached = context(score)[0, 0, 0].nonzero().flatten()
    assert (reached.min().item(), reached.max().item()) == (50 - 33, 50 + 33)


@torch.no_grad()
def test_each_convolution_of_the_context_is_padded_by_its_dilation_but_in_the_file_for_pascal() -> None:
    # fyu/dilation, models/dilation8_camvid_deploy.prototxt: ctx_conv1_1 pad 1 … ctx_conv6_1 pad 16;
    # models/dilation8_pascal_voc_deploy.prototxt: ctx_conv1_1 alone, pad 33.
    context = dilation().context
    assert not any(isinstance(m, nn.ZeroPad2d) for m in context.modules())
    assert [conv.padding[0] for conv in convolutions(context)] == [1, 1, 2, 4, 8, 16, 1, 0]
    context = dilation(context="large").context
    assert [m.padding for m in context.modules() if isinstance(m, nn.ZeroPad2d)] == [(33, 33, 33, 33)]
    assert all(conv.padding == (0, 0) for conv in convolutions(context))


@torch.no_grad()
def test_the_front_end_stands_at_stride_8_and_dilates_what_followed_the_pools() -> None:
    model = dilation()
    assert [conv.dilation[0] for conv in convolutions(model.stages[3])] == [1, 1, 1]
    assert [conv.dilation[0] for conv in convolutions(model.stages[4])] == [2, 2, 2]
    assert (model.fc6.kernel_size, model.fc6.dilation) == ((7, 7), (4, 4))
    seen: list[Tensor] = []
    for padding in ("same", "mirror"):
        network = dilation(padding=padding)
        network.final.register_forward_hook(lambda _, __, output: seen.append(output))
        network(torch.randn(1, 3, 64, 96))
        assert seen[-1].shape[-2:] == (8, 12)


@torch.no_grad()
def test_mirrored_and_padded_front_ends_agree_where_no_border_is_seen() -> None:
    padded, mirrored = (dilation(padding=padding).double() for padding in ("same", "mirror"))
    mirrored.load_state_dict(padded.state_dict())
    for model in (padded, mirrored):
        model.context = nn.Identity()
    images = torch.randn(1, 3, 480, 480, dtype=torch.float64)
    a, b = padded(images)["out"], mirrored(images)["out"]
    # 186 pixels are seen on either side, and bilinear up-sampling mixes neighbouring places.
    torch.testing.assert_close(a[..., 208:272, 208:272], b[..., 208:272, 208:272])
    assert not torch.allclose(a[..., :8, :8], b[..., :8, :8])


def test_the_front_end_is_trained_first_and_handed_over(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    front = dilation(stage="frontend")
    assert isinstance(front.context, nn.Identity)
    save_file(front.state_dict(), tmp_path / "front.safetensors")
    full = create_model("dilation8", 4, width=0.04, weights=tmp_path / "front.safetensors").eval()
    for key, value in front.state_dict().items():
        assert torch.equal(full.state_dict()[key], value), key
    # The context module begins as the identity: where no score is negative, nothing changes.
    with torch.no_grad():
        front.final.bias += 10
        full.final.bias += 10  # type: ignore[union-attr, operator]
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(full(images)["out"], front(images)["out"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "context"}, "stage is 'context'; it is 'full' or 'frontend'"),
        ({"context": "wide"}, "context is 'wide'; it is 'basic' or 'large'"),
        ({"padding": "valid"}, "padding is 'valid'; it is 'same' or 'mirror'"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dilation(4, **options)
