"""COCO's JSON and what tools export in its shape; pycocotools says what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_api

from segmodels.data.folder import DatasetError
from segmodels.data.formats.decode import coco_mask, coco_runs
from tests.segmodels.data.formats.making import Converted, picture, write

CAR = [1.0, 1.0, 6.0, 1.0, 6.0, 4.0, 1.0, 4.0]
WHEEL = [2.0, 2.0, 4.0, 2.0, 4.0, 4.0, 2.0, 4.0]


def entry(number: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 9, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def content(annotations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 6, "width": 8}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}],
        "annotations": annotations,
        **more,
    }


def coco(root: Path, annotations: list[dict[str, Any]]) -> Path:
    for split in ("train", "val"):
        picture(root / f"{split}2017/000000000009.jpg", 6, 8)
        write(root / f"annotations/instances_{split}2017.json", json.dumps(content(annotations)))
        write(root / f"annotations/captions_{split}2017.json", json.dumps(content([])))
    return root


def test_objects_are_drawn_as_pycocotools_does_with_the_smaller_on_top(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", [entry(1, 90, [WHEEL]), entry(2, 3, [CAR])])
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert (read.key, read.names) == ("coco", ["background", "person", "car", "toothbrush"])
    assert dict(read.info.splits) == {"train": 1, "val": 1}
    code = coco_api.frPyObjects([CAR], 6, 8)
    wanted = np.where(coco_api.decode(coco_api.merge(code)), 2, 0)
    wheel = coco_api.decode(coco_api.merge(coco_api.frPyObjects([WHEEL], 6, 8)))
    assert np.array_equal(read.label("train", "000000000009"), np.where(wheel, 3, wanted))
    assert read.truth("val", "000000000009", "instances").max() == 2


def test_undrawn_pixels_are_what_is_said(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", [entry(2, 3, [CAR])])
    read = Converted(root, tmp_path / "out", background="ignore")
    assert read.names == ["person", "car", "toothbrush"]
    assert read.named("train", "000000000009")[0][0] == "-"


def test_a_crowd_is_drawn_below_and_is_no_object(tmp_path: Path) -> None:
    runs = {"size": [6, 8], "counts": [0, 48]}
    root = coco(tmp_path / "coco", [entry(1, 1, runs, iscrowd=1), entry(2, 3, [CAR])])
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert {*map(tuple, read.named("train", "000000000009"))} >= {("person",) * 8}
    assert read.truth("train", "000000000009", "instances").max() == 1


@given(st.lists(st.booleans(), min_size=48, max_size=48))
def test_packed_runs_are_unpacked_as_pycocotools_does(bits: list[bool]) -> None:
    mask = np.array(bits, np.uint8).reshape(6, 8)
    packed = coco_api.encode(np.asfortranarray(mask))
    assert np.array_equal(coco_runs({"size": [6, 8], "counts": packed["counts"].decode()}, 6, 8), mask)


@pytest.mark.parametrize(
    "code",
    [
        {"size": [6, 8], "counts": [40, 9]},
        {"size": [6, 9], "counts": [54]},
        {"size": [6, 8], "counts": "zzzzzzzzzzzzzzzz"},
        {"size": [6, 8], "counts": "\x01"},
    ],
)
def test_runs_that_do_not_cover_the_mask_are_refused(code: dict[str, Any]) -> None:
    with pytest.raises(DatasetError):
        coco_mask(code, 6, 8)


def test_stuff_as_json_is_read_where_there_are_no_objects(tmp_path: Path) -> None:
    """As `stuff_annotations_trainval2017.zip` unpacks (cocodataset.org, "Data format", 3)."""
    root = coco(tmp_path / "coco", [entry(2, 3, [CAR])])
    for split in ("train", "val"):
        stuff = content([entry(1, 92, [CAR])], categories=[{"id": 92, "name": "banner"}, {"id": 183, "name": "other"}])
        write(root / f"annotations/stuff_{split}2017.json", json.dumps(stuff))
    assert Converted(root, tmp_path / "out").names == ["background", "person", "car", "toothbrush"]
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}2017.json").unlink()
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.names, read.label("train", "000000000009")[2][2]) == (
        "coco", ["background", "banner", "other"], 1,
    )  # fmt: skip


def test_boxes_alone_are_told(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", [entry(1, 1, [], bbox=[0, 0, 3, 3])])
    with pytest.raises(DatasetError, match=r"instances_train2017.json: its annotations are boxes"):
        Converted(root, tmp_path / "out")


def test_an_image_that_is_not_there_is_named_with_its_file(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", [entry(1, 1, [CAR])])
    (root / "val2017/000000000009.jpg").unlink()
    with pytest.raises(DatasetError, match=r"instances_val2017.json: 000000000009.jpg is not in .*val2017"):
        Converted(root, tmp_path / "out")


def test_the_folder_of_annotations_may_be_given(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco", [entry(1, 1, [CAR])])
    assert dict(Converted(root / "annotations", tmp_path / "out").info.splits) == {"train": 1, "val": 1}


def test_images_of_which_none_is_there_are_told_once(tmp_path: Path) -> None:
    """As `utils/ade20k_instance_imgCatIds.json` of CSAILVision/ADE20K, which names 25,562 images that lie elsewhere."""
    root = coco(tmp_path / "coco", [entry(1, 1, [CAR])])
    listed = [{"id": n, "file_name": f"ADE_train_{n:08}.jpg", "height": 6, "width": 8} for n in range(30)]
    write(root / "annotations/instances_val2017.json", json.dumps(content([entry(1, 1, [CAR])], images=listed)))
    with pytest.raises(
        DatasetError, match=r"ADE_train_00000000.jpg is not in \S+val2017; .*nor are the 29 others"
    ) as told:
        Converted(root, tmp_path / "out")
    assert "\n" not in str(told.value)


def test_roboflow_has_a_file_in_each_split_and_a_first_category_that_is_none(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        picture(tmp_path / f"r/{split}/000000000009.jpg", 6, 8)
        described = content([entry(1, 1, [CAR])])
        described["categories"] = [
            {"id": 0, "name": "vehicles", "supercategory": "none"},
            {"id": 1, "name": "car", "supercategory": "vehicles"},
        ]
        write(tmp_path / f"r/{split}/_annotations.coco.json", json.dumps(described))
    read = Converted(tmp_path / "r", tmp_path / "out")
    assert (read.names, dict(read.info.splits)) == (["background", "car"], {"train": 1, "val": 1, "test": 1})


def test_label_studio_and_cvat_put_one_file_beside_images(tmp_path: Path) -> None:
    picture(tmp_path / "ls/images/000000000009.jpg", 6, 8)
    described = content([entry(1, 3, [CAR])])
    described["images"][0]["file_name"] = "images\\000000000009.jpg"
    write(tmp_path / "ls/result.json", json.dumps(described))
    read = Converted(tmp_path / "ls", tmp_path / "out")
    assert read.key == "coco"
    picture(tmp_path / "cvat/images/default/000000000009.jpg", 6, 8)
    write(tmp_path / "cvat/annotations/instances_default.json", json.dumps(content([entry(1, 3, [CAR])])))
    assert Converted(tmp_path / "cvat", tmp_path / "out2").key == "coco"
