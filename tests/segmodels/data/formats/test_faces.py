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
