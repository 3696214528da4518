"""Decoded samples in memory that workers share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segmodels.data.augment import Augmentation
from segmodels.data.cache import Cache, SharedCache, cache_for
from segmodels.data.folder import DatasetError
from segmodels.data.loading import Decoded, EpochSampler, TrainingSet, training_loader
from segmodels.data.streets import write_dataset

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "d", seed=0, train=10, val=3, test=1, height=48, width=64, targets=("normals", "depth"))
    return tmp_path / "d"


def epoch(root: Path, cache: Cache, workers: int, epochs: int, between: object = None) -> list[list[dict[str, Tensor]]]:
    decoded = Decoded(root, "train", needs=("labels", "normals", "depth"), cache=cache)
    chosen = TrainingSet(decoded, Augmentation(crop=(32, 40), scale=(0.8, 1.2), color=0.2), *STATISTICS, 0)
    sampler = EpochSampler(len(chosen), 0)
    loader = training_loader(chosen, sampler, 5, workers)
    seen = []
    for number in range(epochs):
        sampler.set_epoch(number)
        seen.append(list(loader))
        if number == 0 and callable(between):
            between()
    return seen


def same(one: list[list[dict[str, Tensor]]], other: list[list[dict[str, Tensor]]]) -> bool:
    return all(
        torch.equal(a[name], b[name])
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
        for name in a
    )


def test_what_one_worker_decoded_all_workers_have(data: Path) -> None:
    """After one epoch the files may be gone; the bits are those of a loader that keeps nothing."""
    plain = epoch(data, Cache(0.0), 0, 3)
    shared = epoch(data, SharedCache(0.1), 2, 3, between=lambda: shutil.rmtree(data / "train"))
    assert same(plain, shared)


def test_without_room_samples_are_decoded_each_time(data: Path) -> None:
    assert same(epoch(data, Cache(0.0), 0, 2), epoch(data, SharedCache(60e3 / 1e9), 2, 2))
    with pytest.raises((DatasetError, RuntimeError, FileNotFoundError)):
        epoch(data, SharedCache(60e3 / 1e9), 2, 2, between=lambda: shutil.rmtree(data / "train"))


def test_the_bound_holds_for_all_splits_together(data: Path) -> None:
    sample = Decoded(data, "train")[0]
    size = sum(values.nbytes for values in sample.values())
    room = SharedCache(3.5 * size / 1e9)
    train, val = Decoded(data, "train", cache=room), Decoded(data, "val", cache=room)
    for decoded in (train, val):
        for index in range(len(decoded)):
            assert torch.equal(decoded[index]["image"], decoded[index]["image"])
    held = [decoded._kept.get(index) is not None for decoded in (train, val) for index in range(len(decoded))]
    assert sum(held) == 3 and int(room.used[0]) <= 3.5 * size


def test_images_come_back_with_channels_last(data: Path) -> None:
    decoded = Decoded(data, "train", needs=("labels", "normals"), cache=SharedCache(0.1))
    first, again = decoded[0], decoded[0]
    for name in first:
        assert torch.equal(first[name], again[name]) and first[name].dtype == again[name].dtype
    assert again["image"].stride() == first["image"].stride()


def test_a_process_alone_keeps_its_own(data: Path) -> None:
    assert type(cache_for(1.0, 0)) is Cache and type(cache_for(1.0, 2)) is SharedCache
    # More than any system promises: workers keep a share each.
    few = cache_for(1e8, 2)
    assert type(few) is Cache and few.take(int(5e16)) and not few.take(int(1e17))
