"""Pictures from above: ids, colours and splits as their pages and converters give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write
from tests.segmodels.data.formats.test_georaster import raster

WHITE, BLUE, CYAN, GREEN, YELLOW, RED, BLACK = (
    (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0),
)  # fmt: skip


def test_loveda_ignores_no_data_and_has_two_splits(tmp_path: Path) -> None:
    root = tmp_path / "LoveDA"
    for folder, number in (("Train/Urban", 1366), ("Train/Rural", 0), ("Val/Rural", 2522)):
        picture(root / folder / f"images_png/{number}.png")
        ids(root / folder / f"masks_png/{number}.png", [[0, 1, 2], [3, 6, 7]])
    picture(root / "Test/Urban/images_png/5000.png")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.ids("train"), read.ids("val")) == ("loveda", ["0", "1366"], ["2522"])
    assert read.label("val", "2522") == [[255, 0, 1], [2, 5, 6]]
    assert read.names == ["background", "building", "road", "water", "barren", "forest", "agricultural"]


def test_loveda_as_mmsegmentation_has_it_is_told_by_its_folders_name(tmp_path: Path) -> None:
    for name in ("loveDA", "mine"):
        for split in ("train", "val"):
            picture(tmp_path / name / f"img_dir/{split}/{split}.png".replace(f"{split}.png", "3.png"))
            ids(tmp_path / name / f"ann_dir/{split}/3.png", [[0, 1, 2], [3, 6, 7]])
    assert find(tmp_path / "loveDA")[0] == "loveda"
    assert find(tmp_path / "mine")[0] == "folder"
    assert Converted(tmp_path / "loveDA", tmp_path / "out").label("val", "3") == [[255, 0, 1], [2, 5, 6]]


def test_loveda_without_images_is_told_so(tmp_path: Path) -> None:
    ids(tmp_path / "l/Train/Urban/masks_png/0.png", [[1]])
    with pytest.raises(DatasetError, match=r"this is LoveDA: .*Train/Urban/images_png/ is missing"):
        find(tmp_path / "l")


def test_potsdam_reads_colours_and_the_contests_tiles(tmp_path: Path) -> None:
    root = tmp_path / "Potsdam"
    for tile in ("2_10", "7_13", "6_7"):
        picture(root / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif")
        picture(root / f"3_Ortho_IRRG/top_potsdam_{tile}_IRRG.tif")
        colors(root / f"5_Labels_all/top_potsdam_{tile}_label.tif", [[WHITE, BLUE, CYAN], [GREEN, (252, 255, 0), RED]])
        colors(root / f"noBoundary/top_potsdam_{tile}_label_noBoundary.tif", [[BLACK] * 3] * 2)
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.ids("test")) == ("isprs", ["7_13"])
    assert sorted(read.ids("train") + read.ids("val")) == ["2_10", "6_7"]
    assert read.label("test", "7_13") == [[0, 1, 2], [3, 4, 5]]
    assert read.names[0] == "impervious_surface" and read.names[5] == "clutter"


def test_potsdam_is_read_from_its_archive_of_four_bands_alone(tmp_path: Path) -> None:
    """As `4_Ortho_RGBIR.zip` of the contest; torchgeo's `potsdam.py` reads this one and the labels beside it."""
    root = tmp_path / "Potsdam"
    for tile in ("2_10", "6_7"):
        raster(root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif", 2, 3, 4, photometric="rgb", alpha="no")
        colors(root / f"5_Labels_all/top_potsdam_{tile}_label.tif", [[WHITE, BLUE, CYAN], [GREEN, RED, RED]])
    with pytest.raises(DatasetError, match=r"data\.bands"):
        Converted(root, tmp_path / "out")
    read = Converted(root, tmp_path / "out", bands=(1, 2, 3))
    assert (read.key, sum(read.info.splits.values())) == ("isprs", 2)


def test_vaihingen_has_its_images_in_top_and_eroded_borders_are_void(tmp_path: Path) -> None:
    root = tmp_path / "Vaihingen"
    for area in (1, 2):
        picture(root / f"top/top_mosaic_09cm_area{area}.tif")
        name = f"top_mosaic_09cm_area{area}_noBoundary.tif"
        colors(root / f"gts_eroded/{name}", [[WHITE, BLACK, CYAN], [GREEN, BLACK, RED]])
    read = Converted(root, tmp_path / "out")
    assert (read.ids("test"), read.label("test", "area2")) == (["area2"], [[0, 255, 2], [3, 255, 5]])


def test_a_colour_that_is_none_of_the_contests_is_named_with_its_place(tmp_path: Path) -> None:
    root = tmp_path / "Vaihingen"
    picture(root / "top/top_mosaic_09cm_area1.tif")
    colors(root / "gts/top_mosaic_09cm_area1.tif", [[WHITE, WHITE, WHITE], [WHITE, (255, 128, 0), WHITE]])
    with pytest.raises(DatasetError, match=r"area1.tif: colour \(255, 128, 0\) at x=1, y=1"):
        Converted(root, tmp_path / "out")


def test_vaihingen_without_labels_is_told_so(tmp_path: Path) -> None:
    picture(tmp_path / "v/top/top_mosaic_09cm_area1.tif")
    with pytest.raises(DatasetError, match=r"this is ISPRS.*the labels is missing"):
        find(tmp_path / "v")


def tiles(root: Path, values: Any, name: str = "2_10_0_0_40_40") -> Path:
    for split, tile in (("train", name), ("val", name.replace("2_10", "7_13"))):
        height, width = np.shape(values)
        picture(root / f"img_dir/{split}/{tile}.png", height, width)
        ids(root / f"ann_dir/{split}/{tile}.png", values)
    return root


def test_tiles_of_mmsegmentation_start_at_one_and_their_borders_are_void(tmp_path: Path) -> None:
    read = Converted(tiles(tmp_path / "potsdam", [[0, 1, 2], [3, 5, 6]]), tmp_path / "out")
    assert (read.key, read.label("val", "7_13_0_0_40_40")) == ("isprs", [[255, 0, 1], [2, 4, 5]])


def test_tiles_whose_ids_may_start_at_either_are_read_by_name(tmp_path: Path) -> None:
    narrow = tiles(tmp_path / "narrow", [[0, 1, 2], [3, 5, 4]])
    with pytest.raises(DatasetError, match=r"set data\.format to isprs_from_1 or to isprs_from_0"):
        Converted(narrow, tmp_path / "out")
    one, zero = (Converted(narrow, tmp_path / f"out{n}", f"isprs_from_{n}") for n in (1, 0))
    assert one.label("val", "7_13_0_0_40_40") == [[255, 0, 1], [2, 4, 3]]
    assert zero.label("val", "7_13_0_0_40_40") == [[0, 1, 2], [3, 5, 4]]


def test_tiles_with_a_wide_area_of_zeros_start_at_zero(tmp_path: Path) -> None:
    values = np.zeros((40, 40), int)
    values[0, :6] = (0, 1, 2, 3, 4, 5)
    read = Converted(tiles(tmp_path / "potsdam", values), tmp_path / "out")
    assert read.label("val", "7_13_0_0_40_40")[0][:6] == [0, 1, 2, 3, 4, 5]


def land(root: Path, values: Any, folder: str = "train") -> Path:
    for number in range(3):
        height, width = np.shape(values)[:2]
        picture(root / folder / f"{number}_sat.jpg", height, width)
        colors(root / folder / f"{number}_mask.png", values)
    return root


def test_deepglobe_takes_each_channel_from_128_on_as_255(tmp_path: Path) -> None:
    root = land(tmp_path / "d", [[(0, 255, 255), (250, 130, 3), (255, 0, 255)], [(9, 9, 9), (0, 0, 200), WHITE]])
    picture(root / "valid/9_sat.jpg")
    read = Converted(root, tmp_path / "out")
    assert (read.key, sum(read.info.splits.values())) == ("deepglobe", 3)
    split = next(s for s in read.info.splits if "1" in read.ids(s))
    assert read.named(split, "1") == [
        ["urban_land", "agriculture_land", "rangeland"],
        ["-", "water", "barren_land"],
    ]


def test_roads_of_deepglobe_are_not_its_land_cover(tmp_path: Path) -> None:
    root = land(tmp_path / "d", [[WHITE, BLACK, WHITE], [BLACK, BLACK, WHITE]])
    assert find(root)[0] == "side_by_side"


def test_deepglobe_refuses_a_colour_of_no_class(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"_mask.png: colour \(255, 0, 0\) at x=1, y=0 is not in"):
        Converted(land(tmp_path / "d", [[YELLOW, RED]]), tmp_path / "out")


def test_semantic_drone_of_its_authors_has_colours(tmp_path: Path) -> None:
    root = tmp_path / "semantic_drone_dataset"
    for number in ("000", "001", "002"):
        picture(root / f"training_set/images/{number}.jpg")
        truth = [[(128, 64, 128), (0, 0, 0), (255, 0, 0)], [(2, 135, 115), (255, 22, 96), (9, 143, 150)]]
        colors(root / f"training_set/gt/semantic/label_images/{number}.png", truth)
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("semantic_drone", 22)
    assert read.named("train", read.ids("train")[0]) == [["paved-area", "-", "-"], ["obstacle", "person", "car"]]


def kaggle(root: Path, values: Any) -> Path:
    for number in ("000", "001", "002"):
        picture(root / f"dataset/semantic_drone_dataset/original_images/{number}.jpg")
        ids(root / f"dataset/semantic_drone_dataset/label_images_semantic/{number}.png", values)
    return root


def test_semantic_drone_on_kaggle_has_ids(tmp_path: Path) -> None:
    root = kaggle(tmp_path / "k", [[0, 1, 22], [15, 17, 23]])
    write(root / "class_dict_seg.csv", "name, r, g, b\nunlabeled, 0, 0, 0\n")
    read = Converted(root, tmp_path / "out")
    assert read.named("train", read.ids("train")[0]) == [["-", "paved-area", "obstacle"], ["person", "car", "-"]]


def test_five_classes_of_drones_are_not_the_authors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"ids are 0..4, as of another data set with five classes"):
        Converted(kaggle(tmp_path / "k", [[0, 1, 2], [3, 4, 4]]), tmp_path / "out")
