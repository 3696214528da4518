"""What PointRend and Semantic FPN fix beyond the number of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.models.fpn import FeaturePyramid, SemanticHead
from segmodels.models.pointrend import PointHead, sample, uncertainty

SMALL: dict[str, Any] = {"backbone": "test_resnet", "channels": 16, "head_channels": 8, "point_channels": 8}


def pointrend(**options: Any) -> Any:
    torch.manual_seed(0)
    model = create_model("pointrend", 5, **{**SMALL, **options}).double()
    # Its classifiers begin near zero, where every pixel is as unsure as the next.
    nn.init.normal_(model.classifier.weight)  # type: ignore[union-attr, arg-type]
    nn.init.normal_(model.point_head.classifier.weight)  # type: ignore[union-attr, arg-type]
    return model.eval()


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def centers(height: int, width: int) -> Tensor:
    """The centres of the pixels of a map, (x, y) in 0..1, row by row."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(x / width, y / height, indexing="xy"), -1).view(1, -1, 2)


def test_uncertainty_is_highest_where_the_two_best_classes_are_level() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0], [3.0, 5.0, 0.0], [-9.0, 0.0, 1.5]]])
    torch.testing.assert_close(uncertainty(logits), torch.tensor([[0.0, -4.0, -0.5]]))
    torch.testing.assert_close(uncertainty(torch.tensor([[[0.3, -2.0]]])), torch.tensor([[-0.3, -2.0]]))


def test_a_map_sampled_at_the_centres_of_its_pixels_is_the_map() -> None:
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(sample(features, centers(5, 7).expand(2, -1, -1)), features.flatten(2))


def test_between_pixels_and_beyond_the_outermost_centres_is_sampled_bilinearly() -> None:
    features = torch.tensor([[[[0.0, 4.0]]]])
    places = torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.625, 0.5], [0.0, 0.0], [1.0, 1.0]]])
    # The last place is a corner of the map, where three of its four neighbours are zeros around it.
    torch.testing.assert_close(sample(features, places), torch.tensor([[[0.0, 2.0, 3.0, 0.0, 1.0]]]))


@torch.no_grad()
def test_in_training_three_quarters_of_the_points_are_the_most_unsure_of_thrice_as_many() -> None:
    model = pointrend(train_points=200)
    ramp = torch.linspace(-20, 20, 64, dtype=torch.float64)
    # Two classes, level in the middle column, the rest far below.
    coarse = torch.stack([ramp, -ramp, *[torch.full_like(ramp, -99)] * 3])[None, :, None].expand(1, -1, 32, -1)
    torch.manual_seed(0)
    places = model._unsure_places(coarse, coarse.new_ones(2))
    assert places.shape == (1, 200, 2)
    assert places.min() >= 0
    assert places.max() <= 1
    away = (places[0, :, 0] - 0.5).abs()
    # Of 600 points that are spread evenly, the nearest 150 lie within an eighth of the width from the middle.
    assert away[:150].max() < 0.16
    # The rest is anywhere.
    assert away[150:].max() > 0.35
    assert 0.15 < away[150:].mean() < 0.35
    # Every height is as likely.
    assert 0.4 < places[0, :150, 1].mean() < 0.6


@torch.no_grad()
def test_without_importance_the_points_are_anywhere() -> None:
    model = pointrend(train_points=400, importance=0.0)
    coarse = torch.randn(1, 5, 8, 8, dtype=torch.float64)
    torch.manual_seed(0)
    places = model._unsure_places(coarse, coarse.new_ones(2))
    assert (places.mean((0, 1)) - 0.5).abs().max() < 0.06
    assert (places.var((0, 1)) - 1 / 12).abs().max() < 0.02


def test_points_are_compared_with_the_labels_at_their_places() -> None:
    model = pointrend(train_points=50).train()
    outputs = model(images(50, 70))
    assert outputs["points"].shape == (2, 5, 50)
    assert set(outputs) == {"out", "points", "places"}
    target = torch.randint(0, 5, (2, 50, 70))
    target[:, :25] = 255
    x, y = (outputs["places"] * torch.tensor([70, 50])).long().unbind(-1)
    labels = torch.stack([target[i, y[i], x[i]] for i in (0, 1)])
    expected = F.cross_entropy(outputs["out"], target, ignore_index=255)
    expected = expected + F.cross_entropy(outputs["points"], labels, ignore_index=255)
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)


def test_points_lie_in_the_image_and_not_in_what_extends_it() -> None:
    model = pointrend(train_points=300).train()
    seen: list[Tensor] = []
    model.point_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    outputs = model(images(40, 70))
    # What the head was given is the coarse score at those places of the image.
    score = F.interpolate(outputs["out"], size=(40, 70)).detach()
    at_the_places = sample(score, outputs["places"])
    assert (seen[0].detach() - at_the_places).abs().mean() < 0.2 * at_the_places.abs().mean()


@torch.no_grad()
def test_with_all_points_each_pixel_is_the_point_heads() -> None:
    model = pointrend(test_points=10**9)
    given = images()
    pyramid, coarse = model._pyramid_and_score(given)
    everywhere = centers(64, 96).expand(2, -1, -1)
    expected = model.point_head(sample(pyramid[0], everywhere), sample(coarse, everywhere)).view(2, 5, 64, 96)
    torch.testing.assert_close(model(given)["out"], expected)


@torch.no_grad()
def test_a_subdivision_changes_the_most_unsure_points_and_no_others() -> None:
    model = pointrend(test_points=100)
    pyramid, coarse = model._pyramid_and_score(images())
    refined = model._subdivide(coarse, pyramid[0], coarse)
    plain = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    assert refined.shape == plain.shape == (2, 5, 32, 48)
    changed = (refined != plain).any(1).flatten(1)
    assert changed.sum(1).tolist() == [100, 100]
    unsure = uncertainty(plain.flatten(2))
    for image in range(2):
        assert unsure[image][changed[image]].min() >= unsure[image][~changed[image]].max()


@torch.no_grad()
def test_two_subdivisions_lead_from_a_quarter_of_the_size_to_the_whole() -> None:
    model = pointrend(test_points=100)
    points: list[int] = []
    model.point_head.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].shape[-1]))
    given = images()
    out = model(given)["out"]
    assert points == [100, 100]
    pyramid, coarse = model._pyramid_and_score(given)
    assert coarse.shape[-2:] == (16, 24)
    once = model._subdivide(coarse, pyramid[0], coarse)
    plain = F.interpolate(once, scale_factor=2.0, mode="bilinear", align_corners=False)
    assert (out != plain).any(1).flatten(1).sum(1).tolist() == [100, 100]


@torch.no_grad()
@pytest.mark.parametrize("again", [False, True])
def test_the_point_head_sees_the_coarse_score_once_or_in_every_layer(again: bool) -> None:
    head = PointHead(6, 3, 4, coarse_each_layer=again)
    assert [layer.in_channels for layer in (*head.layers, head.classifier)] == [9, *[4 + 3 * again] * 3]
    fine, coarse = torch.randn(2, 6, 11), torch.randn(2, 3, 11)
    x = torch.cat([fine, coarse], 1)
    for layer in head.layers:
        x = F.relu(layer(x))
        x = torch.cat([x, coarse], 1) if again else x
    torch.testing.assert_close(head(fine, coarse), head.classifier(x))


@torch.no_grad()
def test_a_point_is_classified_by_itself() -> None:
    head = PointHead(6, 3, 4, coarse_each_layer=False)
    fine, coarse = torch.randn(1, 6, 11), torch.randn(1, 3, 11)
    order = torch.randperm(11)
    torch.testing.assert_close(head(fine[..., order], coarse[..., order]), head(fine, coarse)[..., order])


@torch.no_grad()
def test_the_pyramid_hands_every_level_to_the_finer_ones_and_to_no_coarser_one() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid([2, 3, 4, 5], 6)
    maps = [torch.randn(1, c, 32 >> i, 48 >> i) for i, c in enumerate((2, 3, 4, 5))]
    before = pyramid(maps)
    assert [tuple(m.shape) for m in before] == [(1, 6, 32 >> i, 48 >> i) for i in range(4)]
    for level in range(4):
        changed = [m + (i == level) for i, m in enumerate(maps)]
        moved = [not torch.equal(a, b) for a, b in zip(before, pyramid(changed), strict=True)]
        assert moved == [i <= level for i in range(4)]


@torch.no_grad()
def test_the_top_down_path_doubles_by_repetition_and_adds() -> None:
    pyramid = FeaturePyramid([3, 3], 3)
    for conv in (*pyramid.lateral, *pyramid.output):
        nn.init.dirac_(conv.weight)  # type: ignore[arg-type]
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    fine, coarse = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)
    doubled = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(pyramid([fine, coarse]), [fine + doubled, coarse])


@torch.no_grad()
def test_each_level_is_doubled_as_often_as_it_needs_and_the_four_are_added() -> None:
    torch.manual_seed(0)
    head = SemanticHead(6, 8, 4)
    branches: Any = list(head.branches)
    doublings = [sum(isinstance(m, nn.Upsample) for m in branch) for branch in branches]
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in branch) for branch in branches]
    assert (doublings, convolutions) == ([0, 1, 2, 3], [1, 1, 2, 3])
    pyramid = [torch.randn(1, 6, 32 >> i, 48 >> i) for i in range(4)]
    alone = [branch(x) for branch, x in zip(branches, pyramid, strict=True)]
    torch.testing.assert_close(head(pyramid), alone[0] + alone[1] + alone[2] + alone[3])


@torch.no_grad()
def test_semantic_fpn_takes_the_maps_of_its_backbone_at_four_strides_up_to_the_image() -> None:
    torch.manual_seed(0)
    model: Any = create_model("fpn", 5, backbone="test_resnet", channels=16, head_channels=8).eval()
    given = torch.randn(1, 3, 64, 96)
    score = model.classifier(model.head(model.pyramid([model.backbone(given)[i] for i in model.levels])))
    assert score.shape == (1, 5, 16, 24)
    expected = F.interpolate(score, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(given)["out"], expected)


@pytest.mark.parametrize("name", ["fpn", "pointrend"])
def test_a_frozen_norm_is_a_constant_with_the_learned_ones_values(name: str) -> None:
    options: dict[str, Any] = {"channels": 16, "head_channels": 8, "backbone": "test_resnet"}
    torch.manual_seed(0)
    learning = create_model(name, 5, **options).eval()
    for module in learning.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    frozen = create_model(name, 5, **options, frozen_norm=True)
    taken = {k: v for k, v in learning.state_dict().items() if not k.endswith("num_batches_tracked")}
    norms = frozen.load_state_dict(renamed(taken, frozen), strict=True)
    assert not norms.missing_keys
    given = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen.eval()(given)["out"], learning(given)["out"])
    before = {k: v.clone() for k, v in frozen.named_buffers()}
    frozen.train()(given)
    assert all(torch.equal(v, before[k]) for k, v in frozen.named_buffers())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


def renamed(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's batch norms carry their activation; a frozen one stands before it, as the first of two."""
    own = set(model.state_dict())
    return {k if k in own else ".0.".join(k.rsplit(".", 1)): v for k, v in tensors.items()}
