"""Every backbone gives maps of the channels and strides that it names, dilated or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmodels.backbones import create_backbone
from segmodels.backbones.dilation import dilate
from segmodels.registry import UnknownModelError, count_parameters, on_meta

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


def test_other_channels_than_three() -> None:
    with on_meta():
        for name in ("resnet18", "vgg16", "googlenet", "densenet121"):
            assert len(create_backbone(name, in_channels=5, output_stride=16)(torch.empty(2, 5, 64, 64))) >= 4


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet51", 32, "unknown backbone 'resnet51'; did you mean 'resnet"),
        ("swin_tiny_patch4_window7_224", 8, "is not dilatable; it takes output_stride 32 only"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message.replace("?", r"\?")):
        create_backbone(name, output_stride=output_stride)


def test_an_output_stride_of_four_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride is 4; it is 8, 16 or 32"):
        create_backbone("resnet18", output_stride=4)
