"""What the Layer Cascade paper fixes: pixels leave when they are certain, and cost nothing afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segmodels.layers.fuse import fuse_batch_norm
from segmodels.layers.region import Region
from segmodels.models.layer_cascade import LayerCascade

CLASSES = 4


def cascade(**options: Any) -> Any:
    """A network of which the stages disagree, and whose certainty varies over the image."""
    torch.manual_seed(0)
    model = LayerCascade(CLASSES, **{"width": 0.05, "modules": (1, 2, 1), **options}).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def images(height: int = 96, width: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)


def first_stage(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The first stage's map and score, which every pixel gets."""
    x = model.stem(x)
    pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    x = torch.cat([*[branch(x, None) for branch in model.mixed], model.mixed_pool(pooled, None)], dim=1)
    x = model.stage1(x, None)
    return x, model.heads[0](x, None)


def certainty(score: Tensor) -> Tensor:
    return score.softmax(1).amax(1, keepdim=True)


def median_threshold(model: Any, share: float = 0.3) -> float:
    """The threshold at which this share of the pixels stays after the first stage."""
    return certainty(first_stage(model, images())[1]).quantile(share).item()


@torch.no_grad()
def test_with_threshold_1_the_last_stage_decides_every_pixel() -> None:
    model = cascade(threshold=1.0)
    x, _ = first_stage(model, images())
    x = model.stage3(model.stage2(x, None), None)
    expected = F.interpolate(model.heads[2](x, None), size=(96, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images())["out"], expected)


@torch.no_grad()
def test_with_threshold_0_the_first_stage_decides_every_pixel_and_no_other_is_computed() -> None:
    model = cascade(threshold=0.0)
    expected = F.interpolate(first_stage(model, images())[1], size=(96, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images())["out"], expected)
    with FlopCounterMode(display=False) as counter:
        model(images())
    with FlopCounterMode(display=False) as first:
        first_stage(model, images())
    assert counter.get_total_flops() == first.get_total_flops()


@torch.no_grad()
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_whole_network_gives_the_same_by_lists_and_by_masks(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cascade()
    model.threshold = median_threshold(model, share)
    listed = model(images())["out"]
    monkeypatch.setattr("segmodels.models.layer_cascade._DENSE_ABOVE", -1.0)
    torch.testing.assert_close(listed, model(images())["out"])


@torch.no_grad()
def test_with_norms_merged_lists_give_the_same() -> None:
    model = cascade(threshold=1.0)
    merged: Any = fuse_batch_norm(model, images())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in merged.modules())
    merged.threshold = model.threshold = median_threshold(model)
    torch.testing.assert_close(merged(images())["out"], model(images())["out"])


@torch.no_grad()
def test_a_lower_threshold_computes_less() -> None:
    model = cascade()
    flops = []
    for threshold in (1.0, median_threshold(model, 0.3), median_threshold(model, 0.1), median_threshold(model, 0.02)):
        model.threshold = threshold
        with FlopCounterMode(display=False) as counter:
            model(images())
        flops.append(counter.get_total_flops())
    assert flops == sorted(flops, reverse=True)
    assert len(set(flops)) == 4


@torch.no_grad()
def test_a_stage_decides_the_pixels_it_is_given_and_no_others() -> None:
    model = cascade()
    model.threshold = median_threshold(model)
    x, score = first_stage(model, images())
    mask = certainty(score) <= model.threshold
    assert 0 < mask.float().mean() < 0.5
    for stage, head in ((model.stage2, model.heads[1]), (model.stage3, model.heads[2])):
        region = Region(mask, listed=False)
        x = stage(region.enter(x), region)
        decided = region.leave(head(x, region), score)
        changed = (decided != score).any(1, keepdim=True)
        assert torch.equal(changed, mask)
        score = decided
        mask = mask & (certainty(score) <= model.threshold)
    expected = F.interpolate(score, size=(96, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images())["out"], expected)


@torch.no_grad()
def test_a_region_without_pixels_is_passed_through() -> None:
    model = cascade()
    region = Region(torch.zeros(1, 1, 6, 6, dtype=torch.bool), listed=True)
    x = torch.rand(1, model.stage1[0].join.conv.out_channels, 6, 6, dtype=torch.float64)
    outside = torch.randn(1, CLASSES, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        region.leave(model.heads[1](model.stage2(region.enter(x), region), region), outside), outside
    )


def test_training_sees_what_evaluation_does() -> None:
    model = cascade()
    with torch.no_grad():
        model.threshold = certainty(first_stage(model, images())[1]).quantile(0.4).item()
        expected = model(images())["out"]
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        outputs = model(images())
    assert 0 < outputs["mask3"].double().mean() <= outputs["mask2"].double().mean() < 0.5
    torch.testing.assert_close(outputs["out"], expected)


def test_without_the_cascade_every_stage_learns_from_all_pixels() -> None:
    model = cascade(cascade_training=False).train()
    outputs = model(images())
    assert outputs["mask2"].all()
    assert outputs["mask3"].all()
    target = torch.randint(0, CLASSES, (2, 96, 128))
    small = target[:, ::8, ::8]
    expected = torch.stack([F.cross_entropy(outputs[f"stage{i}"], small) for i in (1, 2, 3)]).sum()
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)


def test_each_stage_learns_from_the_pixels_that_reach_it() -> None:
    model = cascade().train()
    model.threshold = certainty(model(images())["stage1"]).quantile(0.3).item()
    outputs = model(images())
    masks = [None, outputs["mask2"], outputs["mask3"]]
    assert torch.equal(outputs["mask2"], certainty(outputs["stage1"]) <= model.threshold)
    assert torch.equal(outputs["mask3"], outputs["mask2"] & (certainty(outputs["stage2"]) <= model.threshold))
    target = torch.randint(0, CLASSES, (2, 96, 128))
    small = target[:, ::8, ::8]
    for stage, mask in enumerate(masks, start=1):
        outputs[f"stage{stage}"].retain_grad()
        if mask is not None:
            assert 0 < mask.float().mean() < 0.5
    model.loss(outputs, {"labels": target}).backward()
    for stage, mask in enumerate(masks, start=1):
        gradient = outputs[f"stage{stage}"].grad
        seen = (gradient != 0).any(1, keepdim=True)
        assert torch.equal(seen, torch.ones_like(seen) if mask is None else mask)
    # The mean is over the pixels that the stage sees.
    term = F.cross_entropy(outputs["stage2"].movedim(1, -1)[masks[1][:, 0]], small[masks[1][:, 0]])
    alone = F.cross_entropy(outputs["stage1"], small)
    third = F.cross_entropy(outputs["stage3"].movedim(1, -1)[masks[2][:, 0]], small[masks[2][:, 0]])
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), alone + term + third)


@pytest.mark.parametrize("cascade_training", [False, True])
def test_void_teaches_no_stage(cascade_training: bool) -> None:
    model = cascade(cascade_training=cascade_training, threshold=0.9).train()
    outputs = model(images())
    for name in ("stage1", "stage2", "stage3"):
        outputs[name].retain_grad()
    target = torch.randint(0, CLASSES, (2, 96, 128))
    target[:, :, :64] = 255
    model.loss(outputs, {"labels": target}).backward()
    for name in ("stage1", "stage2", "stage3"):
        gradient = outputs[name].grad
        assert (gradient[..., :8] == 0).all()
        assert (gradient[..., 8:] != 0).any()


def test_a_threshold_that_no_probability_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold is 1\.5; a probability lies in 0\.\.1"):
        LayerCascade(CLASSES, threshold=1.5)
