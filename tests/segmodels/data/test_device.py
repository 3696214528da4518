"""Colours that a device computes are those that the loader would have computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segmodels.data.augment import Augmentation
from segmodels.data.device import on_device
from segmodels.data.loading import Decoded, EpochSampler, EvaluationSet, TrainingSet, training_loader
from segmodels.data.streets import write_dataset

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("device") / "data"
    write_dataset(root, seed=0, train=6, val=3, test=0, height=48, width=64)
    return root


@pytest.mark.parametrize("crop", [None, (40, 40), (80, 100)], ids=["whole", "cut", "padded"])
def test_a_device_makes_the_batches_that_a_loader_would_have_made(data: Path, crop: tuple[int, int] | None) -> None:
    how = Augmentation(crop=crop, scale=(0.6, 1.7) if crop else (1.0, 1.0), color=0.4)
    batches = []
    for late in (False, True):
        sampler = EpochSampler(6, seed=1)
        dataset = TrainingSet(Decoded(data, "train"), how, MEAN, STD, seed=1, late=late)
        batches.append(list(training_loader(dataset, sampler, 3, 0)))
    for early, late in zip(*batches, strict=True):
        assert late["image"].dtype == torch.uint8
        made = on_device(late, torch.device("cpu"))
        assert made.keys() == early.keys() == {"image", "labels"}
        torch.testing.assert_close(made["image"], early["image"], rtol=0, atol=1e-5)
        assert torch.equal(made["labels"], early["labels"])


def test_images_of_the_validation_are_normalised_alike(data: Path) -> None:
    early, late = (EvaluationSet(Decoded(data, "val"), 2, MEAN, STD, late=late) for late in (False, True))
    for index in range(len(early)):
        made = on_device(late[index], torch.device("cpu"))
        torch.testing.assert_close(made["image"], early[index]["image"], rtol=0, atol=1e-5)
        assert torch.equal(made["labels"], early[index]["labels"])


def test_what_needs_no_colours_is_moved_as_it_is() -> None:
    batch = {"image": torch.randn(2, 3, 4, 4), "labels": torch.zeros(2, 4, 4, dtype=torch.long)}
    moved = on_device(batch, torch.device("cpu"))
    assert all(moved[name] is values for name, values in batch.items())


def test_samples_that_an_epoch_has_taken_are_not_loaded_again() -> None:
    sampler = EpochSampler(10, seed=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, skip=4)
    assert list(sampler) == whole[4:] and len(sampler) == 10
    sampler.set_epoch(4)
    assert len(list(sampler)) == 10 and np.unique([i for _, i in sampler]).size == 10
