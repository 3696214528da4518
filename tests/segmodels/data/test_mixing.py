"""Samples made of several: what is pasted, and that a seed decides all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.data.augment import Augmentation
from segmodels.data.folder import DatasetError
from segmodels.data.loading import Decoded, TrainingSet
from segmodels.data.mixing import NAMES, mix
from segmodels.data.streets import write_dataset

HEIGHT, WIDTH = 40, 60


def sample(value: int, labels: Any = None) -> dict[str, Tensor]:
    """An image, a label map and depths that all say from which sample a pixel is."""
    label = torch.full((HEIGHT, WIDTH), value) if labels is None else torch.as_tensor(labels).long()
    return {
        "image": torch.full((3, HEIGHT, WIDTH), float(value)),
        "labels": label,
        "depth": torch.full((HEIGHT, WIDTH), float(value)),
    }


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ["cutmix", "mosaic"])
def test_all_targets_move_with_the_image(name: str) -> None:
    numbers = iter(range(1, 100))
    mixed = mix(sample(0), {name: 1.0}, lambda: sample(next(numbers)), rng())
    assert (mixed["image"] == mixed["labels"]).all() and (mixed["depth"] == mixed["labels"]).all()
    assert len(mixed["labels"].unique()) == (2 if name == "cutmix" else 4)


def test_the_rectangles_of_cutmix_have_uniform_areas() -> None:
    shares = [float((mix(sample(0), {"cutmix": 1.0}, lambda: sample(1), rng(seed))["labels"] == 1).float().mean())
              for seed in range(400)]  # fmt: skip
    assert np.abs(np.quantile(shares, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.08
    mixed = mix(sample(0), {"cutmix": 1.0}, lambda: sample(1), rng(3))["labels"]
    rows, columns = torch.nonzero(mixed.any(1)).flatten(), torch.nonzero(mixed.any(0)).flatten()
    assert mixed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle


def test_classmix_pastes_half_of_the_classes_and_no_void() -> None:
    labels = np.repeat([1, 2, 3, 4, 255], WIDTH // 5)[None].repeat(HEIGHT, 0)
    mixed = mix(sample(0), {"classmix": 1.0}, lambda: sample(9, labels), rng())
    pasted = mixed["image"][0] == 9
    assert len(mixed["labels"][pasted].unique()) == 2 and not (mixed["labels"] == 255).any()
    for label in mixed["labels"][pasted].unique():
        assert pasted[torch.as_tensor(labels) == label].all()  # the whole class


def test_copy_paste_takes_whole_objects_but_no_large_ones() -> None:
    labels = np.zeros((HEIGHT, WIDTH), int)  # the background is more than half of the image
    labels[2:8, 2:8], labels[20:30, 40:50], labels[20:30, 2:8] = 1, 1, 2
    counts = set()
    for seed in range(40):
        mixed = mix(sample(7), {"copy_paste": 1.0}, lambda: sample(9, labels), rng(seed))
        pasted = mixed["image"][0] == 9
        assert pasted.any() and not pasted[labels == 0].any()
        boxes = (np.s_[2:8, 2:8], np.s_[20:30, 40:50], np.s_[20:30, 2:8])
        whole, some = [bool(pasted[box].all()) for box in boxes], [bool(pasted[box].any()) for box in boxes]
        assert whole == some
        counts.add(sum(whole))
    assert counts == {1, 2, 3}


def test_nothing_is_mixed_without_a_chance() -> None:
    assert mix(sample(0), dict.fromkeys(NAMES, 0.0), lambda: sample(1), rng())["image"].sum() == 0
    often = sum(bool(mix(sample(0), {"mosaic": 0.3}, lambda: sample(1), rng(s))["image"].any()) for s in range(300))
    assert 60 < often < 120


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "streets"
    write_dataset(root, seed=0, train=6, val=1, test=1, height=48, width=64, targets=("depth",))
    return root


def test_a_seed_decides_what_is_mixed(streets: Path) -> None:
    data = Decoded(streets, "train")
    how = Augmentation(crop=(32, 40), scale=(0.8, 1.2), mix={"cutmix": 0.5, "copy_paste": 0.5, "mosaic": 0.5})
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    one, same, other = (TrainingSet(data, how, mean, std, seed) for seed in (1, 1, 2))
    differ = 0
    for key in [(0, 2), (3, 5), (4, 1)]:
        a, b, c = one[key], same[key], other[key]
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert a["image"].shape == (3, 32, 40) and a["labels"].dtype == torch.int64
        differ += not torch.equal(a["image"], c["image"])
    assert differ == 3


def test_depths_have_no_classes_to_mix_by(streets: Path) -> None:
    data = Decoded(streets, "train", needs=("depth",))
    with pytest.raises(DatasetError, match=r"train\.augment\.mix: classmix and copy_paste choose regions by their lab"):
        TrainingSet(data, Augmentation(mix={"classmix": 0.5}), (0.5,) * 3, (0.2,) * 3, 0)
    mixed = TrainingSet(data, Augmentation(crop=(32, 32), mix={"mosaic": 1.0}), (0.5,) * 3, (0.2,) * 3, 0)[0, 0]
    assert mixed["depth"].shape == (32, 32)
