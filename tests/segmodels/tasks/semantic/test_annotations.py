"""What is exported for other tools is read again by the layouts' own readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo, read_label, samples
from segmodels.data.formats import convert
from segmodels.data.writer import DatasetWriter
from segmodels.tasks.semantic.annotations import export


def dataset(root: Path, names: tuple[str, ...] = ("background", "car", "person")) -> Path:
    rng = np.random.default_rng(0)
    classes = tuple(ClassInfo(name, (10 * i, 20, 30)) for i, name in enumerate(names, 1))
    with DatasetWriter(root, "mine", classes, source={"path": "x"}) as writer:
        for split in ("train", "val"):
            for number in range(2):
                blocks = rng.integers(0, len(names), (4, 5), np.uint8)
                label = np.kron(blocks, np.ones((8, 8), np.uint8))
                writer.add(split, f"{split}{number}", np.full((32, 40, 3), 9, np.uint8), label)
    return root


def labels(root: Path) -> dict[str, np.ndarray]:
    info = DatasetInfo.read(root)
    return {s.id: read_label(s.label) for split in info.splits for s in samples(root, split)}


@pytest.mark.parametrize("form", ["folder", "coco", "cvat"])
def test_masks_come_back_as_they_were(tmp_path: Path, form: str) -> None:
    data = dataset(tmp_path / "data")
    assert export(data, tmp_path / "out", form) == 4
    assert convert(tmp_path / "out", out=tmp_path / "again") == form
    assert DatasetInfo.read(tmp_path / "again").class_names == ["background", "car", "person"]
    for name, label in labels(data).items():
        again = {key.removeprefix("train_").removeprefix("val_"): v for key, v in labels(tmp_path / "again").items()}
        assert np.array_equal(again[name], label), name


def test_yolos_outlines_differ_at_edges_alone(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    export(data, tmp_path / "out", "yolo")
    assert convert(tmp_path / "out", out=tmp_path / "again") == "yolo"
    again = {key.split("_")[-1]: v for key, v in labels(tmp_path / "again").items()}
    for name, label in labels(data).items():
        same = again[name] == label
        inner = np.zeros_like(same)
        for row in range(4):
            for column in range(5):
                inner[8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] = True
        assert same[inner].mean() > 0.9


def test_cityscapes_needs_its_names(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="class 'background' is none of Cityscapes' 19"):
        export(dataset(tmp_path / "data"), tmp_path / "out", "cityscapes")
    assert not (tmp_path / "out").exists()
    data = dataset(tmp_path / "streets", ("road", "car", "person"))
    export(data, tmp_path / "out", "cityscapes")
    assert convert(tmp_path / "out", out=tmp_path / "again") == "cityscapes"
    info = DatasetInfo.read(tmp_path / "again")
    held = {info.class_names[v] for label in labels(tmp_path / "again").values() for v in np.unique(label)}
    assert held == {"road", "car", "person"}


def test_predictions_take_the_place_of_labels(tmp_path: Path) -> None:
    from PIL import Image

    data = dataset(tmp_path / "data")
    (tmp_path / "predicted").mkdir()
    Image.fromarray(np.full((32, 40), 2, np.uint8)).save(tmp_path / "predicted/val0.png")
    assert export(data, tmp_path / "out", "folder", tmp_path / "predicted") == 1
    assert (read_label(tmp_path / "out/labels/val/val0.png") == 2).all()


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="form 'cocoa' is unknown; known are folder, coco"):
        export(dataset(tmp_path / "data"), tmp_path / "out", "cocoa")
