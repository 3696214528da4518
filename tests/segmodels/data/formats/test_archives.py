"""Datasets whose truth lies in MATLAB files, in 16 bits, in JSON, or in tiles."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from segmodels.data.formats.layout import Table
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of three channels of 16 bits, as its specification has it (ISO 15948): big-endian, a filter byte a row."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def synthia(root: Path, pixels: list[list[list[int]]]) -> Path:
    for number in range(3):
        picture(root / f"RGB/{number:07}.png", 1, 3)
        deep_png(root / f"GT/LABELS/{number:07}.png", np.array(pixels))
    return root


def test_synthias_classes_lie_in_the_low_bytes_of_16_bits(tmp_path: Path) -> None:
    root = synthia(tmp_path / "s", [[[3, 300, 0], [10, 0, 0], [0, 0, 0]]])
    read = Converted(root, tmp_path / "out", targets=("instances",))
    wanted = {raw: info.name for raw, info in Table.official("synthia").rows}
    (sample,) = read.ids("train")
    assert read.named("train", sample) == [[wanted[3], wanted[10], "-"]]
    assert (wanted[1], wanted[3], wanted[10]) == ("sky", "road", "pedestrian")
    assert read.truth("train", sample, "instances").tolist() == [[1, 0, 0]]


def test_synthias_labels_of_8_bits_are_refused(tmp_path: Path) -> None:
    root = synthia(tmp_path / "s", [[[3, 0, 0], [10, 0, 0], [0, 0, 0]]])
    colors(root / "GT/LABELS/0000001.png", [[(3, 0, 0), (10, 0, 0), (0, 0, 0)]])
    with pytest.raises(DatasetError, match=r"0000001.png: is no PNG of three channels of 16 bits"):
        Converted(root, tmp_path / "out")


def sbd(root: Path) -> Path:
    values = np.array([[0, 15, 20]], np.uint8)
    for name, split in (("2008_000002", "train"), ("2008_000003", "val")):
        picture(root / f"img/{name}.jpg", 1, 3)
        for folder, variable, held in (("cls", "GTcls", values), ("inst", "GTinst", np.array([[0, 1, 2]], np.uint8))):
            (root / folder).mkdir(exist_ok=True)
            savemat(root / folder / f"{name}.mat", {variable: {"Segmentation": held, "Boundaries": np.zeros((20, 1))}})
        write(root / f"{split}.txt", f"{name}\n")
    return root


def test_sbd_reads_structures_of_matlab_files(tmp_path: Path) -> None:
    read = Converted(sbd(tmp_path / "dataset"), tmp_path / "out", targets=("instances",))
    assert (read.key, dict(read.info.splits)) == ("sbd", {"train": 1, "val": 1})
    assert read.named("train", "2008_000002") == [["background", "person", "tvmonitor"]]
    assert read.truth("val", "2008_000003", "instances").tolist() == [[0, 1, 2]]


def test_a_matlab_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    root = sbd(tmp_path / "dataset")
    savemat(root / "cls/2008_000002.mat", {"other": 1})
    with pytest.raises(DatasetError, match=r"cls/2008_000002.mat: has no GTcls.Segmentation"):
        Converted(root, tmp_path / "out")
    (root / "cls/2008_000002.mat").write_bytes(b"MATLAB?")
    with pytest.raises(DatasetError, match=r"cls/2008_000002.mat"):
        Converted(root, tmp_path / "out")


def context(root: Path) -> Path:
    for name in ("2008_000002", "2008_000003"):
        picture(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg", 1, 3)
        (root / "trainval").mkdir(exist_ok=True)
        savemat(root / f"trainval/{name}.mat", {"LabelMap": np.array([[2, 1, 459]], np.uint16)})
    write(root / "VOCdevkit/VOC2010/ImageSets/Main/train.txt", "2008_000002\n")
    write(root / "VOCdevkit/VOC2010/ImageSets/Main/val.txt", "2008_000003\n")
    write(root / "labels.txt", "".join(f"{i}: {'aeroplane' if i == 2 else f'thing {i}'}\n" for i in range(1, 460)))
    return root


def test_pascal_context_has_59_classes_and_459_where_some_are_chosen(tmp_path: Path) -> None:
    root = context(tmp_path / "p")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes, dict(read.info.splits)) == ("pascal_context", 59, {"train": 1, "val": 1})
    assert read.named("train", "2008_000002") == [["aeroplane", "-", "-"]]
    with pytest.raises(DatasetError, match=r"459 classes; labels of 8 bits hold at most 255: choose or merge"):
        Converted(root, tmp_path / "out", "pascal_context_459")
    chosen = {"plane": ["aeroplane"], "last": ["thing 459"]}
    some = Converted(root, tmp_path / "out", "pascal_context_459", classes=chosen)
    assert some.named("train", "2008_000002") == [["plane", "-", "last"]]


def ade_full(root: Path) -> Path:
    folder = root / "images/ADE/training/urban/street"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        folder = root / f"images/ADE/{split}/urban/street"
        picture(folder / f"{name}.jpg", 1, 3)
        # 2978 is wall: 2978 = 11 * 256 + 162, R is ten times the first part; 401 = 1 * 256 + 145 is car.
        colors(folder / f"{name}_seg.png", [[(110, 162, 0), (10, 145, 7), (0, 0, 0)]])
        named = [(2978, "wall"), (401, "câr")]
        objects = [{"name_ndx": n, "name": text, "parts": {"part_level": 0}} for n, text in named]
        said = json.dumps({"annotation": {"object": objects}}, ensure_ascii=False)
        (folder / f"{name}.json").write_bytes(said.encode("latin-1"))
    return root


def test_the_whole_ade20k_is_decoded_and_named_by_its_json(tmp_path: Path) -> None:
    read = Converted(ade_full(tmp_path / "ADE20K_2021_17_01"), tmp_path / "out", targets=("instances",))
    assert (read.key, read.names) == ("ade20k_full", ["câr", "wall"])
    assert read.named("train", "ADE_train_00000001") == [["wall", "câr", "-"]]
    assert read.truth("train", "ADE_train_00000001", "instances").tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("below", ["images", "images/ADE", "images/ADE/training"])
def test_the_whole_ade20k_is_read_from_folders_below_its_own(tmp_path: Path, below: str) -> None:
    """As the three images under `dataset` of CSAILVision/ADE20K, given as people give them."""
    read = Converted(ade_full(tmp_path / "ADE20K_2021_17_01") / below, tmp_path / "out")
    assert (read.key, read.named("train", "ADE_train_00000001")) == ("ade20k_full", [["wall", "câr", "-"]])


def test_ade20k_of_2016_is_told_from_that_of_2021(tmp_path: Path) -> None:
    """As groups.csail.mit.edu/vision/datasets/ADE20K describes it: `*_atr.txt`, and no JSON files."""
    folder = tmp_path / "ADE20K_2016_07_26/images/training/a/abbey"
    picture(folder / "ADE_train_00000970.jpg", 1, 1)
    colors(folder / "ADE_train_00000970_seg.png", [[(110, 162, 0)]])
    write(folder / "ADE_train_00000970_atr.txt", '001 # 0 # 0 # wall # wall # ""\n')
    with pytest.raises(DatasetError, match=r"which the version of 2021 has; that of 2016 is not read"):
        Converted(tmp_path, tmp_path / "out")


def test_landcovers_tiles_have_official_splits_and_sheets_are_dealt(tmp_path: Path) -> None:
    tiled, sheets = tmp_path / "t", tmp_path / "s"
    for split in ("train", "val", "test"):
        name = f"M-33-7-A-d-2-3_{split}"
        picture(tiled / f"output/{name}.jpg", 1, 5)
        ids(tiled / f"output/{name}_m.png", [[0, 1, 2, 3, 4]])
        write(tiled / f"{split}.txt", f"{name}\n")
    read = Converted(tiled, tmp_path / "out")
    assert (read.key, dict(read.info.splits)) == ("landcover_ai", {"train": 1, "val": 1, "test": 1})
    assert read.named("val", "M-33-7-A-d-2-3_val") == [["background", "building", "woodland", "water", "road"]]
    for name in ("M-33-20-D-c-4-2", "N-34-106-A-c-1-3"):
        picture(sheets / f"images/{name}.tif", 1, 5)
        ids(sheets / f"masks/{name}.tif", [[0, 1, 2, 3, 4]])
    assert Converted(sheets, tmp_path / "out2").key == "landcover_ai"
    (tiled / "train.txt").unlink()
    with pytest.raises(DatasetError, match=r"this is LandCover.ai: .*but train.txt is missing"):
        find(tiled)


def a2d2(root: Path) -> Path:
    for drive in ("20180807_145028", "20180810_142822", "20181016_125231"):
        stamp = drive.replace("_", "")
        picture(root / f"{drive}/camera/cam_front_center/{stamp}_camera_frontcenter_000000091.png", 1, 4)
        row = [[(255, 0, 0), (200, 0, 0), (0, 0, 0), (255, 0, 255)]]
        colors(root / f"{drive}/label/cam_front_center/{stamp}_label_frontcenter_000000091.png", row)
    listed = {"#ff0000": "Car 1", "#c80000": "Car 2", "#ff00ff": "RD normal street"}
    write(root / "class_list.json", json.dumps(listed))
    return root


def test_a2d2s_numbered_cars_are_one_class_and_drives_are_dealt_whole(tmp_path: Path) -> None:
    read = Converted(a2d2(tmp_path / "camera_lidar_semantic"), tmp_path / "out")
    assert (read.key, read.names) == ("a2d2", ["Car", "RD normal street"])
    assert [read.info.splits[s] for s in ("train", "val", "test")] == [1, 1, 1]
    assert read.named("train", read.ids("train")[0]) == [["Car", "Car", "-", "RD normal street"]]


def test_a_colour_that_a2d2s_list_does_not_have_is_named(tmp_path: Path) -> None:
    root = a2d2(tmp_path / "camera_lidar_semantic")
    write(root / "class_list.json", json.dumps({"#ff0000": "Car 1"}))
    with pytest.raises(DatasetError, match=r"colour \(200, 0, 0\) at x=1, y=0"):
        Converted(root, tmp_path / "out")
