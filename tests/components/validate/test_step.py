"""`validate` lets good data pass and names every file of bad data."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.errors import StepError
from components.params import Params
from components.validate import step, suite
from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo
from segmodels.data.validation import checks
from segmodels.data.validation.rules import Limits
from segmodels.data.validation.scan import scan, strays
from segmodels.data.validation.tables import tables as arranged
from segmodels.data.writer import DatasetWriter

ROOT = Path(__file__).resolve().parents[3]
CLASSES = (ClassInfo("sky", (128, 128, 128)), ClassInfo("road <&>", (128, 64, 128)), ClassInfo("car", (64, 0, 128)))
COUNTS = {"train": 12, "val": 10, "test": 10}


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(seed)
    label = np.repeat(np.arange(40)[:, None] // 14, 48, axis=1).astype(np.uint8)
    label[:2, seed // 100 : seed // 100 + seed % 40 + 1] = 255
    return noise.integers(0, 256, (40, 48, 3), np.uint8), label


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "data"
    with DatasetWriter(root, "stripes", CLASSES, source={"path": "made here", "licence": "CC0"}) as writer:
        for place, (split, count) in enumerate(COUNTS.items()):
            for i in range(count):
                writer.add(split, f"{i:04}", *sample(100 * place + i))
    return root


@pytest.fixture
def data(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the good data, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, "data")
    yield Path("data")


def validate(data: Path, **limits: object) -> step.ValidationResult:
    params = Params.model_validate({"models": {"enet": {}}, "validate": limits})
    return step.run(params, data=data, out=Path("outputs/validation"))


def report() -> dict:
    return json.loads(Path("outputs/validation/validation.json").read_text())


def save_label(data: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = data / name
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def test_good_data_pass_with_a_manifest_and_a_report(data: Path) -> None:
    result = validate(data)
    assert (result.splits, result.warnings) == (COUNTS, ())
    found = report()
    assert (found["passed"], found["errors"], found["warnings"], found["splits"]) == (True, [], [], COUNTS)
    assert set(found["class_frequency"]["train"]) == {c.name for c in CLASSES}
    assert sum(found["class_frequency"]["train"].values()) == pytest.approx(1)
    manifest = pd.read_parquet("outputs/validation/manifest.parquet")
    assert len(manifest) == sum(COUNTS.values())
    first = manifest.iloc[0]
    label = np.asarray(Image.open(data / first["label"]))
    assert [first["width"], first["height"], first["label_width"], first["label_height"]] == [48, 40, 48, 40]
    assert [first[f"class_{i}"] for i in range(3)] == [(label == i).sum() for i in range(3)]
    assert first["void_fraction"] == pytest.approx((label == 255).mean())
    assert manifest["readable"].all()


def test_the_page_loads_nothing_and_escapes_names(data: Path) -> None:
    validate(data, overlays=5)
    html = Path("outputs/validation/validation.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|@import|<script""", html)
    assert html.count("data:image/jpeg;base64,") == 10
    assert "road &lt;&amp;&gt;" in html
    assert "road <&>" not in html


def test_the_page_shows_what_was_found_and_no_more_than_some_of_it(data: Path) -> None:
    for i in range(1, 9):
        copied = f"train/labels/{i:04}.png"
        shutil.copy(data / "train/labels/0000.png", data / copied)
    (data / "val/images/0003.png").write_bytes(b"nothing")
    with pytest.raises(StepError):
        validate(data, overlays=0)
    html = Path("outputs/validation/validation.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 4 * 4, "four findings, two labels over their images"
    assert 'alt="train/labels/0001.png"' in html and 'alt="train/images/0001.png"' in html
    assert 'alt="train/labels/0007.png"' not in html


def no_label(data: Path) -> None:
    (data / "train/labels/0003.png").unlink()


def truncated_image(data: Path) -> None:
    path = data / "val/images/0002.png"
    path.write_bytes(path.read_bytes()[:-2000])


def image_without_its_last_bytes(data: Path) -> None:
    path = data / "val/images/0002.png"
    path.write_bytes(path.read_bytes()[:-14])


def damaged_image(data: Path) -> None:
    path = data / "val/images/0002.png"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def truncated_jpeg(data: Path) -> None:
    image = Image.open(data / "val/images/0002.png")
    (data / "val/images/0002.png").unlink()
    image.save(data / "val/images/0002.jpg")
    path = data / "val/images/0002.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def no_image_at_all(data: Path) -> None:
    (data / "val/images/0002.png").write_text("not an image")


def truncated_label(data: Path) -> None:
    path = data / "val/labels/0002.png"
    path.write_bytes(path.read_bytes()[:-20])


def color_label(data: Path) -> None:
    save_label(data, "val/labels/0002.png", lambda label: np.stack([label] * 3, axis=-1))


def other_size(data: Path) -> None:
    save_label(data, "test/labels/0001.png", lambda label: label[:-1])


def out_of_range(data: Path) -> None:
    save_label(data, "train/labels/0006.png", lambda label: np.where(label == 1, np.uint8(37), label))


def missing_class(data: Path) -> None:
    for path in (data / "train/labels").iterdir():
        save_label(data, f"train/labels/{path.name}", lambda label: np.where(label == 2, np.uint8(1), label))


def same_file(data: Path) -> None:
    shutil.copy(data / "train/images/0001.png", data / "test/images/0005.png")


def same_pixels(data: Path) -> None:
    Image.open(data / "train/images/0001.png").save(data / "test/images/0005.png", compress_level=9)


def same_id(data: Path) -> None:
    Image.fromarray(sample(999)[0]).save(data / "train/images/0004.bmp")


def mostly_void(data: Path) -> None:
    save_label(data, "train/labels/0007.png", lambda label: np.where(np.arange(40)[:, None] < 38, np.uint8(255), label))


def too_small(data: Path) -> None:
    image, label = sample(5)
    Image.fromarray(image[:30]).save(data / "train/images/0007.png")
    Image.fromarray(label[:30]).save(data / "train/labels/0007.png")


def no_val(data: Path) -> None:
    shutil.rmtree(data / "val")


BAD = [
    (no_label, r"train/images/0003.png: has no label; train/labels/0003.png is missing"),
    (truncated_image, r"val/images/0002.png: cannot be read \(Truncated File Read\)"),
    (image_without_its_last_bytes, r"val/images/0002.png: cannot be read"),
    (damaged_image, r"val/images/0002.png: cannot be read"),
    (truncated_jpeg, r"val/images/0002.jpg: cannot be read.*truncated"),
    (no_image_at_all, r"val/images/0002.png: cannot be read \(cannot identify image file\)"),
    (truncated_label, r"val/labels/0002.png: cannot be read"),
    (color_label, r"val/labels/0002.png: mode RGB; a label is an 8-bit single-channel PNG"),
    (other_size, r"test/labels/0001.png: is 48x39, but its image is 48x40"),
    (out_of_range, r"train/labels/0006.png: label 37 is outside 0..2 \(ignore is 255\)"),
    (missing_class, r"class 'car' \(2\) has no pixel in train"),
    (same_file, r"test/images/0005.png: is the same file as train/images/0001.png"),
    (same_pixels, r"test/images/0005.png: has the same pixels as train/images/0001.png"),
    (same_id, r"train/images/0004.(bmp|png): another image of train has the same id '0004'"),
    (mostly_void, r"train/labels/0007.png: 9\d.\d% of it is void"),
    (too_small, r"train/images/0007.png: 48x30 is too small"),
    (no_val, r"val: has no samples"),
]


@pytest.mark.parametrize("spoil, message", BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_bad_data_stop_the_pipeline_and_name_the_file(data: Path, spoil: Callable, message: str) -> None:
    spoil(data)
    with pytest.raises(StepError, match=message) as stopped:
        validate(data)
    assert "BytesIO" not in str(stopped.value)
    found = report()
    assert not found["passed"]
    assert len(found["errors"]) == 1, "one fault is one error"
    assert re.search(message, found["errors"][0]["message"])
    for name in found["errors"][0]["files"]:
        assert (data / name).is_file()
    assert len(pd.read_parquet("outputs/validation/manifest.parquet")) >= sum(COUNTS.values()) - 10
    assert "Failed in 1 check" in Path("outputs/validation/validation.html").read_text()


def test_every_offender_is_in_the_report_and_the_first_are_in_the_message(data: Path) -> None:
    for path in [
        *(data / "train/labels").iterdir(),
        *(data / "val/labels").iterdir(),
        *(data / "test/labels").iterdir(),
    ]:
        save_label(data, path.relative_to(data).as_posix(), lambda label: np.where(label == 0, np.uint8(9), label))
    (data / "val/labels/0001.png").unlink()
    with pytest.raises(StepError, match=r"(?s)33 errors, all of them in outputs/validation/validation.json") as stopped:
        validate(data)
    assert str(stopped.value).count("\n") == 21
    errors = {error["check"]: error for error in report()["errors"]}
    assert errors["every image has its label"]["files"] == ["val/images/0001.png"]
    assert len(errors["labels hold only 0..2 and 255"]["files"]) == 31


def extra_label(data: Path) -> None:
    shutil.copy(data / "val/labels/0001.png", data / "val/labels/lonely.png")


def no_image_file(data: Path) -> None:
    (data / "val/images/notes.txt").write_text("x")


def class_missing_in_val(data: Path) -> None:
    for path in (data / "val/labels").iterdir():
        save_label(data, f"val/labels/{path.name}", lambda label: np.where(label == 2, np.uint8(1), label))


def few_in_test(data: Path) -> None:
    for kind in ("images", "labels"):
        for i in range(2, 10):
            (data / f"test/{kind}/{i:04}.png").unlink()


def other_image_size(data: Path) -> None:
    image, label = sample(5)
    Image.fromarray(image[:36]).save(data / "train/images/0007.png")
    Image.fromarray(label[:36]).save(data / "train/labels/0007.png")


def copied_label(data: Path) -> None:
    shutil.copy(data / "train/labels/0001.png", data / "train/labels/0002.png")


ODD = [
    (extra_label, {}, r"val/labels/lonely.png: is the label of no image"),
    (no_image_file, {}, r"val/images/notes.txt: is no image"),
    (class_missing_in_val, {}, r"class 'car' has no pixel in val"),
    (few_in_test, {}, r"test: has only 2 of at least 10 samples"),
    (other_image_size, {}, r"train: images come in 2 sizes, 48x36 to 48x40"),
    (copied_label, {}, r"train/labels/0002.png: is the same label as train/labels/0001.png"),
    (lambda data: None, {"rare_class_fraction": 0.31}, r"class 'car' is \d+.\d+% of train"),
]


@pytest.mark.parametrize("spoil, limits, message", ODD)
def test_odd_data_pass_with_a_warning(data: Path, spoil: Callable, limits: dict, message: str) -> None:
    spoil(data)
    result = validate(data, **limits)
    assert any(re.search(message, warning) for warning in result.warnings)
    assert report()["passed"]


def test_the_limits_are_those_of_the_parameters(data: Path) -> None:
    mostly_void(data)
    too_small(data)
    validate(data, max_void_fraction=1.0, min_side=16)


def test_the_severity_of_a_rule_is_that_of_the_parameters(data: Path) -> None:
    mostly_void(data)
    result = validate(data, severity={"mostly_void": "warning"})
    assert "of it is void" in result.warnings[0]
    assert not any("void" in warning for warning in validate(data, severity={"mostly_void": "ignore"}).warnings)
    with pytest.raises(ValueError, match=r"no rule is called 'mostly_vod'; did you mean 'mostly_void'"):
        validate(data, severity={"mostly_vod": "ignore"})


def test_a_folder_that_is_no_dataset_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"dataset.json: no such file; .*download"):
        validate(tmp_path)


def test_twice_the_same_data_give_the_same_bytes(data: Path) -> None:
    validate(data)
    before = {p.name: p.read_bytes() for p in Path("outputs/validation").iterdir()}
    validate(data)
    assert before == {p.name: p.read_bytes() for p in Path("outputs/validation").iterdir()}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs a small file system of its own")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(data: Path) -> None:
    small = Path("outputs")
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(StepError, match=r"the disk is full .*; free some space and run it again"):
            validate(data)
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_importing_the_step_imports_nothing_heavy() -> None:
    code = "import sys, components.validate.step, components.download.step; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"great_expectations", "pandas", "torch", "boto3", "requests", "matplotlib", "jinja2"} & set(loaded)


@pytest.mark.parametrize("spoil", [*(spoil for spoil, _ in BAD), *(spoil for spoil, _, _ in ODD)])
def test_the_library_and_great_expectations_judge_alike(data: Path, spoil: Callable) -> None:
    spoil(data)
    info = DatasetInfo.read(data)
    tables = arranged(scan(data, info), strays(data), info)
    limits = Limits(rare_class_fraction=0.31)
    assert checks.judge(tables, info, limits) == suite.judge(tables, info, limits)
