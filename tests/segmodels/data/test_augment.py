"""Augmentation: image and label stay together, and randomness follows (seed, epoch, index)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segmodels.data.augment import (
    Augmentation,
    augment,
    color_map,
    focus_box,
    joint_transforms,
    normalize,
)
from segmodels.data.cache import Cache
from segmodels.data.loading import Decoded, EpochSampler, EvaluationSet, TrainingSet, training_loader
from segmodels.data.targets import take_centers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOW = Augmentation(crop=(32, 40), scale=(0.5, 2.0), flip=0.5, color=0.3)


def test_a_sample_depends_on_seed_epoch_and_index_alone(dataset: Path) -> None:
    first = TrainingSet(Decoded(dataset, "train"), HOW, MEAN, STD, seed=1)
    again = TrainingSet(Decoded(dataset, "train"), HOW, MEAN, STD, seed=1)
    for index in (7, 2, 5):
        assert torch.equal(first[3, index]["image"], again[3, index]["image"])
    assert not torch.equal(first[3, 2]["image"], first[4, 2]["image"])
    other = TrainingSet(Decoded(dataset, "train"), HOW, MEAN, STD, seed=2)
    assert not torch.equal(first[3, 2]["image"], other[3, 2]["image"])


def test_workers_change_nothing(dataset: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = TrainingSet(Decoded(dataset, "train"), HOW, MEAN, STD, seed=0)
        sampler = EpochSampler(len(data), 0)
        sampler.set_epoch(2)
        batches.append(list(training_loader(data, sampler, 4, workers)))
    for one, other in zip(*batches, strict=True):
        assert one.keys() == other.keys() == {"image", "labels"}
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["labels"], other["labels"])


def test_each_epoch_sees_every_sample_once_over_all_processes() -> None:
    seen = []
    for rank in range(3):
        sampler = EpochSampler(12, 5, rank=rank, world=3)
        sampler.set_epoch(1)
        seen += list(sampler)
    assert sorted(seen) == [(1, i) for i in range(12)]


def test_label_and_image_are_moved_alike() -> None:
    # The image carries its label as colour, so that any disagreement is seen.
    label = torch.zeros(60, 80, dtype=torch.uint8)
    label[20:40, 30:60] = 1
    image = (label * 200).expand(3, -1, -1).contiguous()
    plain = Augmentation(crop=(48, 48), scale=(0.5, 2.0), flip=0.5)
    zero, one = torch.zeros(3), torch.ones(3)
    for seed in range(30):
        sample = augment(image, {"labels": label}, plain, np.random.default_rng(seed), zero, one)
        pixels, target = sample["image"], sample["labels"]
        assert pixels.shape == (3, 48, 48)
        valid = target != 255
        disagree = ((pixels[0] > 100 / 255) != (target == 1)) & valid
        assert disagree.float().mean() < 0.03
        assert (pixels[:, ~valid] == 0).all()


def test_a_small_image_is_padded_with_void() -> None:
    image, label = torch.full((3, 20, 20), 9, dtype=torch.uint8), torch.zeros(20, 20, dtype=torch.uint8)
    how = Augmentation(crop=(40, 50), scale=(1.0, 1.0))
    sample = augment(image, {"labels": label}, how, np.random.default_rng(0), torch.zeros(3), torch.ones(3))
    target = sample["labels"]
    assert (target == 0).sum() == 400
    assert (target == 255).sum() == 40 * 50 - 400


def test_without_jitter_the_colour_map_is_normalisation() -> None:
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    image = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8)
    matrix, offset = color_map(0.0, np.random.default_rng(0), mean, std)
    ours = (matrix @ image.reshape(3, -1).float() + offset[:, None]).view(3, 5, 6)
    torch.testing.assert_close(ours, normalize(image, mean, std), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        normalize(image, mean, std), (image / 255 - mean[:, None, None]) / std[:, None, None], rtol=1e-4, atol=1e-5
    )


def test_grey_stays_grey_under_saturation_and_hue() -> None:
    mean, std = torch.tensor([0.5, 0.5, 0.5]), torch.ones(3)
    matrix, offset = color_map(0.5, np.random.default_rng(3), mean, std)
    grey = matrix @ torch.full((3,), 100.0) + offset
    torch.testing.assert_close(grey, grey.mean().expand(3), rtol=1e-3, atol=1e-4)


def test_label_resizing_takes_the_pixel_at_the_centre() -> None:
    label = torch.arange(6, dtype=torch.uint8).repeat(6, 1)
    assert take_centers(label, (2, 2)).tolist() == [[1, 4], [1, 4]]
    assert take_centers(label, (6, 12))[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_evaluation_batches_keep_labels_at_full_size(dataset: Path) -> None:
    data = Decoded(dataset, "test", size=(32, 40), resize_targets=False)
    evaluated = EvaluationSet(data, 3, MEAN, STD)
    batches = [evaluated[i] for i in range(len(evaluated))]
    assert [len(batch["image"]) for batch in batches] == [3, 1]
    assert batches[0]["image"].shape[-2:] == (32, 40)
    assert batches[0]["labels"].shape[-2:] == (49, 63)


def test_transforms_v2_can_be_added_by_name() -> None:
    extra = joint_transforms({"RandomRotation": {"degrees": [20, 20], "expand": False}})
    assert extra is not None
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    turned, targets = extra(image, {"labels": torch.ones(40, 40, dtype=torch.uint8)}, seed=0)
    label = targets["labels"]
    # What the rotation made up is void, the rest keeps its label.
    assert (label[turned[0] == 0] == 255).float().mean() > 0.9
    assert (label[20, 20], turned[0, 20, 20]) == (1, 255)
    again, _ = extra(image, {"labels": torch.ones(40, 40, dtype=torch.uint8)}, seed=0)
    assert torch.equal(turned, again)
    with pytest.raises(ValueError, match="has no transform 'RandomRotaton'"):
        joint_transforms({"RandomRotaton": {}})


def objects() -> torch.Tensor:
    """Void, but for a small object inside, one at the border, a wide one, and a tiny one in a corner."""
    label = torch.full((90, 120), 255, dtype=torch.uint8)
    label[30:60, 50:70] = 3
    label[0:20, 90:120] = 3
    label[70:75, 5:85] = 7
    label[89, 119] = 1
    return label


OBJECTS = ((30, 50, 60, 70), (0, 90, 20, 120), (70, 5, 75, 85), (89, 119, 90, 120))
Box = tuple[int, int, int, int]


def shared(box: Box, other: Box) -> int:
    """Pixels that two boxes (top, left, bottom, right) have in common."""
    return max(0, min(box[2], other[2]) - max(box[0], other[0])) * max(0, min(box[3], other[3]) - max(box[1], other[1]))


@pytest.mark.parametrize("loose", [False, True])
def test_a_window_follows_its_generator_and_lies_in_the_image(loose: bool) -> None:
    found = set()
    for seed in range(200):
        box = focus_box(objects(), np.random.default_rng(seed), loose=loose)
        assert box == focus_box(objects(), np.random.default_rng(seed), loose=loose)
        top, left, bottom, right = box
        assert 0 <= top < bottom <= 90
        assert 0 <= left < right <= 120
        assert any(shared(box, inside) for inside in OBJECTS)
        found.add(box)
    # One window for each object, or many.
    assert len(found) > 50 if loose else len(found) == len(OBJECTS)


def test_a_window_on_an_object_contains_it_and_a_tenth_more_on_every_side_that_the_image_has() -> None:
    windows = {focus_box(objects(), np.random.default_rng(seed), loose=False) for seed in range(200)}
    # At least 16 pixels a side, where an object is smaller.
    assert windows == {(27, 48, 63, 72), (0, 87, 22, 120), (64, 0, 80, 93), (82, 112, 90, 120)}
    for window in windows:
        assert any(shared(window, box) == (box[2] - box[0]) * (box[3] - box[1]) for box in OBJECTS)


def test_every_class_and_every_object_of_a_class_is_as_likely() -> None:
    counts = dict.fromkeys(OBJECTS, 0)
    for seed in range(600):
        box = focus_box(objects(), np.random.default_rng(seed), loose=False)
        counts[
            max(OBJECTS, key=lambda known: shared(box, known) / ((known[2] - known[0]) * (known[3] - known[1])))
        ] += 1
    shares = [count / 600 for count in counts.values()]
    assert np.abs(np.array(shares) - [1 / 6, 1 / 6, 1 / 3, 1 / 3]).max() < 0.06


def test_without_objects_the_window_is_the_image() -> None:
    nothing = torch.full((40, 50), 255, dtype=torch.uint8)
    assert focus_box(nothing, np.random.default_rng(0), loose=True) == (0, 0, 40, 50)


@pytest.mark.parametrize("focus", ["objects", "proposals"])
def test_a_focused_sample_is_its_window_at_the_size_of_the_crop(focus: str) -> None:
    label = objects()
    image = (label % 8 * 30).expand(3, -1, -1).contiguous()
    how = Augmentation(crop=(48, 56), flip=0.0, focus=focus)  # type: ignore[arg-type]
    zero, one = torch.zeros(3), torch.ones(3)
    for seed in range(20):
        sample = augment(image, {"labels": label}, how, np.random.default_rng(seed), zero, one)
        pixels, target = sample["image"], sample["labels"]
        assert pixels.shape == (3, 48, 56)
        top, left, bottom, right = focus_box(label, np.random.default_rng(seed), loose=focus == "proposals")
        assert torch.equal(target, take_centers(label[top:bottom, left:right], (48, 56)).long())
        assert (target != 255).any()
        # Image and label are of the same window.
        disagree = (pixels[0] * 255 - target % 8 * 30).abs() > 60
        assert disagree.float().mean() < 0.2


def test_several_splits_share_one_memory(dataset: Path) -> None:
    one = Decoded(dataset, "train")[0]
    size = one["image"].numel() + one["labels"].numel()
    room = Cache(2.5 * size / 1e9)
    train, val = Decoded(dataset, "train", cache=room), Decoded(dataset, "val", cache=room)
    train[0], val[0], train[1]
    for name in ("image", "labels"):
        assert train[0][name] is train[0][name] and val[0][name] is val[0][name]
        assert train[1][name] is not train[1][name]
