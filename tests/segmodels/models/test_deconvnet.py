"""What the DeconvNet paper fixes beyond the number of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model, model_info
from segmodels.models.deconvnet import DeconvNet, windows


def deconvnet(**options: Any) -> DeconvNet:
    """In float64 with statistics of no special value, so that its scores differ from place to place."""
    torch.manual_seed(0)
    model = DeconvNet(4, **{"width": 0.04, **options}).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def images(height: int, width: int, n: int = 1) -> Tensor:
    return torch.randn(n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_un_pooling_puts_each_maximum_back_where_it_was() -> None:
    model = deconvnet()
    sizes, kept = [], []
    for stage in model.encoder:
        stage.register_forward_hook(lambda _, __, output: kept.append(output))
    for stage in model.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0]))
    model(images(64, 96))
    assert [tuple(x.shape[-2:]) for x in sizes] == [(4, 6), (8, 12), (16, 24), (32, 48), (64, 96)]
    for before, restored in zip(kept[::-1], sizes, strict=True):
        # One of four places holds something: the one where the encoder had its maximum.
        filled = F.max_pool2d((restored != 0).double(), 2) * 4
        assert ((restored != 0).double().unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)) <= 1).all()
        assert filled.max() == 4
        largest = before == F.max_pool2d(before, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert largest[:, : restored.shape[1]][restored != 0].all()


@torch.no_grad()
def test_at_224_the_middle_is_one_vector_in_the_papers_form() -> None:
    model = deconvnet(fc6="valid")
    seen: list[Tensor] = []
    model.fc7.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model(images(224, 224))["out"].shape == (1, 4, 224, 224)
    assert seen[0].shape[-2:] == (1, 1)
    padded = deconvnet(fc6="same")
    padded.fc7.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    padded(images(224, 224))
    assert seen[1].shape[-2:] == (7, 7)


def test_the_papers_form_says_how_large_an_image_must_be() -> None:
    model = deconvnet(fc6="valid")
    assert model(images(193, 200))["out"].shape == (1, 4, 193, 200)
    with pytest.raises(ValueError, match=r"images of 192x200 leave pool5 less than 7x7; fc6='valid' needs 193 pixels"):
        model(images(192, 200))


def test_fc6_is_same_or_valid() -> None:
    with pytest.raises(ValueError, match="fc6 is 'full'; the convolution is 'same' or 'valid'"):
        create_model("deconvnet", 4, fc6="full")


def test_windows_begin_with_the_whole_image_and_shrink() -> None:
    found = windows(360, 480, 50)
    assert found[0] == (0, 0, 360, 480)
    assert len(found) == len(set(found)) == 50
    sizes = [(bottom - top) * (right - left) for top, left, bottom, right in found]
    assert sizes == sorted(sizes, reverse=True)
    for top, left, bottom, right in found:
        assert 0 <= top < bottom <= 360
        assert 0 <= left < right <= 480
    assert windows(360, 480, 1) == [(0, 0, 360, 480)]
    # No smaller than 32 pixels.
    assert windows(40, 50, 50) == [(0, 0, 40, 50)]


@torch.no_grad()
def test_each_pixel_keeps_each_classs_highest_score_among_the_proposals_that_cover_it() -> None:
    model = deconvnet()
    given = images(80, 100)
    boxes = [(0, 0, 60, 50), (20, 10, 80, 70)]
    expected = torch.full((1, 4, 80, 100), -torch.inf, dtype=torch.float64)
    for top, left, bottom, right in boxes:
        crop = given[..., top:bottom, left:right]
        large = F.interpolate(crop, size=(224, 224), mode="bilinear", align_corners=False)
        score = F.interpolate(model(large)["out"], size=crop.shape[-2:], mode="bilinear", align_corners=False)
        here = expected[..., top:bottom, left:right]
        here.copy_(torch.maximum(here, score))
    out = model(given, boxes)["out"]
    covered = torch.zeros(80, 100, dtype=torch.bool)
    for top, left, bottom, right in boxes:
        covered[top:bottom, left:right] = True
    torch.testing.assert_close(out[..., covered], expected[..., covered])
    assert (out[..., ~covered] == 0).all()


@torch.no_grad()
def test_proposals_are_windows_in_testing_and_none_in_training() -> None:
    model = deconvnet(proposals=3)
    given = images(72, 90, n=2)
    torch.testing.assert_close(model(given)["out"], model(given, windows(72, 90, 3))["out"])
    seen: list[tuple[int, ...]] = []
    model.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    model(given)
    model.train()(given)
    assert seen == [(224, 224)] * 3 + [(72, 90)]


def test_the_recipe_has_two_stages_on_objects_and_on_proposals() -> None:
    recipe = model_info("deconvnet").recipe
    assert recipe["augment"]["crop"] == (224, 224)
    assert [stage["augment"]["focus"] for stage in recipe["stages"]] == ["objects", "proposals"]


def test_imagenet_weights_fill_the_encoder_with_its_norms() -> None:
    from torchvision.models import vgg16_bn

    published = vgg16_bn(weights=None, init_weights=False).state_dict()
    with torch.device("meta"):
        model = DeconvNet(4)
    translated = model.translate(published)
    own = {k: v.shape for k, v in model.state_dict().items() if k.startswith("encoder.")}
    assert {k: translated[k].shape for k in own} == own
