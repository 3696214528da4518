"""Faces, people and their parts: ids as the authors' scripts and lists give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, ids, picture, write


def celeba(root: Path) -> Path:
    for number in range(3):
        picture(root / f"CelebA-HQ-img/{number}.jpg", 4, 4)
        anno = root / "CelebAMask-HQ-mask-anno/0"
        ids(anno / f"0000{number}_skin.png", [[255, 255], [0, 0]])
        ids(anno / f"0000{number}_hair.png", [[0, 255], [0, 255]])
        ids(anno / f"0000{number}_nose.png", [[255, 0], [0, 0]])
    return root


def test_celebamask_draws_parts_in_the_authors_order_at_the_size_of_the_image(tmp_path: Path) -> None:
    root = celeba(tmp_path / "CelebAMask-HQ")
    lines = ["idx orig_idx orig_file", "0 119613 119614.jpg", "1 162771 162772.jpg", "2 182638 182639.jpg"]
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", "\n".join(lines) + "\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("celebamask_hq", 19)
    assert (read.ids("train"), read.ids("val"), read.ids("test")) == (["0"], ["1"], ["2"])
    rows = [["nose", "nose", "hair", "hair"]] * 2 + [["background", "background", "hair", "hair"]] * 2
    assert read.named("train", "0") == rows


def test_celebamask_reads_what_the_authors_script_writes(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    picture(root / "CelebA-HQ-img/7.jpg", 2, 2)
    picture(root / "CelebA-HQ-img/8.jpg", 2, 2)
    for number in (7, 8):
        ids(root / f"CelebAMaskHQ-mask/{number}.png", [[0, 18], [1, 13]])
    read = Converted(root, tmp_path / "out")
    assert read.named("train", read.ids("train")[0]) == [["background", "cloth"], ["skin", "hair"]]


def test_celebamask_names_an_image_without_parts_and_a_part_that_it_does_not_know(tmp_path: Path) -> None:
    root = celeba(tmp_path / "c")
    picture(root / "CelebA-HQ-img/3.jpg", 4, 4)
    ids(root / "CelebAMask-HQ-mask-anno/0/00001_beard.png", [[0, 255], [0, 255]])
    with pytest.raises(DatasetError, match=r"(?s)00001_beard.png: is no label.*3.jpg: .*has nothing for it"):
        Converted(root, tmp_path / "out")


def test_celebamask_without_labels_is_told_what_is_missing(tmp_path: Path) -> None:
    picture(tmp_path / "c/CelebA-HQ-img/0.jpg")
    with pytest.raises(DatasetError, match=r"this is CelebAMask-HQ: .*_skin.png is missing"):
        find(tmp_path / "c")


def lapa(root: Path) -> Path:
    for split in ("train", "val", "test"):
        picture(root / f"{split}/images/{split}_0.jpg")
        ids(root / f"{split}/labels/{split}_0.png", [[0, 1, 2], [8, 9, 10]])
        write(root / f"{split}/landmarks/{split}_0.txt", "106\n1 2\n")
    return root


def test_lapa_is_told_by_its_landmarks_or_its_folders_name(tmp_path: Path) -> None:
    read = Converted(lapa(tmp_path / "faces"), tmp_path / "out")
    assert (read.key, read.names[8:]) == ("lapa", ["inner mouth", "lower lip", "hair"])
    assert read.label("test", "test_0") == [[0, 1, 2], [8, 9, 10]]
    for name in ("LaPa", "mine"):
        for path in lapa(tmp_path / name).glob("*/landmarks/*"):
            path.unlink()
    assert (find(tmp_path / "LaPa")[0], find(tmp_path / "mine")[0]) == ("lapa", "folder")


def test_lapa_refuses_an_id_above_its_last(tmp_path: Path) -> None:
    ids(lapa(tmp_path / "faces") / "val/labels/val_0.png", [[0, 11, 2], [8, 9, 10]])
    with pytest.raises(DatasetError, match=r"val_0.png: id 11 at x=1, y=0"):
        Converted(tmp_path / "faces", tmp_path / "out")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("", ""), ("TrainVal_images", "TrainVal_parsing_annotations/TrainVal_parsing_annotations")],
)
def test_lip_is_read_with_and_without_its_upper_folders(tmp_path: Path, images: str, labels: str) -> None:
    root = tmp_path / "LIP"
    for split, name in (("train", "77_471474"), ("val", "100034_483681")):
        picture(root / images / f"{split}_images/{name}.jpg")
        ids(root / labels / f"{split}_segmentations/{name}.png", [[0, 13, 19], [2, 5, 14]])
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("lip", 20)
    assert read.named("val", "100034_483681") == [
        ["Background", "Face", "Right-shoe"],
        ["Hair", "UpperClothes", "Left-arm"],
    ]


def test_lip_without_the_images_of_a_split_is_told_so(tmp_path: Path) -> None:
    ids(tmp_path / "l/val_segmentations/77_1.png", [[0]])
    with pytest.raises(DatasetError, match=r"this is LIP.*val_images/ is missing"):
        find(tmp_path / "l")


@pytest.mark.parametrize("white", [1, 255])
def test_eg1800_reads_what_its_lists_name(tmp_path: Path, white: int) -> None:
    root = tmp_path / "portraits"
    for number in ("00001", "00002", "00003", "00004"):
        picture(root / f"Images/{number}.png")
        ids(root / f"Labels/{number}.png", [[0, white, white], [0, 0, white]])
    write(root / "eg1800_train.txt", "00001.png\n00002.png\n")
    write(root / "eg1800_test.txt", "00004.png\n")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.ids("test"), read.label("test", "00004")) == ("eg1800", ["00004"], [[0, 1, 1], [0, 0, 1]])
    assert sorted(read.ids("train") + read.ids("val")) == ["00001", "00002"]


def test_eg1800_of_sinet_has_its_own_folders_and_images_and_labels_alone_are_anybodys(tmp_path: Path) -> None:
    for number in (1, 2):
        picture(tmp_path / f"sinet/images_data_crop/{number:05}.jpg")
        ids(tmp_path / f"sinet/GT_png/{number:05}_mask.png", [[0, 127, 128], [0, 0, 255]])
        picture(tmp_path / f"mine/Images/{number:05}.png")
        ids(tmp_path / f"mine/Labels/{number:05}.png", [[0, 1, 1], [0, 0, 1]])
    write(tmp_path / "sinet/train.txt", "00001.jpg\n")
    write(tmp_path / "sinet/val.txt", "00002.jpg\n")
    assert Converted(tmp_path / "sinet", tmp_path / "out").label("val", "00002") == [[0, 0, 1], [0, 0, 1]]
    assert find(tmp_path / "mine")[0] == "folder"


def test_a_portrait_of_eg1800_without_its_mask_is_named(tmp_path: Path) -> None:
    for number in ("00001", "00002"):
        picture(tmp_path / f"EG1800/Images/{number}.png")
    ids(tmp_path / "EG1800/Labels/00001.png", [[0, 1, 1], [0, 0, 1]])
    with pytest.raises(DatasetError, match=r"00002.png: has no mask; .*Labels/00002.png is missing"):
        Converted(tmp_path / "EG1800", tmp_path / "out")
