"""Videos: frames keep their sequence, and their objects are told apart where the files do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]


def davis(root: Path, year: int) -> Path:
    for sequence in ("bear", "bike-packing", "soapbox"):
        for frame in ("00000", "00001"):
            picture(root / f"JPEGImages/480p/{sequence}/{frame}.jpg")
            if year == 2017:
                ids(root / f"Annotations/480p/{sequence}/{frame}.png", [[0, 2, 255], [0, 2, 1]], palette=PALETTE)
            else:
                ids(root / f"Annotations/480p/{sequence}/{frame}.png", [[0, 255, 255], [0, 0, 255]])
    return root


def test_davis_2017_has_objects_and_lists_of_sequences(tmp_path: Path) -> None:
    root = davis(tmp_path / "DAVIS", 2017)
    write(root / "ImageSets/2017/train.txt", "bear\n")
    write(root / "ImageSets/2017/val.txt", "bike-packing\n")
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, read.ids("train"), read.ids("val")) == ("davis", ["bear_00000", "bear_00001"], [
        "bike-packing_00000", "bike-packing_00001",
    ])  # fmt: skip
    assert read.label("val", "bike-packing_00001") == [[0, 1, 255], [0, 1, 1]]
    assert read.truth("val", "bike-packing_00001", "instances").tolist() == [[0, 2, 0], [0, 2, 1]]
    assert list(read.info.sequences["val"]) == ["bike-packing"]


def test_davis_2016_is_black_and_white(tmp_path: Path) -> None:
    root = davis(tmp_path / "DAVIS", 2016)
    for split, sequence in (("train", "bear"), ("val", "soapbox")):
        line = f"/JPEGImages/480p/{sequence}/00000.jpg /Annotations/480p/{sequence}/00000.png \n"
        write(root / f"ImageSets/480p/{split}.txt", line)
    read = Converted(root, tmp_path / "out")
    assert (read.ids("train"), read.label("val", "soapbox_00000")) == (
        ["bear_00000", "bear_00001"],
        [[0, 1, 1], [0, 0, 1]],
    )


@pytest.mark.parametrize(("year", "row"), [(2016, [0, 1, 1]), (2017, [0, 1, 255])])
def test_davis_without_lists_is_told_by_its_palette_and_dealt_by_sequences(
    tmp_path: Path, year: int, row: list[int]
) -> None:
    read = Converted(davis(tmp_path / "d", year), tmp_path / "out")
    for split in read.info.splits:
        assert len(read.ids(split)) == 2
        assert read.label(split, read.ids(split)[0])[0] == row


def test_davis_without_images_is_told_so(tmp_path: Path) -> None:
    ids(tmp_path / "d/Annotations/480p/bear/00000.png", [[0]])
    with pytest.raises(DatasetError, match=r"this is DAVIS.*JPEGImages/480p/ is missing"):
        find(tmp_path / "d")


def test_bdd100k_has_cityscapes_train_ids_and_objects_in_two_channels(tmp_path: Path) -> None:
    root = tmp_path / "bdd100k"
    for split, name in (("train", "0a0a0b1a-7c39d841"), ("val", "7d2f7975-e0c1c5a7")):
        picture(root / f"images/10k/{split}/{name}.jpg")
        ids(root / f"labels/sem_seg/masks/{split}/{name}.png", [[0, 13, 13], [255, 18, 10]])
        pixels = np.zeros((2, 3, 4), np.uint8)
        pixels[0, 1], pixels[0, 2] = (3, 0, 1, 44), (3, 0, 0, 44)
        path = root / f"labels/ins_seg/bitmasks/{split}/{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert read.key == "bdd100k"
    assert read.named("val", "7d2f7975-e0c1c5a7") == [["road", "car", "car"], ["-", "bicycle", "sky"]]
    assert read.truth("val", "7d2f7975-e0c1c5a7", "instances").tolist() == [[0, 2, 1], [0, 0, 0]]


def test_bdd100ks_first_release_names_train_ids(tmp_path: Path) -> None:
    root = tmp_path / "bdd100k"
    for split in ("train", "val"):
        picture(root / f"seg/images/{split}/a-{split}.jpg")
        ids(root / f"seg/labels/{split}/a-{split}_train_id.png", [[0, 13, 13], [255, 18, 10]])
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.label("val", "a-val")) == ("bdd100k", [[0, 13, 13], [255, 18, 10]])
    ids(root / "seg/labels/val/a-val_train_id.png", [[0, 19, 0]])
    with pytest.raises(DatasetError, match=r"a-val_train_id.png: id 19 at x=1, y=0"):
        Converted(root, tmp_path / "out")


def vkitti(root: Path) -> Path:
    for world in ("0001", "0002", "0006"):
        picture(root / f"vkitti_1.3.1_rgb/{world}/clone/00000.png")
        road, car, van = (100, 60, 100), (200, 200, int(world)), (7, 8, 9)
        colors(root / f"vkitti_1.3.1_scenegt/{world}/clone/00000.png", [[road, car, van], [road, road, car]])
        lines = ["Category(:id) r g b", "Road 100 60 100", f"Car:0 200 200 {int(world)}", "Van:12 7 8 9"]
        encoding = f"vkitti_1.3.1_scenegt/{world}_clone_scenegt_rgb_encoding.txt"
        write(root / encoding, "\n".join(lines) + "\n")
        ids(root / f"vkitti_1.3.1_depthgt/{world}/clone/00000.png", [[655, 65535, 1], [2, 3, 4]], np.uint16)
    return root


def test_virtual_kitti_1_has_colours_of_each_drive(tmp_path: Path) -> None:
    read = Converted(vkitti(tmp_path / "v"), tmp_path / "out", targets=("instances", "depth"))
    assert (read.key, read.info.num_classes) == ("vkitti1", 14)
    for split in read.info.splits:
        (sample,) = read.ids(split)
        assert read.named(split, sample) == [["Road", "Car", "Van"], ["Road", "Road", "Car"]]
        assert read.truth(split, sample, "instances").tolist() == [[0, 1, 13], [0, 0, 1]]
        assert read.truth(split, sample, "depth")[0].tolist() == pytest.approx([6.55, 0, 0.01])


def test_a_drive_without_its_colours_or_with_an_unknown_category_is_named(tmp_path: Path) -> None:
    root = vkitti(tmp_path / "v")
    encoding = root / "vkitti_1.3.1_scenegt/0002_clone_scenegt_rgb_encoding.txt"
    write(encoding, "Category(:id) r g b\nSpaceship 1 2 3\n")
    with pytest.raises(DatasetError, match=r"0002_clone.*'Spaceship 1 2 3' is not `Category r g b`"):
        Converted(root, tmp_path / "out")
    encoding.unlink()
    with pytest.raises(DatasetError, match=r"0002_clone_scenegt_rgb_encoding.txt: no such file"):
        Converted(root, tmp_path / "out")
