"""What was once read wrongly without a word is read right, or refused with both readings and the key that decides."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.data.formats import classes as class_files
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, colors, ids, picture, write


def mine(root: Path, *labels: Any, dtype: type = np.uint8) -> Path:
    """Images 0, 1, … with these labels; one row each."""
    for number, values in enumerate(labels):
        row: np.ndarray = np.asarray([values], dtype)
        picture(root / f"images/{number}.png", *row.shape[:2])
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(row).save(root / f"labels/{number}.png")
    return root


def read(root: Path, **choices: Any) -> dict[str, list[str]]:
    """Id -> names of the first row."""
    converted = Converted(root, root.with_name("out"), "folder", **choices)
    rows = {i: converted.named(split, i)[0] for split in converted.info.splits for i in converted.ids(split)}
    return dict(sorted(rows.items()))


RED, GREEN = [255, 0, 0], [0, 255, 0]


def palettes(root: Path) -> Path:
    for number, palette in enumerate(([0, 0, 0, *RED, *GREEN], [0, 0, 0, *GREEN, *RED])):
        picture(root / f"images/{number}.png", 1, 3)
        ids(root / f"labels/{number}.png", [[0, 1, 2]], palette=palette)
    return root


def test_palettes_that_differ_are_refused_until_someone_says_what_counts(tmp_path: Path) -> None:
    root = palettes(tmp_path / "mine")
    with pytest.raises(
        DatasetError, match=r"index 1 is drawn in \(255, 0, 0\) in .*0.png, and in \(0, 255, 0\).*coding"
    ):
        read(root)
    assert read(root, coding="index")["1"] == ["class_0", "class_1", "class_2"]
    write(root / "classes.txt", "none 0 0 0\nrobin 255 0 0\nfrog 0 255 0\n")
    assert read(root, coding="color") == {"0": ["none", "robin", "frog"], "1": ["none", "frog", "robin"]}
    assert read(root) == read(root, coding="color"), "where every colour is a class's, colours count"


def test_a_palette_that_names_some_classes_alone_is_refused(tmp_path: Path) -> None:
    root = palettes(tmp_path / "mine")
    write(root / "classes.txt", "none 0 0 0\nfrog 0 255 0\n")
    with pytest.raises(DatasetError, match=r"some of its colours are those of the classes, but index"):
        read(root)


def test_a_hidden_folder_beside_splits_changes_nothing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / f"mine/images/{split}/{split}1.png", 1, 2)
        ids(tmp_path / f"mine/labels/{split}/{split}1.png", [[0, 1]])
    picture(tmp_path / "mine/images/train/train2.png", 1, 2)
    ids(tmp_path / "mine/labels/train/train2.png", [[0, 1]])
    picture(tmp_path / "mine/images/.ipynb_checkpoints/train1.png", 1, 2)
    picture(tmp_path / "mine/images/train/.ipynb_checkpoints/train1-checkpoint.png", 1, 2)
    made = Converted(tmp_path / "mine", tmp_path / "out")
    assert made.ids("test") == ["test1"]
    assert sorted(made.ids("train") + made.ids("val")) == ["train1", "train2"]


def test_three_grey_levels_are_neither_ids_nor_a_mask(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 128, 255], [0, 0, 255])
    with pytest.raises(DatasetError, match=r"labels hold 0, 128 .*0.png.*data.values.*data.threshold"):
        read(root)
    values = {0: "background", 128: "void", 255: "cat"}
    assert read(root, values=values) == {"0": ["background", "-", "cat"], "1": ["background", "background", "cat"]}
    assert read(root, threshold=100)["0"] == ["background", "foreground", "foreground"]


def test_a_value_that_was_not_named_is_refused_with_its_place(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 7, 255])
    with pytest.raises(DatasetError, match=r"0.png: value 7 at x=1, y=0 is not in data.values"):
        read(root, values={0: "background", 255: "cat"})


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 255], [255, 255])
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(root / "labels/0.png")
    assert read(root) == {"0": ["background", "foreground"], "1": ["foreground", "foreground"]}


def test_masks_of_0_and_1_beside_masks_of_0_and_255_are_refused(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1], [0, 255])
    with pytest.raises(DatasetError, match=r"1.png holds 0 and 255, .*0.png holds 0 and 1; .*data.values"):
        read(root)
    made = read(root, values={0: "background", 1: "cat", 255: "cat"})
    assert made == {"0": ["background", "cat"], "1": ["background", "cat"]}


def test_ids_0_and_1_with_void_in_one_file_are_ids(tmp_path: Path) -> None:
    assert read(mine(tmp_path / "mine", [0, 1, 255], [0, 1, 1]))["0"] == ["class_0", "class_1", "-"]


def test_soft_edges_are_no_classes(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, *range(4, 256, 4), 255])
    with pytest.raises(DatasetError, match=r"data.threshold: 128"):
        read(root)
    assert read(root, threshold=128)["0"].count("foreground") == 33


def test_masks_with_one_named_class_need_to_know_the_rest(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 255])
    write(root / "classes.txt", "road\n")
    with pytest.raises(DatasetError, match=r"one class is named, road; if 255 is road, set data.background"):
        read(root)
    assert read(root, background="other") == {"0": ["other", "road"]}
    assert read(root, background="ignore") == {"0": ["-", "road"]}
    assert read(root, values={0: "road", 255: "void"}) == {"0": ["road", "-"]}


def test_masks_with_many_named_classes_are_refused(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 255])
    write(root / "classes.txt", "sky\nroad\ncar\n")
    with pytest.raises(DatasetError, match="labels hold 0 and 255 alone, and 3 classes are named"):
        read(root)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_lies_in_the_alpha_channel_is_read_there(tmp_path: Path, mode: str) -> None:
    root = mine(tmp_path / "mine", [0, 255])
    Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)).convert(mode).save(root / "labels/0.png")
    assert read(root) == {"0": ["background", "foreground"]}


def test_transparency_beside_colours_that_mean_something_is_refused(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1, 0])
    pixels = [[[0, 0, 0, 255], [255, 0, 0, 255], [0, 0, 0, 0]]]
    Image.fromarray(np.array(pixels, np.uint8)).save(root / "labels/0.png")
    with pytest.raises(DatasetError, match=r"0.png: is transparent in parts"):
        read(root)


def test_a_256th_class_is_refused(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", list(range(256)))
    with pytest.raises(DatasetError, match=r"list the classes in classes.txt"):
        read(root)
    write(root / "classes.txt", "".join(f"c{i}\n" for i in range(256)))
    with pytest.raises(DatasetError, match="names 256 classes; labels of 8 bits hold at most 255"):
        read(root)


def test_ids_keep_their_numbers_where_one_does_not_occur(tmp_path: Path) -> None:
    """Two parts of one dataset, in one of which a class never occurs, have the same classes."""
    made = read(mine(tmp_path / "mine", [0, 1, 3]))
    assert made == {"0": ["class_0", "class_1", "class_3"]}
    assert Converted(tmp_path / "mine", tmp_path / "out2").info.num_classes == 4


def test_a_raw_value_that_is_ignored_is_no_class(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1, 2, 3, 255])
    assert read(root, ignore=(0,)) == {"0": ["-", "class_1", "class_2", "class_3", "-"]}
    assert Converted(root, tmp_path / "data", ignore=(0,)).names == ["class_1", "class_2", "class_3"]
    write(root / "classes.txt", "other\nroad\ncar\nsky\n")
    assert Converted(root, tmp_path / "data", ignore=(0,)).names == ["road", "car", "sky"]


def named(tmp_path: Path, name: str, text: str) -> list[tuple[str, int | None, Any]]:
    return [(c.name, c.value, c.color) for c in class_files.read(write(tmp_path / name, text))]


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "classes.json",
            '[{"id": 7, "name": "road"}, {"id": 3, "name": "sky"}]',
            [("road", 7, None), ("sky", 3, None)],
        ),
        ("classes.json", '{"0": "sky", "4": "road"}', [("sky", 0, None), ("road", 4, None)]),
        ("classes.json", '{"sky": 2, "road": 5}', [("sky", 2, None), ("road", 5, None)]),
        (
            "classes.csv",
            'name,r,g,b\n"void",0,0,0\n"road",1,2,3\n',
            [("void", None, (0, 0, 0)), ("road", None, (1, 2, 3))],
        ),
        ("classes.csv", "name, r, g, b\nroad, 1, 2, 3\n", [("road", None, (1, 2, 3))]),
        ("classes.csv", "id;name\n0;sky\n7;road\n", [("sky", 0, None), ("road", 7, None)]),
        ("classes.csv", "Index,Class,Red,Green,Blue\n4,road,1,2,3\n", [("road", 4, (1, 2, 3))]),
        ("classes.csv", "sky,1,2,3\nroad,4,5,6\n", [("sky", None, (1, 2, 3)), ("road", None, (4, 5, 6))]),
        ("classes.txt", "0: sky\n1: road\n", [("sky", 0, None), ("road", 1, None)]),
        ("classes.txt", "0 sky\n4 dirt road\n", [("sky", 0, None), ("dirt road", 4, None)]),
        ("classes.txt", "name\nsky\nroad\n", [("sky", None, None), ("road", None, None)]),
        ("classes.txt", "1 2 3\tsky\n4 5 6\troad\n", [("sky", None, (1, 2, 3)), ("road", None, (4, 5, 6))]),
        ("classes.txt", "area 51\nsky\n", [("area 51", None, None), ("sky", None, None)]),
    ],
)
def test_lists_of_classes_say_what_they_say(
    tmp_path: Path, name: str, text: str, wanted: list[tuple[str, int | None, Any]]
) -> None:
    assert named(tmp_path, name, text) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,colour name\n0,sky\n", "header in part"),
        ('[{"id": 0, "name": "a"}, {"name": "b"}]', "b has no id"),
        ('[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "id 0 stands twice"),
    ],
)
def test_lists_of_classes_that_are_half_of_something_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path / ("classes.json" if text.startswith("[") else "classes.csv"), text)
    with pytest.raises(DatasetError, match=why):
        class_files.read(path)


def test_ids_of_a_list_count_in_labels(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [7, 3, 255])
    write(root / "classes.json", '[{"id": 7, "name": "road"}, {"id": 3, "name": "sky"}]')
    assert read(root) == {"0": ["road", "sky", "-"]}


def test_linked_folders_are_read_and_broken_links_told(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1], [1, 1])
    elsewhere = tmp_path / "elsewhere"
    (root / "images").rename(elsewhere)
    (root / "images").mkdir()
    (root / "images/more").symlink_to(elsewhere)
    (root / "labels").rename(tmp_path / "truth")
    (root / "labels").mkdir()
    (root / "labels/more").symlink_to(tmp_path / "truth")
    (elsewhere / "again").symlink_to(root / "images")  # leads back
    assert sorted(read(root)) == ["more_0", "more_1"]
    (elsewhere / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DatasetError, match=r"9.png: is a link to .*gone.png, which is not there"):
        read(root)


def test_names_with_accents_belong_together_in_either_form(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1])
    (root / "images/0.png").rename(root / ("images/" + unicodedata.normalize("NFD", "grün") + ".png"))
    (root / "labels/0.png").rename(root / ("labels/" + unicodedata.normalize("NFC", "grün") + ".png"))
    assert list(read(root).values()) == [["class_0", "class_1"]]


def test_images_that_no_reader_has_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = mine(tmp_path / "mine", [0, 1])
    (root / "images/a.heic").write_bytes(b"")
    (root / "images/b.gif").write_bytes(b"")
    read(root)
    assert "2 files are left out" in caplog.text and "a.heic first" in caplog.text


def test_a_label_of_several_pages_is_refused(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1])
    (root / "labels/0.png").unlink()
    page = Image.fromarray(np.array([[0, 1]], np.uint8))
    page.save(root / "labels/0.tif", save_all=True, append_images=[page])
    with pytest.raises(DatasetError, match=r"0.tif: has 2 pages"):
        read(root)


def turned(path: Path, orientation: int, height: int, width: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [(2, [[1, 0], [3, 2]]), (3, [[3, 2], [1, 0]]), (4, [[2, 3], [0, 1]])],
)
def test_mirrored_photos_need_to_know_how_their_labels_lie(
    tmp_path: Path, orientation: int, shown: list[list[int]]
) -> None:
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    turned(root / "images/0.jpg", orientation, 2, 2)
    ids(root / "labels/0.png", [[0, 1], [2, 3]])
    with pytest.raises(DatasetError, match=f"EXIF orientation is {orientation}.*data.orientation"):
        read(root)
    assert Converted(root, tmp_path / "up", orientation="upright").label("train", "0") == [[0, 1], [2, 3]]
    assert Converted(root, tmp_path / "st", orientation="stored").label("train", "0") == shown


def test_the_size_of_a_label_says_how_it_lies_on_a_photo_that_was_turned(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    for number in range(2):
        turned(root / f"images/{number}.jpg", 6, 2, 3)
    ids(root / "labels/0.png", [[0, 1, 2], [3, 4, 5]])
    ids(root / "labels/1.png", [[3, 0], [4, 1], [5, 2]])
    made = Converted(root, tmp_path / "out")
    (one,) = (made.label(split, "0") for split in made.info.splits if "0" in made.ids(split))
    (other,) = (made.label(split, "1") for split in made.info.splits if "1" in made.ids(split))
    assert one == other == [[3, 0], [4, 1], [5, 2]]


def test_a_photograph_among_labels_is_told(tmp_path: Path) -> None:
    root = mine(tmp_path / "mine", [0, 1])
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    picture(root / "images/1.png", 300, 300)
    colors(root / "labels/1.png", noise)
    with pytest.raises(DatasetError, match=r"1.png: holds \d+ colours; this is a photograph"):
        read(root)


def test_two_layouts_side_by_side_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a/images/training/ADE_train_1.jpg")
    ids(tmp_path / "a/annotations/training/ADE_train_1.png", [[0, 1]])
    picture(tmp_path / "c/leftImg8bit/train/x/x_leftImg8bit.png")
    ids(tmp_path / "c/gtFine/train/x/x_gtFine_labelIds.png", [[0, 7]])
    with pytest.raises(DatasetError, match=r"fits 2 layouts .*ade20k.*cityscapes.*name one with data.format"):
        find(tmp_path)
    assert find(tmp_path, "ade20k") == ("ade20k", tmp_path / "a")


def test_classes_are_merged_renamed_and_left_out_of_any_layout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = mine(tmp_path / "mine", [0, 1, 2, 255])
    write(root / "classes.txt", "car\nbus\nsky\n")
    merged = Converted(root, tmp_path / "data", classes={"vehicle": ["car", "bus"]})
    assert merged.named("train", "0") == [["vehicle", "vehicle", "-", "-"]]
    assert "1 of 3 classes are void: sky" in caplog.text
    rest = Converted(root, tmp_path / "rest", classes={"other": "*", "sky": "sky"})
    assert rest.named("train", "0") == [["other", "other", "sky", "-"]]
    # A dataset folder, too, is not simply copied then.
    again = Converted(tmp_path / "rest", tmp_path / "again", ignore=("other",))
    assert (again.key, again.named("train", "0")) == ("dataset", [["-", "-", "sky", "-"]])


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"classes": {"v": ["cra"]}}, r"data.classes.v: 'cra' is no class of the data; did you mean 'car'\?"),
        ({"classes": {"a": ["car"], "b": ["car"]}}, "car belongs to a and to b"),
        ({"classes": {"a": "*", "b": "*"}}, "stands for a and for b"),
        ({"ignore": ("car", "bus", "sky")}, "every class is ignored"),
        ({"ignore": ("tree",)}, "data.ignore: 'tree' is no class"),
    ],
)
def test_a_mapping_that_says_nothing_clear_is_refused(tmp_path: Path, choices: dict[str, Any], why: str) -> None:
    root = mine(tmp_path / "mine", [0, 1, 2])
    write(root / "classes.txt", "car\nbus\nsky\n")
    with pytest.raises(DatasetError, match=why):
        read(root, **choices)


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"threshold": 3}, "data.threshold is for labels of one's own; those of Cityscapes are fixed"),
        ({"background": "x"}, "data.background: Cityscapes labels every pixel"),
        ({"ignore": (0,)}, "data.ignore: 0 is a raw value"),
    ],
)
def test_what_a_layout_has_settled_cannot_be_settled_otherwise(
    tmp_path: Path, choices: dict[str, Any], why: str
) -> None:
    picture(tmp_path / "c/leftImg8bit/train/x/x_leftImg8bit.png", 1, 2)
    ids(tmp_path / "c/gtFine/train/x/x_gtFine_labelIds.png", [[0, 7]])
    with pytest.raises(DatasetError, match=why):
        Converted(tmp_path / "c", tmp_path / "out", **choices)
