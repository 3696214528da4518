"""Whatever a person gives as data becomes a dataset folder, or gets one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.data.folder import DatasetError, DatasetInfo, read_image, read_label, samples
from segmodels.data.given import dataset_folder


class Pairs(torch.utils.data.Dataset[Any]):
    """Random images with labels of three classes and void."""

    def __init__(self, count: int, *, floats: bool = False, arrays: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, 40, 48, 3), dtype=np.uint8)
        self.labels = rng.integers(0, 3, (count, 40, 48), dtype=np.uint8)
        self.labels[:, :3] = 255
        self.floats, self.arrays = floats, arrays

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if self.arrays:
            return Image.fromarray(self.images[index]), self.labels[index]
        image = torch.tensor(self.images[index]).permute(2, 0, 1)
        return image / 255 if self.floats else image, torch.tensor(self.labels[index]).long()


def all_samples(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        sample.id: (read_image(sample.image), read_label(sample.label))
        for split in DatasetInfo.read(folder).splits
        for sample in samples(folder, split)
    }


@pytest.mark.parametrize("how", [{}, {"floats": True}, {"arrays": True}], ids=["tensors", "floats", "pictures"])
def test_a_torch_dataset_is_written_pixel_for_pixel(tmp_path: Path, how: dict[str, bool]) -> None:
    data = Pairs(12, **how)
    folder = dataset_folder(data, tmp_path / "made", classes=["sky", "road", "car"])
    info = DatasetInfo.read(folder)
    assert info.class_names == ["sky", "road", "car"] and info.splits.keys() == {"train", "val", "test"}
    written = all_samples(folder)
    assert len(written) == 12
    for sample_id, (image, label) in written.items():
        assert np.array_equal(image, data.images[int(sample_id)])
        assert np.array_equal(label, data.labels[int(sample_id)])


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    assert DatasetInfo.read(dataset_folder(Pairs(4), tmp_path / "made")).class_names == [
        "class 0",
        "class 1",
        "class 2",
    ]


def test_two_folders_are_images_and_their_labels(tmp_path: Path) -> None:
    data = Pairs(8)
    photos, masks = tmp_path / "my photos", tmp_path / "elsewhere" / "painted"
    for folder in (photos, masks):
        folder.mkdir(parents=True)
    for index in range(8):
        Image.fromarray(data.images[index]).save(photos / f"{index}.png")
        Image.fromarray(data.labels[index]).save(masks / f"{index}_mask.png")
    written = all_samples(dataset_folder((photos, str(masks)), tmp_path / "made"))
    assert len(written) == 8
    for sample_id, (image, label) in written.items():
        assert np.array_equal(image, data.images[int(sample_id)]) and np.array_equal(label, data.labels[int(sample_id)])


def test_a_dataset_folder_stays_where_it_is(tmp_path: Path) -> None:
    made = dataset_folder(Pairs(4), tmp_path / "made")
    assert dataset_folder(made, tmp_path / "other") == made and not (tmp_path / "other").exists()
    assert dataset_folder(str(made), tmp_path / "other") == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "nowhere: no such folder"),
        (("nowhere", "neither"), "nowhere: no such folder; give the folder of images and that of their labels"),
        (3, "int is no data; give a folder, two folders or a Dataset with a length"),
        ([], "list: has no samples"),
        ([(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40)))], r"sample 0: its label is float64 \[40, 40\]"),
        ([(np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 300))], "sample 0: its label has ids 300 to 300"),
        ([(torch.zeros(40, 40, 3), np.zeros((40, 40), int))], r"its image is a tensor \[40, 40, 3\]; give \[3, H, W\]"),
    ],
)
def test_what_is_no_data_gets_one_sentence(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        dataset_folder(given, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_more_ids_than_names_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="a label has the id 2, and 2 classes are named"):
        dataset_folder(Pairs(3), tmp_path / "made", classes=["a", "b"])
