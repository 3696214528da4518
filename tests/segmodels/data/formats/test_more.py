"""Large vocabularies, and mattes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segmodels.data.folder import DatasetError
from tests.segmodels.data.formats.making import Converted, ids, picture, write
from tests.segmodels.data.formats.test_coco import CAR


def lvis(root: Path, categories: int) -> Path:
    for split in ("train", "val"):
        picture(root / f"{split}2017/000000391895.jpg", 6, 8)
        address = f"http://images.cocodataset.org/{split}2017/000000391895.jpg"
        content = {
            "images": [{"id": 391895, "coco_url": address, "height": 6, "width": 8}],
            "categories": [{"id": i, "name": f"thing_{i}"} for i in range(1, categories + 1)],
            "annotations": [{"id": 1, "image_id": 391895, "category_id": categories, "segmentation": [CAR]}],
        }
        write(root / f"lvis_v1_{split}.json", json.dumps(content))
    return root


def test_lvis_finds_images_by_their_addresses_and_classes_are_chosen(tmp_path: Path) -> None:
    root = lvis(tmp_path / "l", 1203)
    with pytest.raises(DatasetError, match="1204 classes; labels of 8 bits hold at most 255"):
        Converted(root, tmp_path / "out")
    read = Converted(root, tmp_path / "out", classes={"last": ["thing_1203"], "rest": "*"})
    assert (read.key, dict(read.info.splits)) == ("lvis", {"train": 1, "val": 1})
    (sample,) = read.ids("train")
    assert read.named("train", sample)[2][:3] == ["rest", "last", "last"]


@pytest.mark.parametrize(("images", "mattes"), [("blurred_image", "mask"), ("original", "mask"), ("fg", "alpha")])
def test_mattes_are_foreground_from_half_of_their_opacity_on(tmp_path: Path, images: str, mattes: str) -> None:
    for split in ("train", "validation/P3M-500-P"):
        picture(tmp_path / f"p/{split}/{images}/p_1.jpg", 1, 4)
        ids(tmp_path / f"p/{split}/{mattes}/p_1.png", [[0, 127, 128, 255]])
    read = Converted(tmp_path / "p", tmp_path / "out")
    assert (read.key, dict(read.info.splits)) == ("mattes", {"train": 1, "val": 1})
    assert read.named("train", "p_1") == [["background", "background", "foreground", "foreground"]]


def test_a_portrait_without_its_matte_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"p/image/{name}.jpg", 1, 2)
    ids(tmp_path / "p/matte/a.png", [[0, 255]])
    with pytest.raises(DatasetError, match=r"b.jpg: has no matte in .*matte"):
        Converted(tmp_path / "p", tmp_path / "out")


def test_masks_of_somebodys_own_beside_originals_are_no_mattes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"p/original/{name}.jpg", 1, 4)
        ids(tmp_path / f"p/mask/{name}.png", [[0, 1, 2, 3]])
    with pytest.raises(DatasetError, match="no known layout"):
        Converted(tmp_path / "p", tmp_path / "out")
