"""What single papers fix beyond the number of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from segmodels.catalog.registry import count_parameters, create_model, full_size
from segmodels.errors import UnknownModelError
from segmodels.inference.averaging import monte_carlo
from segmodels.layers.resize import bilinear_upsampling, mirror_pad
from segmodels.models.enet import ENet
from segmodels.models.fcn import FCN
from segmodels.models.segnet import SegNet, SegNetBasic
from segmodels.models.unet import UNet


def test_fcn_up_samples_bilinearly_and_keeps_its_kernels() -> None:
    layer = bilinear_upsampling(2, 4, 2)
    image = torch.randn(1, 2, 8, 8)
    ours = layer(image)[..., 1:-1, 1:-1]
    theirs = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2])
    assert not layer.weight.requires_grad


def test_fcn_without_its_fixed_kernels_has_the_published_rest() -> None:
    for stride, count in ((32, 134_346_581), (16, 134_357_354), (8, 134_362_751)):
        model = full_size(f"fcn{stride}s", 21)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_fcn_starts_a_finer_stride_from_the_coarser_one(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    coarse = FCN(3, stride=32, width=0.04)
    torch.nn.init.normal_(coarse.score_fr.weight)
    save_file(coarse.state_dict(), tmp_path / "fcn32s.safetensors")
    fine: Any = create_model("fcn16s", 3, width=0.04, weights=tmp_path / "fcn32s.safetensors")
    assert torch.equal(fine.score_fr.weight, coarse.score_fr.weight)


def test_segnet_unpools_to_the_sizes_of_the_paper_at_360x480() -> None:
    sizes = []
    model = SegNet(11, width=0.02).eval()
    for stage in model.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    model(torch.randn(1, 3, 360, 480))
    assert sizes == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]


def test_segnet_basic_has_no_relu_in_its_decoder() -> None:
    model = SegNetBasic(3, width=8).eval()
    assert not any(isinstance(m, torch.nn.ReLU) for m in model.decoder.modules())
    assert any(isinstance(m, torch.nn.ReLU) for m in model.encoder.modules())


def test_bayesian_segnet_is_uncertain_and_segnet_is_not() -> None:
    images = torch.randn(1, 3, 64, 64)
    for dropout, uncertain in ((0.5, True), (0.0, False)):
        model = SegNet(4, width=0.1, dropout=dropout).eval()
        mean, uncertainty = monte_carlo(model, images, 6)
        torch.testing.assert_close(mean.sum(1), torch.ones(1, 64, 64))
        assert uncertainty.shape == (1, 64, 64)
        assert (uncertainty.max() > 1e-6) == uncertain
        assert not model.training
        assert not any(m.training for m in model.modules())


def test_enet_trains_its_encoder_first_and_hands_it_over(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    encoder = ENet(11, stage="encoder")
    assert count_parameters(encoder) == 338_156 + 1_419
    outputs = encoder.train()(torch.randn(2, 3, 64, 80))
    assert outputs["encoder"].shape == (2, 11, 8, 10)
    encoder.loss(outputs, {"labels": torch.randint(0, 11, (2, 64, 80))}).backward()
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    full: Any = create_model("enet", 11, weights=tmp_path / "encoder.safetensors")
    for key, value in full.stage3.state_dict().items():
        assert torch.equal(value, encoder.stage3.state_dict()[key])


def test_unets_valid_form_gives_388_pixels_for_572() -> None:
    model = UNet(2, in_channels=1, padding="valid", width=2).eval()
    seen: dict[str, int] = {}
    model.down[0].register_forward_pre_hook(lambda _, inputs: seen.update(into=inputs[0].shape[-1]))
    model.classifier.register_forward_hook(lambda _, __, output: seen.update(out=output.shape[-1]))
    model(torch.randn(1, 1, 388, 388))
    assert seen == {"into": 572, "out": 388}


def test_unet_of_the_paper_counts_with_one_channel_and_two_classes() -> None:
    assert count_parameters(full_size("unet", 2, in_channels=1)) == 31_030_658


@pytest.mark.parametrize("up", ["transposed", "nearest"])
@pytest.mark.parametrize(
    ("backbone", "joined"),
    # Channels of the maps at strides 16, 8, 4, 2 and 1.
    [("test_resnet", (192, 48, 32, 32, 0)), ("vgg11", (512, 512, 256, 128, 64)), ("test_vit", (64, 64, 64, 0, 0))],
)
def test_unets_expansive_path_joins_the_maps_of_a_backbone(backbone: str, joined: Sequence[int], up: Any) -> None:
    torch.manual_seed(0)
    model: Any = UNet(3, backbone=backbone, width=2, up=up).eval()
    before, doubled = model.backbone.channels[-1], []
    for after in (32, 16, 8, 4, 2):
        doubled.append(after if up == "transposed" else before)
        before = after
    seen = [merge[0].in_channels - channels for merge, channels in zip(model.merge, doubled, strict=True)]
    assert seen == list(joined)
    out = model(torch.randn(1, 3, 33, 47))["out"]
    assert out.shape == (1, 3, 33, 47)
    out.square().sum().backward()
    assert next(model.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"padding": "valid", "backbone": "test_resnet"}, "that is the paper's form, without backbone"),
        ({"padding": "valid", "up": "nearest"}, "and with up='transposed'"),
        ({"up": "bilinear"}, "up is 'bilinear'; U-Net's levels are doubled by"),
    ],
)
def test_forms_that_unet_has_not_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        UNet(3, **options)


def test_mirroring_continues_beyond_the_image() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]]).expand(1, 1, 2, 3)
    assert mirror_pad(row, 0, 0, 4, 3)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("e_net", 3), "unknown architecture 'e_net'; did you mean 'enet'?"),
        (lambda: create_model("enet", 3, widht=2), "enet: unknown keyword 'widht'; did you mean 'width'?"),
        (lambda: create_model("enet", 3, backbone="resnet18"), "enet: its paper fixes the encoder; it takes no"),
        (lambda: create_model("enet", 0), "num_classes is 0"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises((UnknownModelError, ValueError), match=message.replace("?", r"\?")):
        call()
