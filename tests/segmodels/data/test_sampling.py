"""Rare classes seen more often; folds and fractions of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo, samples
from segmodels.data.formats import Choices, Splitting, convert
from segmodels.data.frequencies import repeat_factors
from segmodels.data.loading import EpochSampler
from segmodels.data.writer import DatasetWriter


def dataset(root: Path, labels: list[np.ndarray], classes: int = 3, sequences: int = 0) -> Path:
    infos = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(classes))
    with DatasetWriter(root, "d", infos, source={}) as writer:
        for index, label in enumerate(labels):
            image = np.full((*label.shape, 3), index, np.uint8)
            sequence = f"film{index // sequences}" if sequences else ""
            writer.add("train", f"{index:03}", image, label.astype(np.uint8), sequence=sequence)
        writer.add("val", "v", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    return root


def test_images_of_rare_classes_are_wanted_by_the_root_of_their_rarity(tmp_path: Path) -> None:
    """Class 1 is in one image of ten, class 2 in none: sqrt(0.4 / 0.1) = 2."""
    labels = [np.zeros((8, 8)) for _ in range(10)]
    labels[3][0, 0] = 1
    often = repeat_factors(dataset(tmp_path / "d", labels), "train", 3, 0.4)
    assert often.tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def test_an_epoch_draws_samples_in_their_proportion() -> None:
    often = np.array([1.0, 1.0, 4.0, 2.0])
    sampler = EpochSampler(400, 0, often=np.tile(often, 100))
    seen = np.zeros(400, int)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn = [index for _, index in sampler]
        assert len(drawn) == 400
        seen += np.bincount(drawn, minlength=400)
    assert np.abs(seen.reshape(100, 4).sum(0) / seen.sum() - often / often.sum()).max() < 0.02
    once = [index for _, index in sampler]
    assert once == [index for _, index in sampler] and once != sorted(once)
    # Two processes share an epoch; a resume skips what was seen.
    parts = [EpochSampler(400, 0, rank=rank, world=2, often=np.tile(often, 100)) for rank in (0, 1)]
    for part in parts:
        part.set_epoch(19)
    assert sorted(i for part in parts for _, i in part) == sorted(once)
    sampler.set_epoch(19, skip=100)
    assert [index for _, index in sampler] == once[100:]


def _own(root: Path, count: int) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(root / f"images/{index:03}.png")
        Image.fromarray(np.full((8, 8), index % 2, np.uint8)).save(root / f"labels/{index:03}.png")
    (root / "classes.txt").write_text("a\nb\n")
    return root


def test_every_sample_is_in_one_fold_and_the_test_split_in_none(tmp_path: Path) -> None:
    root = _own(tmp_path / "own", 31)
    held: list[str] = []
    tests = set()
    for fold in range(4):
        out = tmp_path / f"fold{fold}"
        convert(root, out=out, splitting=Splitting(folds=4, fold=fold))
        ids = {split: [s.id for s in samples(out, split)] for split in ("train", "val", "test")}
        assert not set(ids["train"]) & set(ids["val"])
        held += ids["val"]
        tests.add(tuple(ids["test"]))
    (test,) = tests
    assert sorted([*held, *test]) == [f"{i:03}" for i in range(31)]


def test_films_stay_together_in_folds(tmp_path: Path) -> None:
    ids = [f"{i:03}" for i in range(40)]
    groups = {i: f"film{int(i) // 5}" for i in ids}
    dealt = Splitting(folds=4, fold=1).folded(ids, groups)
    assert all(len({dealt[i] for i in ids if groups[i] == film}) == 1 for film in groups.values())
    assert list(dealt.values()).count("val") == 10
    with pytest.raises(DatasetError, match=r"data\.folds is 9, but there are 8 samples or groups"):
        Splitting(folds=9).folded(ids, groups)


def test_a_fraction_keeps_the_same_images_and_more_of_a_larger_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _own(tmp_path / "own", 40)
    kept: list[set[str]] = []
    for fraction in (0.25, 0.5, 1.0):
        out = tmp_path / f"{fraction}"
        convert(root, out=out, splitting=Splitting(fraction=fraction))
        kept.append({s.id for s in samples(out, "train")})
        others = {split: [s.id for s in samples(out, split)] for split in ("val", "test")}
    assert kept[0] < kept[1] < kept[2] and len(kept[0]) == round(len(kept[2]) / 4)
    assert "data.fraction is 0.25" in caplog.text and others["val"] and others["test"]


def test_a_dataset_folder_can_be_folded_and_thinned(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", [np.zeros((8, 8)) for _ in range(11)])
    convert(root, out=tmp_path / "half", splitting=Splitting(fraction=0.5))
    assert DatasetInfo.read(tmp_path / "half").splits == {"train": 6, "val": 1}
    convert(root, out=tmp_path / "fold", splitting=Splitting(folds=3, fold=2), choices=Choices())
    assert DatasetInfo.read(tmp_path / "fold").splits == {"train": 8, "val": 4}
