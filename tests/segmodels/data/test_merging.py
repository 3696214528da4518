"""Several dataset folders as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo, read_label, samples
from segmodels.data.merging import merge
from segmodels.data.writer import DatasetWriter


def dataset(root: Path, name: str, classes: list[str], **more: object) -> Path:
    """A dataset whose one training label has each class in a column, then void."""
    infos = tuple(ClassInfo(c, (i, 0, len(c))) for i, c in enumerate(classes))
    label = np.array([[*range(len(classes)), 255]], np.uint8).repeat(3, 0)
    image = np.zeros((*label.shape, 3), np.uint8)
    with DatasetWriter(root, name, infos, source={"licence": f"of {name}"}, targets=more.get("targets")) as writer:  # type: ignore[arg-type]
        truth = {"depth": np.full(label.shape, 7.0, np.float32)} if more.get("targets") else {}
        writer.image = more.get("image", {})  # type: ignore[assignment]
        for split in ("train", "val"):
            writer.add(split, "a", image, label, sequence="film" if split == "train" else "", targets=truth)
    return root


def test_classes_of_one_name_are_one_class(tmp_path: Path) -> None:
    one = dataset(tmp_path / "one", "one", ["road", "sky", "car"])
    two = dataset(tmp_path / "two", "two", ["car", "tree", "road"])
    info = merge([one, two], tmp_path / "both", "both")
    assert info.class_names == ["road", "sky", "car", "tree"]
    assert info.palette[:3] == DatasetInfo.read(one).palette  # colours of the first that has the class
    labels = {s.id: read_label(s.label)[0].tolist() for s in samples(tmp_path / "both", "train")}
    assert labels == {"one_a": [0, 1, 2, 255], "two_a": [2, 3, 0, 255]}
    assert info.splits == {"train": 2, "val": 2} and info.source["licence"] == "of one; of two"
    assert {k: dict(v) for k, v in info.sequences.items()} == {
        "train": {"one_film": ("one_a",), "two_film": ("two_a",)}
    }


def test_targets_that_both_have_are_kept(tmp_path: Path) -> None:
    depth = {"depth": {"unit": "m", "scale": 0.01}}
    one = dataset(tmp_path / "one", "d", ["road"], targets=depth)
    two = dataset(tmp_path / "two", "d", ["sky"], targets=depth)
    info = merge([one, two], tmp_path / "both", "both")
    assert dict(info.targets) == depth
    assert (tmp_path / "both/train/depth/two_a.png").read_bytes() == (two / "train/depth/a.png").read_bytes()
    three = dataset(tmp_path / "three", "three", ["sky"])
    assert not merge([one, three], tmp_path / "less", "less").targets


def test_images_that_are_read_otherwise_are_refused(tmp_path: Path) -> None:
    one = dataset(tmp_path / "one", "one", ["road"], image={"take": [1], "scale": [], "mean": [0.5], "std": [0.2]})
    two = dataset(tmp_path / "two", "two", ["road"])
    with pytest.raises(DatasetError, match="their images are read with other bands or scales"):
        merge([one, two], tmp_path / "both", "both")
    assert not (tmp_path / "both").exists()
