"""Every backbone gives maps of the channels and strides that it names, dilated or not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import dilate
from segmodels.catalog.registry import count_parameters, create_model
from segmodels.errors import UnknownModelError
from segmodels.layers.uninitialised import on_meta

DILATABLE = (
    "vgg16", "vgg16_bn", "resnet18", "resnet50", "densenet121", "googlenet", "inception_v3", "inception_v4",
    "inception_resnet_v2", "res2net50_26w_4s", "resnest50d", "xception65", "vit_tiny_patch16_224",
)  # fmt: skip


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", DILATABLE)
def test_maps_have_the_channels_and_strides_that_are_named(name: str, output_stride: int) -> None:
    with on_meta():
        backbone = create_backbone(name, output_stride=output_stride).eval()
        maps = backbone(torch.empty(1, 3, 96, 128))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert max(backbone.strides) == output_stride
    for features, stride in zip(maps, backbone.strides, strict=True):
        assert features.shape[-2:] == (96 // stride, 128 // stride)


@pytest.mark.parametrize("name", [*DILATABLE, "resnet50d", "resnetblur50", "convnext_atto"])
def test_maps_follow_the_output_stride_that_is_set(name: str) -> None:
    with on_meta():
        backbone = create_backbone(name, output_stride=16).eval()
        for output_stride in (8, 16):
            backbone.output_stride = output_stride
            sizes = [tuple(m.shape[-2:]) for m in backbone(torch.empty(1, 3, 96, 128))]
            assert max(backbone.strides) == backbone.output_stride == output_stride
            assert sizes == [(96 // stride, 128 // stride) for stride in backbone.strides]


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "xception41", "convnext_atto", "vgg11_bn", "densenet121"])
def test_at_the_output_stride_that_is_set_a_network_is_the_one_built_at_it(name: str) -> None:
    torch.manual_seed(0)
    changed: Any = randomised(create_backbone(name, output_stride=16))
    built: Any = {stride: create_backbone(name, output_stride=stride).double().eval() for stride in (8, 16)}
    for stride in (8, 16):
        built[stride].load_state_dict(changed.state_dict())
    for stride in (8, 16, 8):
        changed.output_stride = stride
        for given, expected in zip(changed(images(65, 97)), built[stride](images(65, 97)), strict=True):
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("built", [8, 16, 32])
def test_an_output_stride_above_that_of_the_building_cannot_be_set(built: int) -> None:
    with on_meta():
        backbone = create_backbone("resnet18", output_stride=built)
    works = "8 or 16" if built == 16 else built
    with pytest.raises(
        ValueError, match=f"output_stride is 64; backbone resnet18, built at {built}, works at {works}$"
    ):
        backbone.output_stride = 64


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("res2net50_26w_4s", 23_650_120),
        ("resnest50d", 25_434_240),
        ("densenet121", 6_953_856),
        ("googlenet", 6_624_904 - 1_025_000),
        ("inception_v3", 21_785_568),
        ("vit_base_patch16_224", 85_798_656),
        ("xception65", 37_867_312),
        ("resnet50", 25_557_032 - 2_049_000),
    ],
)
def test_without_classifiers_they_have_the_published_numbers_of_parameters(name: str, count: int) -> None:
    with on_meta():
        assert count_parameters(create_backbone(name)) == count


def test_a_dilated_network_sees_what_the_strided_one_saw() -> None:
    # On the strided network's grid both compute the same, away from the borders: nothing else has changed.
    torch.manual_seed(0)

    def network() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1),
        )  # fmt: skip

    strided, dilated = network().eval(), network().eval()
    dilated.load_state_dict(strided.state_dict())
    assert dilate(dilated, (2, 4, 8), 4) == (2, 4, 4)
    images = torch.randn(1, 3, 96, 96)
    fine, coarse = dilated(images), strided(images)
    assert fine.shape[-1] == 2 * coarse.shape[-1]
    torch.testing.assert_close(fine[..., ::2, ::2][..., 2:-2, 2:-2], coarse[..., 2:-2, 2:-2])


@pytest.mark.parametrize("name", ["densenet121", "vgg16_bn", "googlenet"])
def test_a_dilated_network_has_the_strided_ones_weights(name: str) -> None:
    with on_meta():
        shapes = [{k: v.shape for k, v in create_backbone(name, output_stride=s).state_dict().items()} for s in (8, 32)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "deit3_small_patch16_224", "pvt_v2_b0"]
)
def test_transformers_that_were_trained_at_one_size_take_others(name: str) -> None:
    with on_meta():
        backbone = create_backbone(name).eval()
        maps, odd = (backbone(torch.empty(1, 3, *size)) for size in ((96, 160), (65, 97)))
    sizes = [(c, 96 // s, 160 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(m.shape[1:]) for m in maps] == sizes
    assert [m.shape[1] for m in odd] == list(backbone.channels)


def test_a_network_without_fine_maps_says_so_where_they_are_asked_for() -> None:
    with on_meta(), pytest.raises(UnknownModelError, match="xcit_nano_12_p16_224: its finest map has stride 16, not 4"):
        create_model("fpn", 3, backbone="xcit_nano_12_p16_224")


def test_other_channels_than_three() -> None:
    with on_meta():
        for name in ("resnet18", "vgg16", "googlenet", "densenet121"):
            assert len(create_backbone(name, in_channels=5, output_stride=16)(torch.empty(2, 5, 64, 64))) >= 4


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet51", 32, "unknown backbone 'resnet51'; did you mean 'resnet"),
        ("vit_tiny_patch16_225", 32, "unknown backbone 'vit_tiny_patch16_225'; did you mean 'vit_tiny_patch16_224'?"),
        ("swin_tiny_patch4_window7_224", 8, "is not dilatable; it takes output_stride 32 only"),
        ("crossvit_9_240", 32, "the strides of its maps, (12, 17), are no powers of two"),
        ("maxvit_pico_rw_256", 32, "backbone maxvit_pico_rw_256: takes images of 256x256 only"),
        ("vit_relpos_small_patch16_224", 32, "backbone vit_relpos_small_patch16_224: takes images of 224x224 only"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(UnknownModelError, match=re.escape(message)):
        create_backbone(name, output_stride=output_stride)


def test_an_output_stride_of_four_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride is 4; it is 8, 16 or 32"):
        create_backbone("resnet18", output_stride=4)


def randomised(model: Any) -> Any:
    """In float64, with norms of no special value."""
    for module in model.double().eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet50", 32), ("resnet50", 16), ("resnet50", 8), ("resnest50d", 32), ("resnest50d", 8),
        ("res2net50_26w_4s", 32), ("res2net50_26w_4s", 8), ("densenet121", 32), ("vgg16_bn", 32), ("convnext_atto", 32),
    ],
)  # fmt: skip
def test_features_are_those_of_timm_with_the_same_weights(name: str, output_stride: int) -> None:
    import timm

    torch.manual_seed(0)
    stride = {} if output_stride == 32 else {"output_stride": output_stride}
    theirs = randomised(timm.create_model(name, features_only=True, **stride))
    ours: Any = create_backbone(name, output_stride=output_stride).double().eval()
    ours.body.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(ours(images()), theirs(images()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_resnet_has_the_strided_ones_features_on_its_grid(name: str, output_stride: int) -> None:
    torch.manual_seed(0)
    strided: Any = randomised(create_backbone(name))
    dilated: Any = create_backbone(name, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    given = images(96, 128)
    for coarse, fine in zip(strided(given), dilated(given), strict=True):
        step = fine.shape[-1] // coarse.shape[-1]
        torch.testing.assert_close(fine[..., ::step, ::step], coarse)
    assert step == 32 // output_stride


@torch.no_grad()
@pytest.mark.parametrize("name", ["inception_v4", "densenet121", "vgg16_bn"])
def test_what_timm_does_not_dilate_keeps_its_finer_maps_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    strided: Any = randomised(create_backbone(name))
    dilated: Any = create_backbone(name, output_stride=8).double().eval()
    dilated.load_state_dict(strided.state_dict())
    for before, after, stride in zip(strided(images()), dilated(images()), strided.strides, strict=True):
        if stride <= 8:
            torch.testing.assert_close(after, before)
        else:
            assert after.shape[-2:] == (8, 12)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["fpn", "linknet", "refinenet"])
def test_torchvisions_resnet_weights_fill_the_encoder_of_every_network(architecture: str, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    theirs = randomised(resnet18(weights=None)).float()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    theirs.double()
    model: Any = create_model(architecture, 4, backbone="resnet18", weights=tmp_path / "resnet18.pth").double().eval()
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images()))))
    expected = []
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)
        expected.append(x)
    torch.testing.assert_close(model.backbone(images())[1:], expected)


@torch.no_grad()
def test_a_plain_vit_gives_four_of_its_layers_at_four_sizes() -> None:
    torch.manual_seed(0)
    backbone: Any = create_backbone("test_vit").double().eval()
    layers = backbone.body.forward_intermediates(images(), indices=backbone.indices, intermediates_only=True)
    maps = backbone(images())
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    torch.testing.assert_close(maps[2], layers[2])


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_maps_that_nobody_looks_at_may_be_empty_and_the_others_stay_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, output_stride=32).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = backbone(images)
        backbone.keep(1, -1)
        after = backbone(images)
    assert len(after) == len(before)
    for index in (1, -1):
        assert torch.equal(after[index], before[index])
