"""Rooms: NYUv2, SUN RGB-D and ScanNet in the forms that circulate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, ids, picture, write


def test_nyuv2_has_13_classes_and_the_authors_test_images(tmp_path: Path) -> None:
    root = tmp_path / "nyu"
    for split, number in (("train", 3), ("train", 4), ("test", 1), ("test", 9)):
        picture(root / f"{split}/nyu_rgb_{number:04d}.png")
        ids(root / f"{split}_labels/new_nyu_class13_{number:04d}.png", [[0, 1, 13], [5, 12, 11]])
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes, read.ids("test")) == ("nyuv2", 13, ["0001", "0009"])
    assert read.named("test", "0009") == [["-", "bed", "window"], ["floor", "wall", "tv"]]


def test_nyuv2_has_40_classes_numbered_from_1(tmp_path: Path) -> None:
    root = tmp_path / "n"
    for number in (1, 3, 4):
        picture(root / f"image/{number:04d}.png")
        ids(root / f"label40/{number:04d}.png", [[0, 1, 40], [2, 5, 38]])
    read = Converted(root, tmp_path / "out")
    assert (read.info.num_classes, read.ids("test")) == (40, ["0001"])
    assert read.label("test", "0001") == [[255, 0, 39], [1, 4, 37]]


def test_nyuv2_with_lists_counts_as_they_do(tmp_path: Path) -> None:
    root = tmp_path / "NYUDepthv2"
    for number in range(3):
        picture(root / f"RGB/{number}.jpg")
        ids(root / f"Label/{number}.png", [[0, 1, 40], [2, 5, 38]])
    write(root / "train.txt", "RGB/0.jpg Label/0.png\nRGB/2.jpg Label/2.png\n")
    write(root / "test.txt", "RGB/1.jpg Label/1.png\n")
    assert Converted(root, tmp_path / "out").ids("test") == ["0001"]
    for path in root.glob("*.txt"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"Label: its files are not numbered 1..1449; add train.txt"):
        Converted(root, tmp_path / "out")


def test_nyuv2s_matlab_file_says_what_to_give_instead(tmp_path: Path) -> None:
    write(tmp_path / "n/nyu_depth_v2_labeled.mat", "MATLAB 7.3 MAT-file")
    with pytest.raises(DatasetError, match=r"labeled.mat: is a MATLAB file of version 7.3.*nyuv2-meta-data"):
        Converted(tmp_path / "n", tmp_path / "out")


def test_sun_rgbd_has_13_classes_by_split(tmp_path: Path) -> None:
    root = tmp_path / "sun"
    for split in ("train", "test"):
        for number in (1, 2):
            picture(root / f"SUNRGBD-{split}_images/img-{number:06d}.jpg")
            ids(root / f"{split}13labels/img13labels-{number:06d}.png", [[0, 1, 13], [5, 12, 11]])
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("sun_rgbd", 13)
    assert read.label("test", "test_000002") == [[255, 0, 12], [4, 11, 10]]
    assert sorted(read.ids("train") + read.ids("val")) == ["train_000001", "train_000002"]


def test_sun_rgbd_has_37_classes_whose_first_5050_are_for_testing(tmp_path: Path) -> None:
    root = tmp_path / "sun"
    for split, label in (("train", 5051), ("test", 1)):
        picture(root / f"{split}/img-000001.jpg")
        ids(root / f"sunrgbd_train_test_labels/img-{label:06d}.png", [[0, 1, 37], [5, 12, label % 9]])
        ids(root / f"depth/{split}/00000001.png", [[0, 10000, 25000], [1, 2, 3]], np.uint16)
    read = Converted(root, tmp_path / "out", targets=("depth",))
    assert (read.info.num_classes, read.label("test", "test_000001")) == (37, [[255, 0, 36], [4, 11, 0]])
    assert read.truth("test", "test_000001", "depth")[0].tolist() == pytest.approx([0, 1, 2.5])


def test_sun_rgbds_own_depth_is_rotated_by_three_bits(tmp_path: Path) -> None:
    root = tmp_path / "sun"
    for name, folder, label in (("training", "kv2/a", 5051), ("testing", "kv1/b", 1)):
        picture(root / f"SUNRGBD/{folder}/image/0000121.jpg", 1, 3)
        ids(root / f"SUNRGBD/{folder}/depth/0000121.png", [[0, 2000 << 3, (2001 << 3 | 0) & 0xFFFF]], np.uint16)
        write(root / f"sunrgbd_{name}_images.txt", f"SUNRGBD/{folder}/image/0000121.jpg\n")
        ids(root / f"sunrgbd_train_test_labels/img-{label:06d}.png", [[0, 1, 2]])
    read = Converted(root, tmp_path / "out", targets=("depth",))
    assert read.truth("test", "test_000001", "depth")[0].tolist() == pytest.approx([0, 2.0, 2.001])


def test_a_label_of_sun_rgbd_without_its_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "s/train/img-000001.jpg")
    for number in (1, 2):
        ids(tmp_path / f"s/train_labels/img13labels-{number:06d}.png", [[1]])
    with pytest.raises(DatasetError, match=r"img13labels-000002.png: has no image; add number 2 of train"):
        Converted(tmp_path / "s", tmp_path / "out")
    assert find(tmp_path / "s")[0] == "sun_rgbd"


def scannet(root: Path, kind: str) -> Path:
    own = kind == "label-filt"
    for scan in ("scene0000_00", "scene0000_01", "scene0011_00", "scene0050_00"):
        folder = root / scan
        picture(folder / "color/0.jpg", 2, 4)
        picture(folder / "color/100.jpg", 2, 4)
        ids(folder / f"{kind}/0.png", [[1163, 2]] if own else [[36, 40]], np.uint16 if own else np.uint8)
        objects = [[3, 0]] if own else [[36001, 1000]]
        ids(folder / f"{kind.replace('label', 'instance')}/0.png", objects, np.uint8 if own else np.uint16)
        ids(folder / "depth/0.png", [[1500, 0]], np.uint16)
    return root


@pytest.mark.parametrize("kind", ["label", "label-filt"])
def test_scannet_has_20_of_nyus_classes_at_the_size_of_the_image(tmp_path: Path, kind: str) -> None:
    root = scannet(tmp_path / "scannet_frames", kind)
    write(root / "scannetv2-labels.combined.tsv", "id\traw_category\tnyu40id\n1163\tbathtub\t36\n2\ttoy\t40\n")
    write(root / "scannetv2_train.txt", "scene0000_00\nscene0000_01\nscene0050_00\n")
    write(root / "scannetv2_val.txt", "scene0011_00\n")
    read = Converted(root, tmp_path / "out", targets=("instances", "depth"))
    assert (read.key, read.info.num_classes, read.ids("val")) == ("scannet", 20, ["scene0011_00_0"])
    assert read.named("val", "scene0011_00_0") == [["bathtub", "bathtub", "-", "-"]] * 2
    assert read.truth("val", "scene0011_00_0", "instances").tolist() == [[1, 1, 0, 0]] * 2
    assert read.truth("val", "scene0011_00_0", "depth")[0].tolist() == pytest.approx([1.5, 1.5, 0, 0])


def test_scans_of_one_room_are_dealt_to_one_split(tmp_path: Path) -> None:
    read = Converted(scannet(tmp_path / "s", "label"), tmp_path / "out")
    rooms = [{i.split("_")[0] for i in read.ids(split)} for split in read.info.splits]
    assert sum(map(len, rooms)) == len(set().union(*rooms)) == 3


def test_scannets_own_ids_need_its_table(tmp_path: Path) -> None:
    root = scannet(tmp_path / "s", "label-filt")
    with pytest.raises(DatasetError, match=r"this is ScanNet.*scannetv2-labels.combined.tsv is missing"):
        find(root)
    write(root / "scannetv2-labels.combined.tsv", "raw_category\nbathtub\n")
    with pytest.raises(DatasetError, match=r"combined.tsv: has no columns id and nyu40id"):
        Converted(root, tmp_path / "out")
