"""Folders that tools and competitions give: masks beside images, lists of files, regions in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, ids, picture, write
from tests.segmodels.data.formats.test_tools import SQUARE, names, only


def test_masks_beside_their_images_take_roboflows_list_of_classes(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / f"r/{split}/a_jpg.rf.0123.jpg", 1, 3)
        ids(tmp_path / f"r/{split}/a_jpg.rf.0123_mask.png", [[0, 1, 2]])
        write(tmp_path / f"r/{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n2, rust\n")
    read = Converted(tmp_path / "r", tmp_path / "out")
    assert (read.key, dict(read.info.splits)) == ("side_by_side", {"train": 1, "val": 1})
    assert read.named("val", read.ids("val")[0]) == [["background", "crack", "rust"]]


def test_an_image_beside_others_without_a_mask_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"s/{name}.jpg", 1, 2)
    ids(tmp_path / "s/a_mask.png", [[0, 255]])
    with pytest.raises(DatasetError, match=r"b.jpg: has no label; b_mask.png is missing"):
        Converted(tmp_path / "s", tmp_path / "out")
    ids(tmp_path / "s/b_mask.png", [[0, 255]])
    assert Converted(tmp_path / "s", tmp_path / "out").names == ["background", "foreground"]


def test_carvanas_gif_masks_are_read_and_views_of_a_car_stay_together(tmp_path: Path) -> None:
    for car in ("00087a6bd4dc", "0495dcf27283", "0789bed099cb"):
        for view in ("01", "02"):
            picture(tmp_path / f"c/train/{car}_{view}.jpg", 1, 2)
            path = tmp_path / f"c/train_masks/{car}_{view}_mask.gif"
            path.parent.mkdir(exist_ok=True)
            mask = Image.fromarray(np.array([[0, 1]], np.uint8))
            mask.putpalette([0, 0, 0, 255, 255, 255])
            mask.save(path)
    read = Converted(tmp_path / "c", tmp_path / "out")
    assert read.key == "kaggle_masks"
    assert read.named("train", read.ids("train")[0]) == [["background", "foreground"]]
    cars = [{i.partition("_")[0] for i in read.ids(split)} for split in read.info.splits]
    assert sum(map(len, cars)) == len(set.union(*cars)) == 3


def test_labelmes_voc_export_takes_its_own_list_of_classes(tmp_path: Path) -> None:
    root = tmp_path / "v"
    write(root / "class_names.txt", "_background_\naeroplane\ncar\n")
    picture(root / "JPEGImages/a.jpg", 1, 4)
    ids(root / "SegmentationClass/a.png", [[0, 1, 2, 255]], palette=[0, 0, 0, 128, 0, 0])
    ids(root / "SegmentationObject/a.png", [[0, 1, 1, 255]], palette=[0, 0, 0, 128, 0, 0])
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, names(read)) == ("labelme_voc", [["background", "aeroplane", "car", "-"]])
    assert read.truth(*only(read), "instances").tolist() == [[0, 1, 1, 0]]


def via(root: Path, regions: Any, project: bool = False) -> Path:
    picture(root / "train/a.jpg", 6, 8)
    picture(root / "val/a.jpg", 6, 8)
    entry = {"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": regions, "file_attributes": {}}}
    content = {"_via_settings": {}, "_via_img_metadata": entry} if project else entry
    for split in ("train", "val"):
        write(root / f"{split}/via_region_data.json", json.dumps(content))
    return root


REGION = {
    "shape_attributes": {
        "name": "polygon",
        "all_points_x": [p[0] for p in SQUARE],
        "all_points_y": [p[1] for p in SQUARE],
    },
    "region_attributes": {},
}


@pytest.mark.parametrize("project", [False, True])
def test_via_regions_without_an_attribute_are_objects(tmp_path: Path, project: bool) -> None:
    """As the well-known balloons have it: `regions` is a mapping there, a list since version 2."""
    read = Converted(via(tmp_path / "v", {"0": REGION} if not project else [REGION], project), tmp_path / "out")
    assert (read.key, read.names) == ("via", ["background", "object"])
    assert dict(read.info.splits) == {"train": 1, "val": 1}
    assert read.named("train", read.ids("train")[0])[2] == ["background", *["object"] * 4, *["background"] * 3]


def test_via_attributes_of_which_none_is_clearly_the_class_are_refused(tmp_path: Path) -> None:
    region = REGION | {"region_attributes": {"colour": "red", "size": "big"}}
    with pytest.raises(DatasetError, match="regions have the attributes colour, size; keep the one"):
        Converted(via(tmp_path / "v", [region]), tmp_path / "out")
    named = REGION | {"region_attributes": {"class": "cat", "size": "big"}}
    assert Converted(via(tmp_path / "w", [named]), tmp_path / "out").names == ["background", "cat"]


def nnunet(root: Path, labels: dict[str, Any]) -> Path:
    write(root / "dataset.json", json.dumps({"channel_names": {"0": "R"}, "labels": labels, "file_ending": ".png"}))
    for case in ("liver_001", "liver_002"):
        picture(root / f"imagesTr/{case}_0000.png", 1, 3)
        ids(root / f"labelsTr/{case}.png", [[0, 1, 9]])
    return root


@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1, "ignore": 9}, {"0": "background", "1": "liver", "9": "ignore"}]
)
def test_nnunet_has_labels_either_way_round(tmp_path: Path, labels: dict[str, Any]) -> None:
    read = Converted(nnunet(tmp_path / "Dataset001_X", labels), tmp_path / "out")
    assert read.key == "nnunet"
    assert read.named("train", read.ids("train")[0]) == [["background", "liver", "-"]]


def test_nnunets_regions_and_further_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.json: .labels. is not a name and a number each"):
        Converted(nnunet(tmp_path / "a", {"background": 0, "whole": [1, 2]}), tmp_path / "out")
    root = nnunet(tmp_path / "b", {"background": 0, "liver": 1, "ignore": 9})
    picture(root / "imagesTr/liver_001_0001.png", 1, 3)
    with pytest.raises(DatasetError, match=r"liver_001_0001.png: is a second channel"):
        Converted(root, tmp_path / "out")


def test_huggingfaces_imagefolder_pairs_by_its_metadata(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        picture(tmp_path / f"h/{split}/a.jpg", 1, 2)
        ids(tmp_path / f"h/{split}/masks/x.png", [[0, 255]])
        row = {"file_name": "a.jpg", "mask_file_name": "masks/x.png"}
        write(tmp_path / f"h/{split}/metadata.jsonl", json.dumps(row) + "\n")
    read = Converted(tmp_path / "h", tmp_path / "out")
    assert (read.key, dict(read.info.splits), read.names[1]) == ("huggingface", {"train": 1, "val": 1}, "foreground")
    write(tmp_path / "h/train/metadata.jsonl", '{"file_name": "b.jpg", "mask_file_name": "masks/x.png"}\n')
    with pytest.raises(DatasetError, match=r"train/metadata.jsonl: row 1: b.jpg is not there"):
        Converted(tmp_path / "h", tmp_path / "out")


def test_a_list_of_files_that_is_damaged_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "h/train/a.jpg")
    write(tmp_path / "h/train/metadata.csv", 'file_name,mask_file_name\na.jpg,\x00\n"b' + "x" * 200_000)
    with pytest.raises(DatasetError):
        Converted(tmp_path / "h", tmp_path / "out")


def test_huggingfaces_classification_folder_is_told_what_is_missing(tmp_path: Path) -> None:
    picture(tmp_path / "h/train/a.jpg")
    write(tmp_path / "h/train/metadata.csv", "file_name,text\na.jpg,hello\n")
    with pytest.raises(DatasetError, match="a column mask_file_name or label_file_name is missing"):
        find(tmp_path / "h")


def test_mmsegmentations_folders_are_read_with_a_list_of_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / f"m/img_dir/{split}/a.jpg", 1, 3)
        ids(tmp_path / f"m/ann_dir/{split}/a.png", [[0, 1, 255]])
    write(tmp_path / "m/classes.txt", "road\nsky\n")
    read = Converted(tmp_path / "m", tmp_path / "out")
    assert read.named("train", "a") == [["road", "sky", "-"]]


def test_boxes_in_xml_are_no_labels_and_are_told_once(tmp_path: Path) -> None:
    """As `examples/bbox_detection/data_dataset_voc` of wkentaro/labelme: VOC's folders with boxes alone."""
    for name in ("a", "b"):
        picture(tmp_path / f"d/JPEGImages/{name}.jpg")
        write(tmp_path / f"d/Annotations/{name}.xml", "<annotation><object/></annotation>")
    with pytest.raises(
        DatasetError, match=r"^\S+/Annotations: holds a.xml, but no image of labels; XML files as VOC's"
    ):
        Converted(tmp_path / "d", tmp_path / "out")


def test_gids_labels_end_in_15label(tmp_path: Path) -> None:
    """As GID-15 in mmsegmentation's folders, `GF2_PMS1__L1A0000564539-MSS1_15label.png` (torchgeo, `gid15.py`)."""
    for name in ("X-MSS1", "Y-MSS1"):
        picture(tmp_path / f"d/img_dir/train/{name}.tif")
        ids(tmp_path / f"d/ann_dir/train/{name}_15label.png", [[0, 1, 2], [2, 1, 0]])
    write(tmp_path / "d/classes.txt", "a\nb\nc\n")
    read = Converted(tmp_path / "d", tmp_path / "out")
    assert (read.key, sum(read.info.splits.values())) == ("folder", 2)


def segments_ai(root: Path) -> Path:
    folder, samples = root / "segments/jane_flowers/v1.0", []
    for name in ("a", "b", "c"):
        picture(folder / f"{name}.jpg", 1, 4)
        # Ids 1, 258 = 2 + 256 * 1 and 0; opaque.
        pixels = np.array([[[1, 0, 0, 255], [2, 1, 0, 255], [0, 0, 0, 255], [1, 0, 0, 255]]], np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}_label_ground-truth.png")
        drawn = [{"id": 1, "category_id": 7}, {"id": 258, "category_id": 3}]
        label = {"attributes": {"segmentation_bitmap": {"url": "https://x/y.png"}, "annotations": drawn}}
        address = {"image": {"url": f"https://x/{name}.jpg?z=1"}}
        labels = {"ground-truth": label if name != "c" else None}
        samples.append({"name": f"{name}.jpg", "uuid": name, "attributes": address, "labels": labels})
    categories = [{"id": 3, "name": "rose"}, {"id": 7, "name": "lily"}]
    dataset = {"task_type": "segmentation-bitmap", "task_attributes": {"categories": categories}, "samples": samples}
    release = {"name": "v1.0", "dataset": dataset | {"name": "flowers", "labelsets": [{"name": "ground-truth"}]}}
    write(root / "flowers-v1.0.json", json.dumps(release))
    return root


def test_segments_ai_reads_bitmaps_by_the_objects_of_its_release(tmp_path: Path) -> None:
    """As `dataset.py` and `utils.py` (`bitmap2file`) of segments-ai/segments-ai name, code and look up its files."""
    root = segments_ai(tmp_path / "s")
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, read.names, sum(read.info.splits.values())) == (
        "segments_ai", ["background", "rose", "lily"], 2,
    )  # fmt: skip
    (name,) = read.ids("train")
    assert read.named("train", name) == [["lily", "rose", "background", "lily"]]
    assert read.truth("train", name, "instances").tolist() == [[1, 2, 0, 1]]
    (root / "segments/jane_flowers/v1.0/b_label_ground-truth.png").unlink()
    with pytest.raises(DatasetError, match=r"flowers-v1.0.json: b_label_ground-truth.png is not below the folder"):
        Converted(root, tmp_path / "out")


POLYGON = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in SQUARE)
XML = f"""<annotation><filename>a.jpg</filename><folder>f</folder>
<object><name>car</name><deleted>0</deleted><id>0</id><polygon><username/>{POLYGON}</polygon></object>
<object><name>gone</name><deleted>1</deleted><id>1</id><polygon><username/>{POLYGON}</polygon></object>
<object><name>dog</name><deleted>0</deleted><id>2</id><segm><mask>a_mask_2.png</mask></segm></object>
<imagesize><nrows>6</nrows><ncols>8</ncols></imagesize></annotation>
"""


def labelme_xml(root: Path, image: str = "", xml: str = "", masks: str = "Masks") -> Path:
    picture(root / image / "a.jpg", 6, 8)
    mask = np.zeros((6, 8, 4), np.uint8)
    mask[5, 7] = (255, 0, 0, 255)
    (root / masks).mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(root / masks / "a_mask_2.png")
    write(root / xml / "a.xml", XML)
    return root


@pytest.mark.parametrize("places", [("", "", "Masks"), ("Images/f", "Annotations/f", "Masks/f")])
def test_labelmes_xml_draws_polygons_and_masks_that_are_not_deleted(tmp_path: Path, places: tuple[str, ...]) -> None:
    """As docs.cvat.ai, "LabelMe", and datumaro's tests/assets/labelme_dataset have them."""
    root = labelme_xml(tmp_path / "l", *places)
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, read.names) == ("labelme_xml", ["background", "car", "dog"])
    got = names(read)
    assert (got[0][0], got[1][1], got[5][7]) == ("background", "car", "dog")
    (root / places[2] / "a_mask_2.png").unlink()
    with pytest.raises(DatasetError, match=r"a.xml: mask a_mask_2.png is not in Masks/"):
        Converted(root, tmp_path / "out")
    (root / places[0] / "a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"a.xml: its image a.jpg is neither beside it nor in Images/"):
        Converted(root, tmp_path / "out", "labelme_xml")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images_prepped_{}", "annotations_prepped_{}"), ("{}_images", "{}_masks"), ("{}-img", "{}-labels")],
)
def test_folders_may_have_the_split_in_their_names(tmp_path: Path, images: str, labels: str) -> None:
    """The first as `test/example_dataset` of divamgupta/image-segmentation-keras."""
    root = tmp_path / "d"
    for split in ("train", "test"):
        picture(root / images.format(split) / f"{split}.png")
        ids(root / labels.format(split) / f"{split}.png", [[0, 1, 2], [2, 1, 0]])
    write(root / "classes.txt", "a\nb\nc\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.splits["test"], read.label("test", "test")) == ("folder", 1, [[0, 1, 2], [2, 1, 0]])


def test_labels_are_taken_where_a_folder_beside_them_has_boxes(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("a", "b"):
        picture(root / f"JPEGImages/{name}.jpg")
        write(root / f"Annotations/{name}.xml", "<annotation><object/></annotation>")
        ids(root / f"SegmentationClass/{name}.png", [[0, 1, 2], [2, 1, 0]])
    write(root / "classes.txt", "a\nb\nc\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, sum(read.info.splits.values())) == ("folder", 2)


def test_yolos_poses_are_no_polygons(tmp_path: Path) -> None:
    """As docs.ultralytics.com, "Pose Estimation": `class x y width height px1 py1 …`, and `kpt_shape` in data.yaml."""
    picture(tmp_path / "y/images/train/a.jpg", 6, 8)
    write(tmp_path / "y/labels/train/a.txt", "0 0.5 0.5 0.2 0.2 0.1 0.1 0.9 0.9\n")
    write(tmp_path / "y/data.yaml", "kpt_shape: [2, 2]\nnames: [person]\n")
    with pytest.raises(DatasetError, match="its labels are poses, as `kpt_shape` says"):
        find(tmp_path / "y")
