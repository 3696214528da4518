"""Drives, rendered and filmed, and COCO's stuff and panoptic labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from segmodels.data.formats.layout import Table
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write

SKY, ROAD, SIDEWALK, WALL, VOID = (128, 128, 128), (128, 64, 128), (0, 0, 192), (64, 192, 0), (0, 0, 0)


def camvid(root: Path, images: str, labels: str, name: str = "0001TP_006690") -> Path:
    picture(root / images / f"{name}.png", 1, 5)
    colors(root / labels / f"{name}_L.png", [[SKY, ROAD, SIDEWALK, WALL, VOID]])
    return root


def test_camvid_has_31_colours_and_segnets_11_where_asked(tmp_path: Path) -> None:
    root = camvid(tmp_path / "c", "701_StillsRaw_full", "LabeledApproved_full")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("camvid_colors", 31)
    assert read.named("train", "0001TP_006690") == [["Sky", "Road", "Sidewalk", "Wall", "-"]]
    merged = Converted(root, tmp_path / "out11", "camvid_colors11")
    assert merged.info.num_classes == 11
    assert merged.named("train", "0001TP_006690") == [["sky", "road", "pavement", "building", "-"]]


def test_kaggles_camvid_has_splits_and_camseq_one_folder(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        camvid(tmp_path / "k", split, f"{split}_labels")
    write(tmp_path / "k/class_dict.csv", "name,r,g,b\nAnimal,64,128,64\n")
    assert dict(Converted(tmp_path / "k", tmp_path / "out").info.splits) == {"train": 1, "val": 1, "test": 1}
    camvid(tmp_path / "s", ".", ".", "0016E5_07959")
    assert Converted(tmp_path / "s", tmp_path / "out2").key == "camvid_colors"


def test_a_colour_that_camvid_does_not_have_is_named(tmp_path: Path) -> None:
    root = camvid(tmp_path / "c", "701_StillsRaw_full", "LabeledApproved_full")
    colors(root / "LabeledApproved_full/0001TP_006690_L.png", [[SKY, ROAD, (1, 2, 3), WALL, VOID]])
    with pytest.raises(DatasetError, match=r"_L.png: colour \(1, 2, 3\) at x=2, y=0"):
        Converted(root, tmp_path / "out")


def gta5(root: Path) -> Path:
    palette = [0] * 768
    for raw, info in Table.official("cityscapes").rows:
        palette[3 * raw : 3 * raw + 3] = info.color
    for number in range(1, 4):
        picture(root / f"images/{number:05}.png", 1, 4)
        ids(root / f"labels/{number:05}.png", [[7, 26, 34, 0]], palette=palette)
    return root


def test_gta5_has_cityscapes_ids_and_its_own_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = gta5(tmp_path / "g")
    picture(root / "images/00003.png", 2, 4)
    savemat(root / "split.mat", {"trainIds": [[1], [3]], "valIds": [[2]], "testIds": np.zeros((0, 1))})
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.ids("train"), read.ids("val")) == ("gta5", ["00001"], ["00002"])
    assert read.named("train", "00001") == [["road", "car", "-", "-"]]
    assert "1 left out" in caplog.text and "differ in size" in caplog.text


def vkitti(root: Path, scenes: tuple[str, ...] = ("Scene01", "Scene02", "Scene06")) -> Path:
    for scene in scenes:
        frames = root / scene / "clone/frames"
        picture(frames / "rgb/Camera_0/rgb_00000.jpg", 1, 2)
        colors(frames / "classSegmentation/Camera_0/classgt_00000.png", [[(100, 60, 100), (255, 127, 80)]])
        ids(frames / "depth/Camera_0/depth_00000.png", [[500, 65535]], np.uint16)
        ids(frames / "instanceSegmentation/Camera_0/instancegt_00000.png", [[0, 4]], palette=[0, 0, 0])
    return root


def test_virtual_kitti_2_has_labels_depth_and_objects(tmp_path: Path) -> None:
    read = Converted(vkitti(tmp_path / "v"), tmp_path / "out", targets=("depth", "instances"))
    assert (read.key, read.info.num_classes) == ("vkitti2", 14)
    assert [read.info.splits[s] for s in ("train", "val", "test")] == [1, 1, 1], "scenes are dealt whole"
    (sample,) = read.ids("train")
    assert read.named("train", sample) == [["Road", "Car"]]
    assert read.truth("train", sample, "depth").tolist() == [[5.0, 0.0]]
    assert read.truth("train", sample, "instances").tolist() == [[0, 1]]


def test_camvid_of_fastai_has_ids_in_the_order_of_codes_txt(tmp_path: Path) -> None:
    """As `samples/camvid` of airctic/icevision, which is fastai's; valid.txt: `split_by_fname_file` of its lessons."""
    root = tmp_path / "camvid"
    for name in ("0006R0_f02280", "0006R0_f02310", "Seq05VD_f00000"):
        picture(root / f"images/{name}.png", 1, 3)
        ids(root / f"labels/{name}_P.png", [[2, 1, 0]])
    write(root / "codes.txt", "Wall\nVoid\nSky\n")
    write(root / "valid.txt", "Seq05VD_f00000.png\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("camvid_ids", 31)
    assert dict(read.info.splits) == {"train": 2, "val": 1}
    assert read.named("val", "Seq05VD_f00000") == [["Sky", "-", "Wall"]]
    write(root / "codes.txt", "Wall\nVoid\nHeaven\n")
    with pytest.raises(DatasetError, match=r"codes.txt: 'Heaven' is no class of CamVid"):
        Converted(root, tmp_path / "out")


def panoptic(root: Path) -> Path:
    picture(root / "val2017/000000000139.jpg", 1, 3)
    colors(root / "annotations/panoptic_val2017/000000000139.png", [[(1, 2, 0), (0, 0, 1), (0, 0, 0)]])
    categories = [
        {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60], "supercategory": "person"},
        {"id": 187, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180], "supercategory": "sky"},
    ]
    segments = [
        {"id": 1 + 256 * 2, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        {"id": 65536, "category_id": 187, "iscrowd": 0, "area": 1, "bbox": [1, 0, 1, 1]},
    ]
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 1, "width": 3}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}],
        "categories": categories,
    }
    write(root / "annotations/panoptic_val2017.json", json.dumps(content))
    return root


def test_coco_panoptic_reads_segments_by_their_ids(tmp_path: Path) -> None:
    read = Converted(panoptic(tmp_path / "p"), tmp_path / "out", targets=("instances",))
    assert (read.key, read.info.palette[0]) == ("coco_panoptic", (220, 20, 60))
    assert read.named("val", "000000000139") == [["person", "sky-other-merged", "-"]]
    assert read.truth("val", "000000000139", "instances").tolist() == [[1, 0, 0]]


def test_a_segment_that_the_file_does_not_describe_is_named(tmp_path: Path) -> None:
    root = panoptic(tmp_path / "p")
    colors(root / "annotations/panoptic_val2017/000000000139.png", [[(1, 2, 0), (9, 0, 0), (0, 0, 0)]])
    with pytest.raises(DatasetError, match=r"000000000139.png: segment 9 at x=1, y=0"):
        Converted(root, tmp_path / "out")


def test_coco_stuff_maps_are_ids_less_one(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for split in ("train", "val"):
        picture(root / f"{split}2017/000000000009.jpg", 1, 4)
        ids(root / f"stuffthingmaps/{split}2017/000000000009.png", [[0, 12, 181, 255]])
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("coco_stuff", 171)
    # Of labels.txt: 1 person, 13 stop sign (12 is not used), 182 wood.
    assert read.named("train", "000000000009") == [["person", "stop sign", "wood", "-"]]
    ids(root / "stuffthingmaps/train2017/000000000009.png", [[0, 11, 181, 255]])
    with pytest.raises(DatasetError, match=r"id 11 at x=1, y=0"):
        Converted(root, tmp_path / "out")


def test_a_copy_of_panoptic_labels_as_objects_is_left_out_and_images_lie_in_a_folder_of_any_name(
    tmp_path: Path,
) -> None:
    """As `sample_data` of cocodataset/panopticapi: `input_images` and `panoptic_coco_detection_format.json`."""
    root = panoptic(tmp_path / "p")
    listing = root / "annotations/panoptic_val2017.json"
    content = json.loads(listing.read_text())
    (root / "annotations/panoptic_val2017").rename(root / "panoptic_val2017")
    (root / "val2017").rename(root / "input_images")
    listing.rename(root / "panoptic_val2017.json")
    objects = [{"id": 1, "image_id": content["images"][0]["id"], "category_id": 1, "segmentation": [], "area": 1}]
    write(root / "panoptic_coco_detection_format.json", json.dumps(content | {"annotations": objects}))
    read = Converted(root, tmp_path / "out")
    assert (read.key, sum(read.info.splits.values())) == ("coco_panoptic", 1)
    (root / "panoptic_val2017.json").unlink()
    with pytest.raises(DatasetError, match=r"detection_format.json: its annotations have no segments_info"):
        Converted(root, tmp_path / "out")


def test_coco_panoptic_without_its_pngs_is_told(tmp_path: Path) -> None:
    root = panoptic(tmp_path / "p")
    (root / "annotations/panoptic_val2017/000000000139.png").unlink()
    with pytest.raises(DatasetError, match="this is COCO panoptic"):
        find(root)
