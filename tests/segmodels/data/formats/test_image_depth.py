"""Images with depths and without labels: read, validated, trained on, evaluated, for depth alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError, DatasetInfo
from segmodels.data.formats import Choices, convert
from segmodels.data.formats.finding import find
from segmodels.data.streets import write_dataset
from segmodels.data.validation.checks import check
from segmodels.evaluation.evaluate import evaluate
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training.fit import fit

DEPTH = Choices(depth_scale=0.001, targets=("depth",))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth camera's folder: colours as JPEG, millimetres as 16-bit PNG."""
    root = tmp_path_factory.mktemp("camera")
    write_dataset(root / "streets", seed=0, train=24, val=1, test=1, height=64, width=96, targets=("depth",))
    for folder in ("images", "depth"):
        (root / "own" / folder).mkdir(parents=True)
    for path in sorted((root / "streets/train/images").iterdir()):
        with Image.open(path) as image:
            image.convert("RGB").save(root / f"own/images/{path.stem}.jpg", quality=95)
        with Image.open(root / f"streets/train/depth/{path.stem}.png") as depth:
            millimetres = np.minimum(np.asarray(depth, np.int64) * 10, 65535)
        Image.fromarray(millimetres.astype(np.uint16)).save(root / f"own/depth/{path.stem}.png")
    return root / "own"


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "d"
    convert(source, out=out, choices=DEPTH)
    return out


def test_depths_keep_their_metres(source: Path, data: Path) -> None:
    info = DatasetInfo.read(data)
    assert info.num_classes == 0 and dict(info.targets) == {"depth": {"unit": "m", "scale": 0.001}}
    assert find(source)[0] == "image_depth" and not (data / "train/labels").exists()
    for path in sorted((data / "train/depth").iterdir()):
        assert (np.asarray(Image.open(path)) == np.asarray(Image.open(source / f"depth/{path.name}"))).all()


def test_a_step_without_its_metres_is_asked_for(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"set data.depth_scale to the metres of one step, e\.g\. 0\.001"):
        convert(source, out=tmp_path / "d", choices=Choices(targets=("depth",)))


def test_what_is_asked_of_labels_is_not_asked(data: Path) -> None:
    said = check(data, needs=("depth",))
    assert not any("label" in one or "class" in one for one in said)


def test_an_image_without_its_depth_is_named(data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data, tmp_path / "d")
    path = sorted((tmp_path / "d/train/depth").iterdir())[0]
    path.unlink()
    with pytest.raises(DatasetError, match=rf"has no depth; train/depth/{path.name} is missing"):
        check(tmp_path / "d", needs=("depth",))


def test_depth_is_learnt_and_measured(data: Path, tmp_path: Path) -> None:
    settings = TrainSettings(
        epochs=2, batch_size=4, precision="32", channels_last=False, max_depth=60.0,
        augment=AugmentSettings(crop=(64, 64)),
    )  # fmt: skip
    fit(data, tmp_path / "m", architecture="unet", task="depth", settings=settings, options={"width": 4})
    quality = evaluate(tmp_path / "m", data, tmp_path / "e", device="cpu")
    assert np.isfinite(quality.metrics["abs_rel"])
    assert json.loads((tmp_path / "m/model.json").read_text())["classes"] == []


def test_a_dataset_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "d", "classes": []}))
    with pytest.raises(DatasetError, match="has neither classes nor further targets"):
        DatasetInfo.read(tmp_path)
