"""Exports of the tools that people label with."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from segmodels.data.formats.decode import placed
from tests.segmodels.data.formats.making import Converted, colors, picture, write

# On an image of 6 x 8.
SQUARE = [[1, 1], [4, 1], [4, 3], [1, 3]]
SQUARED = [[1 <= x <= 4 and 1 <= y <= 3 for x in range(8)] for y in range(6)]


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return file.getvalue()


def only(read: Converted) -> tuple[str, str]:
    ((split, sample),) = [(split, i) for split in read.info.splits for i in read.ids(split)]
    return split, sample


def names(read: Converted) -> list[list[str]]:
    return read.named(*only(read))


def labelme(root: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    picture(root / "a.jpg", 6, 8)
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": "a.jpg",
        "imageData": None,
    }
    write(root / "a.json", json.dumps(content | {"imageHeight": 6, "imageWidth": 8} | more))
    return root


def test_labelme_draws_its_shapes_in_their_order(tmp_path: Path) -> None:
    mask = base64.b64encode(png(np.array([[0, 1], [1, 1]], bool))).decode()
    shapes: list[dict[str, Any]] = [
        {"label": "car", "points": SQUARE, "shape_type": "polygon", "group_id": None, "flags": {}},
        {"label": "wheel", "points": [[4, 3], [5, 4]], "shape_type": "mask", "mask": mask},
        {"label": "sky", "points": [[0, 0], [7, 0]], "shape_type": "rectangle"},
    ]
    read = Converted(labelme(tmp_path / "l", shapes), tmp_path / "out", targets=("instances",))
    assert (read.key, read.names) == ("labelme", ["background", "car", "sky", "wheel"])
    got = names(read)
    assert got[0] == ["sky"] * 8
    assert got[1] == ["background", *["car"] * 4, *["background"] * 3]
    assert got[3][4:6] == ["car", "wheel"] and got[4][4:6] == ["wheel", "wheel"]
    assert read.truth(*only(read), "instances").max() == 3


def test_labelme_takes_classes_and_their_order_from_labels_txt(tmp_path: Path) -> None:
    root = labelme(tmp_path / "l", [{"label": "__ignore__", "points": SQUARE, "shape_type": "polygon"}])
    write(root / "labels.txt", "__ignore__\n_background_\nzebra\ncar\n")
    read = Converted(root, tmp_path / "out")
    assert (read.names, names(read)[2][2]) == (["background", "zebra", "car"], "-")
    write(root / "labels.txt", "zebra\n")
    with pytest.raises(DatasetError, match=r"a.json: label 'car' is not in labels.txt"):
        Converted(labelme(root, [{"label": "car", "points": SQUARE}]), tmp_path / "out")


def test_labelme_keeps_images_inside_its_files(tmp_path: Path) -> None:
    inside = base64.b64encode(png(np.full((6, 8, 3), 7, np.uint8))).decode()
    root = labelme(tmp_path / "l", [{"label": "car", "points": SQUARE}], imageData=inside, imagePath="..\\x\\b.png")
    (root / "a.jpg").unlink()
    read = Converted(root, tmp_path / "out")
    assert names(read)[1][1] == "car"
    (image,) = (tmp_path / "out").glob("*/images/*")
    assert (np.asarray(Image.open(image)) == 7).all()


def test_labelme_files_that_name_themselves_hold_their_image(tmp_path: Path) -> None:
    """As `examples/tutorial/apc2016_obj3.json` of wkentaro/labelme, of version 4.0."""
    inside = base64.b64encode(png(np.full((6, 8, 3), 7, np.uint8))).decode()
    root = labelme(tmp_path / "l", [{"label": "car", "points": SQUARE}], imageData=inside, imagePath="a.json")
    read = Converted(root, tmp_path / "out")
    assert names(read)[1][1] == "car"
    (image,) = (tmp_path / "out").glob("*/images/*")
    assert (image.name, bool((np.asarray(Image.open(image)) == 7).all())) == ("a.png", True)


def test_flags_alone_are_no_segmentation(tmp_path: Path) -> None:
    """As `examples/classification` of wkentaro/labelme."""
    with pytest.raises(DatasetError, match=r"l: is labelme, but nothing is drawn on its images"):
        Converted(labelme(tmp_path / "l", [], flags={"cat": True}), tmp_path / "out")


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"label": "car", "points": [[0, 0]], "shape_type": "circle"}, "a shape of 'car' is damaged"),
        ({"label": "car", "points": "x", "shape_type": "polygon"}, "a shape of 'car' is damaged"),
        ({"label": "car", "points": SQUARE, "shape_type": "mask", "mask": "%%"}, "a shape of 'car' is damaged"),
    ],
)
def test_a_damaged_shape_is_told_with_its_file(tmp_path: Path, shape: dict[str, Any], why: str) -> None:
    with pytest.raises(DatasetError, match=f"a.json: {why}"):
        Converted(labelme(tmp_path / "l", [shape]), tmp_path / "out")


def supervisely(root: Path, objects: list[dict[str, Any]]) -> Path:
    classes = [
        {"title": "car", "shape": "bitmap", "color": "#FF0000"},
        {"title": "dog", "shape": "any", "color": "#00FF00"},
    ]
    write(root / "meta.json", json.dumps({"classes": classes, "tags": []}))
    picture(root / "train/img/a.jpg", 6, 8)
    described = {"size": {"height": 6, "width": 8}, "tags": [], "objects": objects}
    write(root / "train/ann/a.jpg.json", json.dumps(described))
    return root


def test_supervisely_draws_bitmaps_and_polygons_with_holes(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 1, 3] = rgba[1, :, 3] = 255
    data = base64.b64encode(zlib.compress(png(rgba))).decode()
    outer, hole = [[0, 0], [7, 0], [7, 5], [0, 5]], [[2, 2], [4, 2], [4, 4], [2, 4]]
    objects = [
        {"classTitle": "dog", "geometryType": "polygon", "points": {"exterior": outer, "interior": [hole]}},
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [2, 2]}},
    ]
    read = Converted(supervisely(tmp_path / "s", objects), tmp_path / "out")
    assert (read.key, read.names, read.info.palette[1]) == ("supervisely", ["background", "car", "dog"], (255, 0, 0))
    assert names(read)[2] == ["dog", "dog", "background", "car", "background", "dog", "dog", "dog"]
    assert names(read)[3][2:4] == ["car", "car"]


def test_supervisely_has_masks_that_are_not_deflated_and_further_geometries(tmp_path: Path) -> None:
    """As `alpha_mask.py`, `multipolygon.py` and `oriented_bbox.py` of supervisely/supervisely write and draw them."""
    alpha = base64.b64encode(png(np.array([[200, 90]], np.uint8))).decode()
    plain = base64.b64encode(png(np.array([[True]]))).decode()
    parts = [{"exterior": [[0, 0], [1, 0], [1, 0]], "interior": []}, {"exterior": [[5, 0], [7, 0], [7, 0]]}]
    objects: list[dict[str, Any]] = [
        {"classTitle": "dog", "geometryType": "alpha_mask", "alpha_mask": {"data": alpha, "origin": [0, 5]}},
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": plain, "origin": [7, 5]}},
        {"classTitle": "dog", "geometryType": "multipolygon", "parts": parts},
        {"classTitle": "car", "geometryType": "oriented_bbox", "points": [[2, 3], [6, 3]], "angle": np.pi / 2},
    ]
    got = names(Converted(supervisely(tmp_path / "s", objects), tmp_path / "out"))
    assert got[5] == ["dog", "background", "background", "background", "car", "background", "background", "car"]
    assert got[0] == ["dog"] * 2 + ["background"] * 3 + ["dog"] * 3
    assert [row[4] for row in got] == ["background", "car", "car", "car", "car", "car"]


def test_supervisely_without_an_annotation_names_it(tmp_path: Path) -> None:
    root = supervisely(tmp_path / "s", [])
    picture(root / "train/img/b.jpg", 6, 8)
    with pytest.raises(DatasetError, match=r"b.jpg: has no annotation; .*b.jpg.json is missing"):
        Converted(root, tmp_path / "out")


def yolo(root: Path, line: str, order: str = "images/{split}") -> Path:
    for split in ("train", "val"):
        folder = order.format(split=split)
        picture(root / folder / "a.jpg", 6, 8)
        write(root / folder.replace("images", "labels") / "a.txt", line)
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames:\n  0: car\n  1: bus\n")
    return root


@pytest.mark.parametrize("order", ["images/{split}", "{split}/images"])
def test_yolo_draws_polygons_in_parts_of_the_image(tmp_path: Path, order: str) -> None:
    line = "1 0.125 0.1667 0.5 0.1667 0.5 0.5 0.125 0.5\n"
    read = Converted(yolo(tmp_path / "y", line, order), tmp_path / "out")
    assert (read.key, read.names, dict(read.info.splits)) == (
        "yolo",
        ["background", "car", "bus"],
        {"train": 1, "val": 1},
    )
    assert read.named("train", read.ids("train")[0])[2] == ["background", *["bus"] * 4, *["background"] * 3]


def test_yolo_boxes_are_told_to_be_boxes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="its labels are boxes"):
        find(yolo(tmp_path / "y", "0 0.5 0.5 0.2 0.2\n"))


@pytest.mark.parametrize(
    ("line", "why"), [("2 0 0 1 0 1 1\n", "class 2 has no name; 2 are named"), ("0 0 0 1 0 1\n", r"holds 5 numbers")]
)
def test_a_line_of_yolo_that_is_no_polygon_is_named(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(DatasetError, match=rf"a.txt:1: .*{why}"):
        Converted(yolo(tmp_path / "y", line), tmp_path / "out", "yolo")


def test_yolo_without_names_is_told_what_is_missing(tmp_path: Path) -> None:
    root = yolo(tmp_path / "y", "0 0 0 1 0 1 1\n")
    (root / "data.yaml").unlink()
    with pytest.raises(DatasetError, match=r"this is YOLO segmentation: .*data.yaml with the names"):
        find(root)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>car</name><color>#ff0000</color></label><label><name>dog</name><color>#00ff00</color></label>
</labels></task></meta>
<image id="0" name="a.jpg" width="8" height="6"{subset}>{shapes}</image></annotations>
"""


def cvat(root: Path, shapes: str, subset: str = "") -> Path:
    picture(root / "images/a.jpg", 6, 8)
    return write(root / "annotations.xml", CVAT.format(shapes=shapes, subset=subset)).parent


def test_cvat_draws_by_z_order_and_unpacks_masks(tmp_path: Path) -> None:
    shapes = (
        '<mask label="dog" source="manual" occluded="0" rle="1, 3" left="3" top="2" width="2" height="2" z_order="1"/>'
        '<polygon label="car" points="1.00,1.00;4.00,1.00;4.00,3.00;1.00,3.00" z_order="0"/>'
        '<box label="dog" xtl="6" ytl="4" xbr="7" ybr="5" z_order="0"/>'
    )
    read = Converted(cvat(tmp_path / "c", shapes), tmp_path / "out")
    assert (read.key, read.names, read.info.palette[1]) == ("cvat", ["background", "car", "dog"], (255, 0, 0))
    assert names(read)[2][1:5] == ["car", "car", "car", "dog"]
    assert names(read)[3][3:5] == ["dog", "dog"] and names(read)[5][6:] == ["dog", "dog"]


def test_cvat_takes_subsets_as_splits(tmp_path: Path) -> None:
    root = cvat(tmp_path / "c", "", ' subset="Validation"')
    assert dict(Converted(root, tmp_path / "out").info.splits)["val"] == 1


VIDEO = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><mode>interpolation</mode><labels><label><name>car</name></label>
<label><name>dog</name></label></labels><original_size><width>8</width><height>6</height></original_size></task></meta>
<track id="0" label="car">
<box frame="10" outside="0" keyframe="1" xtl="1" ytl="1" xbr="4" ybr="3" z_order="0"/>
<box frame="13" outside="1" keyframe="1" xtl="1" ytl="1" xbr="4" ybr="3" z_order="0"/></track>
<track id="1" label="dog">
<polygon frame="13" outside="0" keyframe="1" points="1,1;4,1;4,3;1,3" z_order="0"/></track></annotations>
"""


def test_cvats_videos_are_drawn_frame_by_frame(tmp_path: Path) -> None:
    """As docs.cvat.ai, "XML annotation format" and "CVAT for videos export"; numbers step as with a frame filter."""
    for number in (10, 13, 16):
        picture(tmp_path / f"v/images/frame_{number:06}.png", 6, 8)
    write(tmp_path / "v/annotations.xml", VIDEO)
    read = Converted(tmp_path / "v", tmp_path / "out")
    got = {i: read.named(split, i)[2][2] for split in read.info.splits for i in read.ids(split)}
    assert got == {"frame_000010": "car", "frame_000013": "dog", "frame_000016": "background"}
    (tmp_path / "v/images/frame_000013.png").unlink()
    with pytest.raises(DatasetError, match=r"image frame_000013.png is not in images/"):
        Converted(tmp_path / "v", tmp_path / "out")


def test_cvats_file_may_have_another_name(tmp_path: Path) -> None:
    root = cvat(tmp_path / "c", '<box label="dog" xtl="6" ytl="4" xbr="7" ybr="5" z_order="0"/>')
    (root / "annotations.xml").rename(root / "task 7.xml")
    assert names(Converted(root, tmp_path / "out"))[5][6:] == ["dog", "dog"]


def test_cvat_without_its_images_names_the_first(tmp_path: Path) -> None:
    root = cvat(tmp_path / "c", "")
    (root / "images/a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"annotations.xml: image a.jpg is not in images/"):
        Converted(root, tmp_path / "out")


def test_cvat_with_entities_is_refused(tmp_path: Path) -> None:
    root = cvat(tmp_path / "c", "")
    text = (root / "annotations.xml").read_text()
    write(root / "annotations.xml", text.replace("<annotations>", '<!DOCTYPE a [<!ENTITY x "y">]><annotations>', 1))
    with pytest.raises(DatasetError, match="declares entities"):
        Converted(root, tmp_path / "out")


def test_cvats_masks_are_read_by_the_colours_of_labelmap(tmp_path: Path) -> None:
    root = tmp_path / "m"
    write(
        root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nignore:9,9,9::\n"
    )
    picture(root / "JPEGImages/a.jpg", 1, 3)
    colors(root / "SegmentationClass/a.png", [[[0, 0, 0], [250, 50, 83], [9, 9, 9]]])
    colors(root / "SegmentationObject/a.png", [[[0, 0, 0], [250, 50, 83], [0, 0, 0]]])
    write(root / "ImageSets/Segmentation/default.txt", "a\n")
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, names(read)) == ("cvat_mask", [["background", "car", "-"]])
    assert read.truth(*only(read), "instances").tolist() == [[0, 1, 0]]


def packed(mask: np.ndarray) -> list[int]:
    """rle-pack of RGBA pixels as Label Studio's brush writes it, with listed blocks alone."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    bits = f"{len(values):032b}" + f"{8 - 1:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    for start in range(0, len(values), 8):
        block = values[start : start + 8]
        bits += "0" + "00" + f"{len(block) - 1:03b}" + "".join(f"{v:08b}" for v in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def label_studio(root: Path, results: list[dict[str, Any]]) -> Path:
    picture(root / "images/0a1b2c3d-a.jpg", 6, 8)
    task = {"id": 7, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": results}]}
    return write(root / "project-1.json", json.dumps([task])).parent


def test_label_studio_unpacks_brushes_and_scales_polygons(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), bool)
    mask[4:, 6:] = True
    sized = {"original_width": 8, "original_height": 6}
    outline = [[100 * x / 8, 100 * y / 6] for x, y in SQUARE]
    results: list[dict[str, Any]] = [
        {"type": "polygonlabels", **sized, "value": {"points": outline, "polygonlabels": ["car"]}},
        {"type": "brushlabels", **sized, "value": {"format": "rle", "rle": packed(mask), "brushlabels": ["dog"]}},
        {"type": "choices", "value": {"choices": ["x"]}},
    ]
    read = Converted(label_studio(tmp_path / "s", results), tmp_path / "out")
    assert (read.key, read.names) == ("label_studio", ["background", "car", "dog"])
    got = names(read)
    assert [[v == "car" for v in row] for row in got] == SQUARED
    assert [[v == "dog" for v in row] for row in got] == mask.tolist()


def test_label_studio_names_regions_with_its_tag_labels_and_has_bitmasks(tmp_path: Path) -> None:
    """As labelstud.io/tags/bitmasklabels says, and `decode_from_annotation` of HumanSignal/label-studio-sdk reads."""
    outline, sized = [[100 * x / 8, 100 * y / 6] for x, y in SQUARE], {"original_width": 8, "original_height": 6}
    black_on_nothing = np.zeros((6, 8, 4), np.uint8)
    black_on_nothing[5, 7, 3] = 255
    address = "data:image/png;base64," + base64.b64encode(png(black_on_nothing)).decode()
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = True
    results: list[dict[str, Any]] = [
        {"id": "x", "type": "polygon", **sized, "value": {"points": outline, "closed": True}},
        {"id": "x", "type": "labels", **sized, "value": {"points": outline, "closed": True, "labels": ["car"]}},
        {"id": "y", "type": "labels", **sized, "value": {"format": "rle", "rle": packed(mask), "labels": ["cat"]}},
        {"id": "z", "type": "bitmasklabels", **sized, "value": {"imageDataURL": address, "bitmasklabels": ["dog"]}},
    ]
    got = names(Converted(label_studio(tmp_path / "s", results), tmp_path / "out"))
    assert (got[1][1], got[0][0], got[5][7], got[5][6]) == ("car", "cat", "dog", "background")


def test_label_studios_brush_pngs_alone_need_the_json_export(tmp_path: Path) -> None:
    picture(tmp_path / "s/task-7-annotation-1-by-1-tag-car-0.png")
    with pytest.raises(DatasetError, match=r"this is Label Studio.*the JSON export, which says which image"):
        find(tmp_path / "s")


def test_label_studio_names_an_image_that_is_not_there(tmp_path: Path) -> None:
    root = label_studio(tmp_path / "s", [])
    (root / "images/0a1b2c3d-a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"project-1.json: task 7: its image 0a1b2c3d-a.jpg is not below"):
        Converted(root, tmp_path / "out")


@pytest.mark.parametrize(("left", "top"), [(0, 0), (-1, -2), (6, 4), (7, -1), (-9, 0), (20, 20)])
def test_a_part_is_placed_and_cut_where_it_lies_outside(left: int, top: int) -> None:
    part = np.array([[True, False, True], [True, True, False]])
    wanted = np.zeros((6, 8), bool)
    for y in range(2):
        for x in range(3):
            if 0 <= y + top < 6 and 0 <= x + left < 8:
                wanted[y + top, x + left] = part[y, x]
    assert np.array_equal(placed(part, left, top, 6, 8), wanted)


@pytest.mark.parametrize("count", [254, 255, 256, 300])
def test_as_many_labels_as_there_are_can_be_drawn_and_chosen_from(tmp_path: Path, count: int) -> None:
    shapes: list[dict[str, Any]] = [{"label": f"c{i:03}", "points": [[0, 0], [7, 0], [7, 5]]} for i in range(count)]
    shapes += [{"label": "c000", "points": SQUARE}, {"label": "__ignore__", "points": [[0, 5], [1, 5]]}]
    root = labelme(tmp_path / "l", shapes)
    for background in ("ignore", "ground"):
        chosen = {"first": ["c000"], "last": [f"c{count - 1:03}"], "rest": "*"}
        read = Converted(root, tmp_path / "out", background=background, classes=chosen)
        got = names(read)
        undrawn = "-" if background == "ignore" else "rest"
        assert (got[2][2], got[0][6], got[5][1], got[4][0]) == ("first", "last", "-", undrawn)
    if count >= 255:
        with pytest.raises(DatasetError, match="labels of 8 bits hold at most 255"):
            Converted(root, tmp_path / "out")
