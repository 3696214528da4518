"""More streets and photographs, each as its archive unpacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import DatasetError
from segmodels.data.formats import find
from tests.segmodels.data.formats.making import Converted, ids, picture, write


def vistas(root: Path, *versions: str) -> Path:
    for folder in ("training", "validation"):
        picture(root / f"{folder}/images/{folder}.jpg")
        for version in versions:
            last = 65 if version == "v1.2" else 123
            ids(root / f"{folder}/{version}/labels/{folder}.png", [[0, 13, last], [1, 1, 2]], palette=[165, 42, 42])
            numbers = [[0, 13 << 8, last << 8], [1 << 8, (1 << 8) + 1, 2 << 8]]
            ids(root / f"{folder}/{version}/instances/{folder}.png", numbers, np.uint16)
    return root


def test_vistas_reads_version_1_2_first_and_2_0_by_name(tmp_path: Path) -> None:
    root = vistas(tmp_path / "mapillary", "v1.2", "v2.0")
    read = Converted(root, tmp_path / "out")
    assert (read.key, read.info.num_classes) == ("vistas", 65)
    assert read.named("val", "validation") == [["Bird", "Road", "-"], ["Ground Animal", "Ground Animal", "Curb"]]
    newer = Converted(root, tmp_path / "out", "vistas_v2")
    assert (newer.info.num_classes, newer.named("val", "validation")[0][2]) == (123, "-")
    assert newer.named("val", "validation")[1][2] == "Ambiguous Barrier"


def test_vistas_takes_classes_and_what_has_objects_from_its_configuration(tmp_path: Path) -> None:
    root = vistas(tmp_path / "mapillary", "v1.2")
    labels = [
        {"readable": f"class {i}", "color": [i, 0, 0], "evaluate": i < 65, "instances": i in (0, 1)} for i in range(66)
    ]
    write(root / "config_v1.2.json", json.dumps({"labels": labels}))
    read = Converted(root, tmp_path / "out", targets=("instances",))
    assert read.named("train", "training")[0] == ["class 0", "class 13", "-"]
    assert read.truth("train", "training", "instances").tolist() == [[1, 0, 0], [2, 3, 0]]
    write(root / "config_v1.2.json", json.dumps({"labels": [{"name": "a"}]}))
    with pytest.raises(DatasetError, match=r"config_v1.2.json: is not the list of classes"):
        Converted(root, tmp_path / "out")


def test_vistas_without_images_is_told_so(tmp_path: Path) -> None:
    ids(tmp_path / "m/training/v1.2/labels/a.png", [[0]])
    with pytest.raises(DatasetError, match=r"this is Mapillary Vistas: .*images/\*.jpg is missing"):
        find(tmp_path / "m")
