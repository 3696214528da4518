"""Street scenes, indoor scenes and photographs: the ids that their documentation gives, and what is wrong told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import DatasetError, read_label
from segmodels.data.formats import find
from tests.samples import ROOT as SAMPLES
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write


def cityscapes(root: Path, city: str = "train/aachen/aachen_000000_000019") -> Path:
    picture(root / f"leftImg8bit/{city}_leftImg8bit.png")
    base = root / f"gtFine/{city}_gtFine"
    ids(base.with_name(base.name + "_labelIds.png"), [[7, 26, 26], [3, 33, 0]])
    ids(base.with_name(base.name + "_instanceIds.png"), [[7, 26000, 26001], [3, 33, 0]], np.uint16)
    return root


def test_cityscapes_trains_19_of_its_34_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path / "c")
    read = Converted(tmp_path / "c", tmp_path / "out", targets=("instances",))
    assert (read.key, read.info.num_classes) == ("cityscapes", 19)
    assert read.named("train", "aachen_000000_000019") == [["road", "car", "car"], ["-", "bicycle", "-"]]
    assert read.truth("train", "aachen_000000_000019", "instances").tolist() == [[0, 1, 2], [0, 0, 0]]


def test_kitti_semantics_has_cityscapes_ids(tmp_path: Path) -> None:
    """As `data_semantics.zip` of cvlibs.net/datasets/kitti/eval_semseg.php; instances are id * 256 + number."""
    for name in ("000000_10", "000001_10"):
        picture(tmp_path / f"k/training/image_2/{name}.png")
        ids(tmp_path / f"k/training/semantic/{name}.png", [[7, 26, 26], [3, 33, 0]])
        ids(
            tmp_path / f"k/training/instance/{name}.png",
            [[7 * 256, 26 * 256 + 1, 26 * 256 + 2], [768, 0, 0]],
            np.uint16,
        )
        picture(tmp_path / f"k/training/semantic_rgb/{name}.png")
    picture(tmp_path / "k/testing/image_2/000000_10.png")
    read = Converted(tmp_path / "k", tmp_path / "out", targets=("instances",))
    assert (read.key, dict(read.info.splits)) == ("kitti_semantic", {"train": 1, "val": 1})
    (name,) = read.ids("train")
    assert read.named("train", name) == [["road", "car", "car"], ["-", "bicycle", "-"]]
    assert read.truth("train", name, "instances").tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize(("kind", "values"), [("labelIds", [[7, 26, 0]]), ("labelTrainIds", [[0, 13, 255]])])
def test_acdc_has_cityscapes_ids_in_its_conditions_and_references_are_not_read(
    tmp_path: Path, kind: str, values: list[list[int]]
) -> None:
    """As its archives unpack; w1oves/Rein, `fog-acdc_1024x1024.py`, has the endings."""
    for split, name in (("train", "GOPR0475_frame_000041"), ("val", "GOPR0476_frame_000061")):
        place = f"fog/{split}/GOPR0475"
        picture(tmp_path / f"a/rgb_anon/{place}/{name}_rgb_anon.png", 1, 3)
        picture(tmp_path / f"a/rgb_anon/fog/{split}_ref/GOPR0475/{name}_rgb_ref_anon.png", 1, 3)
        ids(tmp_path / f"a/gt/{place}/{name}_gt_{kind}.png", values)
    read = Converted(tmp_path / "a", tmp_path / "out")
    assert (read.key, dict(read.info.splits)) == ("acdc", {"train": 1, "val": 1})
    assert read.named("val", "GOPR0476_frame_000061") == [["road", "car", "-"]]


def test_oxfords_pets_are_read_by_their_lists(tmp_path: Path) -> None:
    """As `annotations/README` of the archive says; files of macOS lie among the trimaps."""
    root = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "beagle_2", "pug_3", "pug_4", "unlisted_5"):
        picture(root / f"images/{name}.jpg", 1, 3)
        ids(root / f"annotations/trimaps/{name}.png", [[1, 2, 3]])
    write(root / "annotations/trimaps/._pug_3.png", "x")
    write(root / "annotations/trainval.txt", "Abyssinian_1 1 1 1\nbeagle_2 5 2 4\n")
    write(root / "annotations/test.txt", "pug_3 26 2 17\npug_4 26 2 17\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, dict(read.info.splits)) == ("oxford_pet", {"train": 1, "val": 1, "test": 2})
    assert read.named("test", "pug_3") == [["pet", "background", "-"]]
    (root / "images/pug_4.jpg").unlink()
    with pytest.raises(DatasetError, match=r"images: pug_4.jpg is missing"):
        Converted(root, tmp_path / "out")


def test_cityscapes_without_its_truth_is_told_what_is_missing(tmp_path: Path) -> None:
    picture(tmp_path / "c/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png")
    with pytest.raises(DatasetError, match=r"this is Cityscapes: .*gtFine.*labelIds.png is missing"):
        find(tmp_path / "c")


def test_an_id_that_no_table_has_is_named_with_its_place(tmp_path: Path) -> None:
    root = cityscapes(tmp_path / "c")
    ids(root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", [[7, 7, 7], [7, 40, 7]])
    with pytest.raises(DatasetError, match=r"labelIds.png: id 40 at x=1, y=1"):
        Converted(root, tmp_path / "out")


@pytest.mark.skipif(not (SAMPLES / "samples/cityscapes").is_dir(), reason="no genuine Cityscapes")
def test_genuine_cityscapes_agrees_with_its_own_train_ids(tmp_path: Path) -> None:
    root = SAMPLES / "samples/cityscapes"
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert dict(read.info.splits) == {"train": 2, "val": 1}
    trained = read_label(root / "gtFine/val/frankfurt/frankfurt_000000_000576_gtFine_labelTrainIds.png")
    ours = np.array(read.label("val", "frankfurt_000000_000576"))
    # The two files of this frame were drawn from two versions of its polygons, which differ at borders.
    assert (ours == trained).mean() > 0.995
    assert set(np.unique(ours)) == set(np.unique(trained))


def ade(root: Path) -> Path:
    picture(root / "images/training/ADE_train_00000001.jpg")
    ids(root / "annotations/training/ADE_train_00000001.png", [[0, 1, 150], [13, 0, 2]])
    picture(root / "images/validation/ADE_val_00000001.jpg")
    ids(root / "annotations/validation/ADE_val_00000001.png", [[0, 1, 1], [1, 1, 1]])
    return root


def test_ade20k_ignores_other_and_starts_with_wall(tmp_path: Path) -> None:
    read = Converted(ade(tmp_path / "ADEChallengeData2016"), tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("ade20k", 150)
    assert read.label("train", "ADE_train_00000001") == [[255, 0, 149], [12, 255, 1]]
    assert (read.names[0], read.names[12], read.names[149]) == ("wall", "person", "flag")


@pytest.mark.skipif(not (SAMPLES / "samples/ade20k").is_dir(), reason="no genuine ADE20K")
def test_genuine_ade20k_has_each_id_less_one(tmp_path: Path) -> None:
    read = Converted(SAMPLES / "samples/ade20k", tmp_path / "out")
    for sample in ("ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"):
        folder = SAMPLES / "samples/ade20k/ADEChallengeData2016/annotations/validation"
        stored = read_label(folder / f"{sample}.png").astype(int)
        assert np.array_equal(np.array(read.label("val", sample)), np.where(stored == 0, 255, stored - 1))


def voc(root: Path) -> Path:
    for name in ("2007_000032", "2007_000033", "2008_000001"):
        picture(root / f"JPEGImages/{name}.jpg")
    write(root / "Annotations/2007_000032.xml", "<annotation></annotation>")
    for name in ("2007_000032", "2007_000033"):
        ids(root / f"SegmentationClass/{name}.png", [[0, 15, 255], [20, 1, 0]], palette=[0, 0, 0, 128, 0, 0])
        ids(root / f"SegmentationObject/{name}.png", [[0, 3, 255], [1, 2, 0]], palette=[0, 0, 0, 128, 0, 0])
    write(root / "ImageSets/Segmentation/train.txt", "2007_000032\n")
    write(root / "ImageSets/Segmentation/val.txt", "2007_000033\n")
    return root


def test_a_few_files_of_voc_without_lists_are_known_by_their_names(tmp_path: Path) -> None:
    """As `samples/voc` of airctic/icevision: images, labels and boxes, one image without a label."""
    root = voc(tmp_path / "v")
    for name in ("train", "val"):
        (root / f"ImageSets/Segmentation/{name}.txt").unlink()
    (root / "ImageSets/Segmentation").rmdir()
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, dict(read.info.splits)) == ("voc", {"train": 1, "val": 1})
    assert read.named("train", read.ids("train")[0])[0] == ["background", "person", "-"]


def test_voc_reads_indices_of_its_palette_and_its_lists(tmp_path: Path) -> None:
    read = Converted(voc(tmp_path / "VOCdevkit/VOC2012").parent, tmp_path / "out", targets=("instances",))
    assert (read.key, read.info.num_classes) == ("voc", 21)
    assert read.named("train", "2007_000032") == [
        ["background", "person", "-"],
        ["tvmonitor", "aeroplane", "background"],
    ]
    assert read.truth("val", "2007_000033", "instances").tolist() == [[0, 3, 0], [1, 2, 0]]


def test_voc_with_boxes_alone_is_told_so(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012")
    for path in root.glob("SegmentationClass/*"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"this is PASCAL VOC 2012: .*SegmentationClass\*/\*.png is missing"):
        find(root)


def test_kitti_roads_lane_is_read_by_name(tmp_path: Path) -> None:
    root = tmp_path / "data_road"
    picture(root / "training/image_2/um_000000.png", 1)
    picture(root / "training/image_2/um_000001.png", 1)
    for kind in ("road", "lane"):
        for n in range(2):
            row = [[(255, 0, 255), (255, 0, 0), (0, 0, 0)]] if kind == "lane" else [[(255, 0, 255)] * 3]
            colors(root / f"training/gt_image_2/um_{kind}_00000{n}.png", row)
    assert find(root)[0] == "kitti_road"
    read = Converted(root, tmp_path / "out", "kitti_lane")
    assert read.named("train", read.ids("train")[0]) == [["lane", "not lane", "-"]]


def test_cityscapes_polygons_are_drawn_where_there_are_no_ids(tmp_path: Path) -> None:
    """As json2labelImg.py draws them: in their order, groups as their members, licence plates not at all."""
    root, city = tmp_path / "c", "train/aachen/aachen_000000_000019"
    picture(root / f"leftImg8bit/{city}_leftImg8bit.png", 4, 6)

    def box(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, object]:
        return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}

    objects = [
        box("road", 0, 2, 5, 3), box("car", 0, 1, 2, 3), box("license plate", 0, 3, 1, 3), box("cargroup", 4, 1, 5, 2),
        box("caravan", 3, 0, 3, 1), box("pole", 1, 0, 1, 3), {**box("sky", 0, 0, 5, 3), "deleted": 1},
    ]  # fmt: skip
    path = root / f"gtFine/{city}_gtFine_polygons.json"
    write(path, json.dumps({"imgHeight": 4, "imgWidth": 6, "objects": objects}))
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert read.named("train", "aachen_000000_000019") == [
        ["-", "pole", "-", "-", "-", "-"],
        ["car", "pole", "car", "-", "car", "car"],
        ["car", "pole", "car", "road", "car", "car"],
        ["car", "pole", "car", "road", "road", "road"],
    ]
    numbers = read.truth("train", "aachen_000000_000019", "instances")
    assert numbers.tolist() == [[0] * 6, *[[1, 0, 1, 0, 0, 0]] * 3]
    write(path, json.dumps({"imgHeight": 4, "imgWidth": 6, "objects": [box("horse", 0, 0, 3, 3)]}))
    with pytest.raises(DatasetError, match=r"polygons\.json: label 'horse' is none of Cityscapes'"):
        Converted(root, tmp_path / "again")
