"""What the DeepLab papers, ParseNet and CRF-as-RNN fix beyond the number of parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.layers.crf import dense_crf
from segmodels.models.deeplabv1 import DeepLabV1
from segmodels.models.parsenet import L2Norm
from segmodels.settings.schema import CRFSettings


def small(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, 4, **{"backbone": "test_resnet", **options})


def test_largefov_works_at_stride_8_and_compares_labels_of_that_size() -> None:
    model = DeepLabV1(4, width=0.04).train()
    outputs = model(torch.randn(1, 3, 321, 321))
    assert outputs["score"].shape[-2:] == (41, 41)
    target = torch.full((1, 321, 321), 2)
    expected = F.cross_entropy(outputs["score"], torch.full((1, 41, 41), 2))
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)


def test_deeplabv2_takes_the_maximum_over_three_scales_and_trains_each() -> None:
    model = small("deeplabv2").train()
    outputs = model(torch.randn(2, 3, 64, 96))
    assert {"scale 0.5", "scale 0.75", "scale 1.0", "fused", "out"} == set(outputs)
    full = outputs["scale 1.0"]
    assert (outputs["fused"] >= full - 1e-6).all()
    target = torch.randint(0, 4, (2, 64, 96))
    with torch.no_grad():
        single = small("deeplabv2", scales=(1.0,)).train()
        assert set(single(torch.randn(2, 3, 64, 96))) == {"scale 1.0", "fused", "out"}
    assert model.loss(outputs, {"labels": target}) > 0


def test_deeplabv2_on_vgg_has_a_branch_of_fc6_fc7_and_fc8_for_each_rate() -> None:
    model: Any = create_model("deeplabv2", 4, backbone="vgg16", width=0.04).eval()
    assert [branch[0].dilation[0] for branch in model.classifier] == [6, 12, 18, 24]
    assert model(torch.randn(1, 3, 49, 65))["out"].shape == (1, 4, 49, 65)


def test_deeplabv2_with_frozen_norm_moves_no_statistics() -> None:
    model = small("deeplabv2", frozen_norm=True).train()
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True))
    assert not any(p.requires_grad for m in norms for p in m.parameters())


# Section 3: output stride -> dilations of the units of conv4 and conv5 (with the multi-grid), and the pyramid's rates.
DILATIONS = {
    16: ([1, 1, 1, 1, 1, 1], [2, 4, 8], (6, 12, 18)),
    8: ([1, 2, 2, 2, 2, 2], [4, 8, 16], (12, 24, 36)),
}


def dilations(model: Any) -> tuple[list[int], list[int], tuple[int, ...]]:
    body, pyramid = model.backbone.body, model.classifier[0]
    conv4, conv5 = ([unit.conv2.dilation[0] for unit in stage] for stage in (body.layer3, body.layer4))
    return conv4, conv5, tuple(branch[0].dilation[0] for branch in pyramid.convs[1:-1])


@torch.no_grad()
def test_the_dilations_of_deeplabv3_follow_from_its_output_stride() -> None:
    model: Any = create_model("deeplabv3", 4, backbone="resnet50", channels=16)
    for output_stride in (16, 8, 16):
        model.output_stride = output_stride
        assert model.output_stride == output_stride
        assert dilations(model) == DILATIONS[output_stride]
        first = model.backbone.body.layer3[0]
        assert first.conv2.stride == first.downsample[0].stride == (output_stride // 8,) * 2
        assert model.backbone(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 64 // output_stride


@torch.no_grad()
@pytest.mark.parametrize(("training", "testing"), [(16, 8), (8, 16), (8, None), (16, None), (8, 8)])
def test_deeplabv3_trains_and_tests_at_the_output_strides_of_its_settings(training: int, testing: int | None) -> None:
    model: Any = create_model(
        "deeplabv3", 4, backbone="resnet50", channels=16, output_stride=training, test_output_stride=testing,
        rates=DILATIONS[training][2],
    )  # fmt: skip
    for _ in range(2):
        assert model.output_stride == training
        assert dilations(model) == DILATIONS[training]
        model.eval()
        assert model.output_stride == (testing or training)
        assert dilations(model) == DILATIONS[testing or training]
        model.train()


def test_deeplabv3_refuses_an_output_stride_that_it_cannot_work_at() -> None:
    model = small("deeplabv3", channels=8)
    with pytest.raises(ValueError, match=r"^output_stride is 4; backbone test_resnet, built at 16, works at 8 or 16$"):
        model.output_stride = 4
    assert model.output_stride == 16
    with pytest.raises(ValueError, match=r"^output_stride is 4; "):
        small("deeplabv3", channels=8, test_output_stride=4)
    model = small("deeplabv3", channels=8, output_stride=8)
    with pytest.raises(ValueError, match=r"^output_stride is 16; backbone test_resnet, built at 8, works at 8$"):
        model.output_stride = 16


@torch.no_grad()
def test_a_copy_of_deeplabv3_has_an_output_stride_of_its_own() -> None:
    model = small("deeplabv3", channels=8).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)["out"]
    other = copy.deepcopy(model)
    other.output_stride = 16
    assert model.output_stride == 8
    assert torch.equal(model(images)["out"], expected)
    assert not torch.equal(other(images)["out"], expected)
    assert torch.equal(other.eval()(images)["out"], expected)


def test_deeplabv3_keeps_its_weights_when_the_stride_changes_in_networks_that_pool() -> None:
    model = small("deeplabv3", channels=8)
    names = list(model.state_dict())
    assert list(model.eval().state_dict()) == names
    images = torch.randn(1, 3, 64, 64)
    once = model(images)["out"]
    model.train().eval()
    torch.testing.assert_close(model(images)["out"], once)


def test_parsenet_normalises_each_place_and_scales_each_channel() -> None:
    layer = L2Norm(3)
    x = torch.tensor([[[[3.0]], [[4.0]], [[0.0]]]])
    torch.testing.assert_close(layer(x).flatten(), torch.tensor([6.0, 8.0, 0.0]))


def test_parsenet_sees_the_whole_image_at_every_place() -> None:
    model = create_model("parsenet", 3, width=0.05, dropout=0.0).eval()
    # fc6 sees 224 pixels; far beyond it, only the pooled half can carry a change.
    images = torch.randn(1, 3, 32, 800, requires_grad=True)
    model(images)["out"][..., 0].sum().backward()
    assert images.grad is not None
    assert images.grad[..., 700:].abs().sum() > 0


def test_crfasrnn_begins_as_the_authors_file_says_and_iterates_more_in_testing() -> None:
    model = create_model("crfasrnn", 3, width=0.04)
    torch.testing.assert_close(model.spatial.data, 3 * torch.eye(3))
    torch.testing.assert_close(model.bilateral.data, 5 * torch.eye(3))
    torch.testing.assert_close(model.compatibility.data, -torch.eye(3))
    assert (model.train_iterations, model.test_iterations) == (5, 10)


def test_crfasrnn_starts_as_a_plain_crf_after_fcn8s() -> None:
    model: Any = create_model("crfasrnn", 3, width=0.04, test_iterations=4).double().eval()
    for layer in (model.score_fr, model.score_pool4, model.score_pool3):
        nn.init.normal_(layer.weight)
    images = torch.randn(1, 3, 40, 48, dtype=torch.float64)
    unary = super(type(model), model).forward(images)["out"]
    colors = images * torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1) * 255
    settings = CRFSettings(
        bilateral_weight=5, bilateral_xy=160, bilateral_rgb=3, spatial_weight=3, spatial_xy=3, iterations=4
    )
    expected = dense_crf(unary, colors, settings, normalization="after")
    torch.testing.assert_close(model(images)["out"].softmax(1), expected)


def test_imagenet_weights_under_torchvisions_names_fill_the_trunk() -> None:
    from torchvision.models import vgg16, vgg16_bn

    plain = vgg16(weights=None, init_weights=False).state_dict()
    for name, place in (
        ("deeplabv1", "trunk.vgg.stages.4.4.weight"),
        ("parsenet", "trunk.vgg.stages.4.4.weight"),
        ("fcn8s", "conv5_3.weight"),
    ):
        with torch.device("meta"):
            model = create_model(name, 4)
        translated = model.translate(plain)
        assert translated[place] is plain["features.28.weight"]
    assert translated["fc6.weight"].shape == (4096, 512, 7, 7)
    normed = vgg16_bn(weights=None, init_weights=False).state_dict()
    with torch.device("meta"):
        segnet = create_model("segnet", 4)
    translated = segnet.translate(normed)
    filled = [k for k, v in segnet.state_dict().items() if k in translated and translated[k].shape == v.shape]
    assert len([k for k in filled if k.startswith("encoder.") and k.endswith("running_mean")]) == 13


@pytest.mark.parametrize("separable", [True, False])
def test_deeplabv3plus_refines_at_stride_4(separable: bool) -> None:
    model = small("deeplabv3plus", channels=16, separable=separable).eval()
    seen: list[int] = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    model(torch.randn(1, 3, 64, 64))
    assert seen == [16]
