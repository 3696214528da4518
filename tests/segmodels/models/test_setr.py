"""What the SETR paper fixes beyond the number of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.errors import UnknownModelError

NAMES = ("setr_naive", "setr_pup", "setr_mla")
every_decoder = pytest.mark.parametrize("name", NAMES)


def setr(name: str = "setr_naive", **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, 4, **{"backbone": "test_vit", "image_size": 64, "channels": 8, **options}).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_encoder_is_timms_vit_up_to_its_last_norm(images: Tensor) -> None:
    import timm

    model = setr()
    theirs = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    theirs.load_state_dict(model.backbone.body.state_dict(), strict=False)
    depth = model.backbone.depth
    model.backbone.layers = tuple(range(1, depth + 1))
    expected = theirs.forward_intermediates(images, indices=depth, intermediates_only=True, norm=False)
    torch.testing.assert_close(model.backbone(images), expected)


@torch.no_grad()
def test_the_table_of_positions_is_taken_as_it_is_at_its_own_size_and_interpolated_at_others() -> None:
    vit = setr().backbone
    table = vit.body.pos_embed
    grid, tokens = vit.grid, vit.tokens
    assert vit._positions(torch.Size((grid, grid))) is table
    wide = vit._positions(torch.Size((grid, 2 * grid)))
    assert wide.shape == (1, tokens + 2 * grid * grid, vit.channels)
    assert torch.equal(wide[:, :tokens], table[:, :tokens])
    square = table[0, tokens:].T.view(vit.channels, grid, grid)
    expected = F.interpolate(square[None], size=(grid, 2 * grid), mode="bilinear", align_corners=False)
    torch.testing.assert_close(wide[0, tokens:].T.view(vit.channels, grid, 2 * grid), expected[0])


@torch.no_grad()
@every_decoder
def test_weights_of_a_resolution_work_at_another_one(name: str, tmp_path: Path, images: Tensor) -> None:
    from safetensors.torch import save_file

    save_file(setr(name).state_dict(), tmp_path / "small.safetensors")
    larger = create_model(
        name, 4, backbone="test_vit", image_size=128, channels=8, weights=tmp_path / "small.safetensors"
    ).eval()
    # The larger table begins as the smaller one's interpolation: both see a large image alike.
    large = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(larger(large)["out"], setr(name)(large)["out"])


@every_decoder
def test_auxiliary_heads_speak_in_training_alone_and_weigh_0_4(name: str, images: Tensor) -> None:
    model = setr(name)
    assert set(model(images)) == {"out"}
    outputs = model.train()(images)
    heads = {"setr_naive": 3, "setr_pup": 4, "setr_mla": 4}[name]
    assert set(outputs) == {"out", *(f"aux{i}" for i in range(heads))}
    assert all(logits.shape == (2, 4, 64, 64) for logits in outputs.values())
    target = torch.randint(0, 4, (2, 64, 64))
    losses = {k: F.cross_entropy(v, target) for k, v in outputs.items()}
    expected = losses["out"] + 0.4 * torch.stack([losses[f"aux{i}"] for i in range(heads)]).sum()
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)
    assert set(setr(name, aux=False).train()(images)) == {"out"}


def test_the_layers_are_those_of_24_and_scale_with_the_depth() -> None:
    with torch.device("meta"):
        layers = {
            (name, size): create_model(name, 4, backbone=f"vit_{size}_patch16_224").backbone.layers  # type: ignore[union-attr]
            for name in NAMES
            for size in ("large", "base")
        }
    assert layers["setr_naive", "large"] == layers["setr_pup", "large"] == (10, 15, 20, 24)
    assert layers["setr_mla", "large"] == (6, 12, 18, 24)
    assert layers["setr_mla", "base"] == (3, 6, 9, 12)
    assert layers["setr_naive", "base"] == (5, 8, 10, 12)


@torch.no_grad()
@pytest.mark.parametrize(("name", "stride"), [("setr_naive", 16), ("setr_pup", 2), ("setr_mla", 4)])
def test_each_decoder_leaves_its_own_stride_to_the_last_up_sampling(name: str, stride: int, images: Tensor) -> None:
    model = setr(name)
    classifier = model.classifier if name == "setr_mla" else model.decoder.classifier
    seen: list[Tensor] = []
    classifier.register_forward_hook(lambda _, __, output: seen.append(output))
    out = model(images)["out"]
    assert seen[0].shape[-2:] == (64 // stride, 64 // stride)
    torch.testing.assert_close(out, F.interpolate(seen[0], size=(64, 64), mode="bilinear", align_corners=False))


@torch.no_grad()
def test_in_mla_each_stream_has_all_deeper_layers_and_no_shallower_one(images: Tensor) -> None:
    model = setr("setr_mla")
    streams: list[list[Tensor]] = [[], [], [], []]
    for number, stream in enumerate(model.streams):
        stream.register_forward_hook(lambda _, __, output, kept=streams[number]: kept.append(output))
    maps = model.backbone(images)
    given = list(maps)
    model.backbone.forward = lambda _: given
    model(images)
    for level in range(4):
        given[:] = [m + torch.randn_like(m) * (i == level) for i, m in enumerate(maps)]
        model(images)
        moved = [not torch.allclose(kept[0], kept[-1], atol=1e-6) for kept in streams]
        assert moved == [i <= level for i in range(4)]


def test_a_backbone_that_is_no_plain_vit_is_refused() -> None:
    with pytest.raises(UnknownModelError, match="backbone resnet18: is no plain ViT; give one such as vit_large"):
        setr(backbone="resnet18")
    with pytest.raises(UnknownModelError, match="unknown backbone 'vit_huge'; give a plain ViT such as"):
        setr(backbone="vit_huge")
