"""Drift: images of the same source raise no more alarms than asked for; of another, the right feature is named."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.cli import main
from segmodels.data.folder import ClassInfo, samples
from segmodels.data.streets.render import render
from segmodels.drift import report as drift_report
from segmodels.drift.comparison import compare
from segmodels.drift.monitor import Monitor, prometheus
from segmodels.drift.profile import (
    INPUT_FEATURES,
    DriftError,
    Profile,
    Seen,
    describe,
    see,
)
from segmodels.evaluation.evaluate import evaluate
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks.base import Prediction
from tests.segmodels.conftest import CLASSES as BOXES
from tests.segmodels.conftest import scene

NAMES = ("road", "sky", "car")
MIX = np.array([6.0, 3.0, 1.0])
CONFIG = ModelConfig("unet", tuple(ClassInfo(name, (0, 0, 0)) for name in NAMES))


def street(split: str, index: int) -> np.ndarray:
    return render(0, split, index, height=72, width=96).image


def predicted(rng: np.random.Generator, mix: np.ndarray = MIX, sure: float = 0.8) -> dict[str, object]:
    """What a model might have made of an image."""
    confidence = float(np.clip(rng.normal(sure, 0.05), 0, 1))
    return {"mix": rng.dirichlet(4 * mix), "confidence": confidence, "by_class": np.full(3, confidence)}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Streets that no model was trained on."""
    return [street("test", i) for i in range(240)]


@pytest.fixture(scope="module")
def plain(images: list[np.ndarray]) -> list[Seen]:
    return [describe(image) for image in images]


@pytest.fixture(scope="module")
def profile() -> Profile:
    described = [describe(street("train", i)) for i in range(160)]
    rng = np.random.default_rng(0)
    made = [predicted(rng) for _ in range(100)]
    return Profile(
        NAMES,
        {"train": 160, "test": 100},
        np.stack([one.inputs for one in described]),
        np.stack([one.colors for one in described]),
        np.stack([one["mix"] for one in made]),  # type: ignore[misc]
        np.array([one["confidence"] for one in made]),
        np.full(3, 0.8),
    )


def with_predictions(seen: list[Seen], seed: int, **other: object) -> list[Seen]:
    rng = np.random.default_rng(seed)
    return [Seen(one.inputs, one.colors, **predicted(rng, **other)) for one in seen]  # type: ignore[arg-type]


def test_the_same_source_raises_as_many_alarms_as_asked_for(profile: Profile, plain: list[Seen]) -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for seed in range(80):
        chosen = [plain[i] for i in rng.choice(len(plain), 40, replace=False)]
        alarms += bool(compare(profile, with_predictions(chosen, seed), alpha=0.1).drifted)
    # Of 80 draws with a chance of a tenth, 1 to 16 are all but certain.
    assert 1 <= alarms <= 16


def changed(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.clip(np.rint(change(image.astype(np.float64))), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("change", "named", "direction"),
    [
        (lambda image: image * 0.55, "brightness", -1),
        (lambda image: image * 0.5 + 102, "contrast", -1),
        (lambda image: image + np.random.default_rng(int(image.sum())).normal(0, 14, image.shape), "noise", 1),
        (lambda image: gaussian_filter(image, (1.5, 1.5, 0)), "sharpness", -1),
        (lambda image: image * [1.2, 1.0, 0.8], "warmth", 1),
        (lambda image: image[:, 16:-16], "aspect", -1),
    ],
    ids=["darker", "fog", "noise", "out of focus", "white balance", "another camera"],
)
def test_another_source_is_named_by_the_right_feature(
    change: Callable[[np.ndarray], np.ndarray], named: str, direction: int, profile: Profile, images: list[np.ndarray]
) -> None:
    result = compare(profile, [describe(changed(change, image)) for image in images[:50]])
    first = {finding.name: finding for finding in result.findings[:2]}
    assert named in first
    assert first[named].drifted
    assert first[named].size == "large"
    assert np.sign(first[named].shift) == direction
    assert result.verdict.startswith("drift: ")
    assert f"{named} {'higher' if direction > 0 else 'lower'} (large)" in result.verdict


def test_other_predictions_on_the_same_images_are_drift_of_the_predictions(profile: Profile, plain: list[Seen]) -> None:
    assert profile.watched == ("class mix", "confidence")
    more_cars = compare(profile, with_predictions(plain[:60], 2, mix=np.array([5.0, 3.0, 3.0])))
    assert [finding.name for finding in more_cars.drifted] == ["class mix"]
    assert more_cars.mix["car"][1] > more_cars.mix["car"][0] * 1.5
    unsure = compare(profile, with_predictions(plain[:60], 3, sure=0.6))
    assert [finding.name for finding in unsure.drifted] == ["confidence"]
    assert unsure.drifted[0].shift < 0


def test_few_images_raise_no_alarm(profile: Profile, images: list[np.ndarray]) -> None:
    result = compare(profile, [describe(image // 4) for image in images[:5]])
    assert result.drifted == ()
    assert result.verdict == "too few images to say: 5, and 10 are the least"
    with pytest.raises(DriftError, match="no image could be read"):
        compare(profile, [])


def test_a_profile_is_read_as_it_was_written_and_its_bytes_are_always_the_same(
    profile: Profile, plain: list[Seen], tmp_path: Path
) -> None:
    profile.write(tmp_path / "one.json")
    read = Profile.read(tmp_path / "one.json")
    read.write(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    seen = with_predictions(plain[:40], 5)
    before, after = (compare(p, seen) for p in (profile, read))
    np.testing.assert_allclose([f.distance for f in before.findings], [f.distance for f in after.findings], atol=0.02)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file; `evaluate` writes it"),
        ("{", "not a profile"),
        ("[]", "not a profile"),
        ('{"format": 0, "features": []}', "another version of segmodels"),
    ],
)
def test_what_is_no_profile_is_told(content: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DriftError, match=sentence) as error:
        Profile.read(path)
    assert str(path) in str(error.value)


def test_flat_and_tiny_images_are_described(profile: Profile) -> None:
    for image in (np.zeros((4, 4, 3), np.uint8), np.full((40, 30, 3), 255, np.uint8), np.zeros((2000, 9, 3), np.uint8)):
        assert np.isfinite(describe(image).inputs).all()
        assert describe(image).colors.sum() == pytest.approx(3)


def test_the_monitor_says_of_its_window_what_a_comparison_says(profile: Profile, images: list[np.ndarray]) -> None:
    monitor = Monitor(profile, CONFIG, window=40, refresh=10)
    assert (monitor.drift(), monitor.prometheus()) == (None, "")
    rng = np.random.default_rng(0)
    made = [(image // 2, rng.integers(0, 3, image.shape[:2], dtype=np.uint8)) for image in images[:60]]

    def add(mine: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for image, classes in mine:
            monitor.add(image, Prediction(classes, np.full(classes.shape, 0.8, np.float32)))

    add(made[:20])
    threads = [threading.Thread(target=add, args=(made[20 + i : 60 : 4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = monitor.drift()
    assert result is not None
    assert result.images == 40
    assert "brightness" in [finding.name for finding in result.drifted]
    assert monitor.drift() is result
    add(made[:5])
    assert monitor.drift() is result
    add(made[5:10])
    assert monitor.drift() is not result


def test_metrics_are_in_prometheus_format(profile: Profile, plain: list[Seen]) -> None:
    text = prometheus(compare(profile, with_predictions(plain[:30], 7)), {"version": 'a "b"\n'})
    families = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            families.add(line.split()[2])
        elif not line.startswith("#"):
            match = re.fullmatch(r'(\w+)\{version="a \\"b\\"\\n"(?:,\w+="[^"]+")?\} -?[\d.e+-]+', line)
            assert match is not None, line
            assert match[1] in families
    assert text.count("segmodels_drift_distance{") == len(INPUT_FEATURES) + 3
    assert text.endswith("\n")


@pytest.fixture(scope="module")
def evaluated(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and its evaluation."""
    root = tmp_path_factory.mktemp("evaluated")
    torch.manual_seed(0)
    config = ModelConfig("unet", BOXES, {"width": 4})
    save_model(root / "model", config, config.build().state_dict())
    evaluate(root / "model", dataset, root / "evaluation", EvaluateSettings(flip=True), device="cpu")
    return root / "model", root / "evaluation"


def drift(*arguments: object) -> int:
    """The exit status of `segmodels drift`."""
    try:
        return main(["drift", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def boxes(folder: Path, gain: float) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for index in range(24):
        image = scene(rng, 49, 63)[0] * gain
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{index:02d}.png")
    return folder


def test_evaluation_writes_the_profile_of_its_model(evaluated: tuple[Path, Path], dataset: Path) -> None:
    profile = Profile.read(evaluated[1] / "profile.json")
    assert profile.classes == tuple(c.name for c in BOXES)
    assert profile.images == {"train": 10, "test": 4}
    assert profile.inputs.shape == (10, len(INPUT_FEATURES))
    assert profile.mix.shape == (4, 3)
    np.testing.assert_allclose(profile.mix.sum(1), 1, atol=1e-4)
    assert profile.prediction["flip"] is True
    assert len(samples(dataset, "train")) == 10


def test_the_command_names_the_drift_and_what_to_label(
    evaluated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, evaluation = evaluated
    options = ["--model", model, "--reference", evaluation / "profile.json"]
    outs = [tmp_path / f"drift.{kind}" for kind in ("html", "json", "prom")]
    dark = boxes(tmp_path / "dark", 0.4)
    (dark / "broken.png").write_text("no image")
    assert drift(dark, *options, *(word for out in outs for word in ("--out", out))) == 1
    printed = capsys.readouterr()
    assert "drift: brightness lower (large)" in printed.out
    assert "broken.png: cannot be read" in printed.err
    report = json.loads(outs[1].read_text())
    assert report["drifted"] is True
    assert report["features"][0]["name"] == "brightness"
    assert len(report["label_first"]) == drift_report.LEAST_TO_LABEL
    assert all(Path(path).is_file() for path in report["label_first"])
    assert any("dvc repro" in line for line in report["commands"])
    assert len(report["problems"]) == 1
    page = outs[0].read_text()
    assert "What it would take to retrain" in page
    assert page.count("data:image/jpeg;base64,") == 2 * drift_report.SHOWN_IMAGES
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "segmodels_drift_detected 1" in outs[2].read_text()


def test_the_command_says_so_where_nothing_moved(
    evaluated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, evaluation = evaluated
    out = tmp_path / "drift.html"
    options = ["--model", model, "--reference", evaluation / "profile.json", "--out", out]
    assert drift(boxes(tmp_path / "same", 1.0), *options) == 0
    assert capsys.readouterr().out.startswith("no drift: 24 images are like the reference\n")
    assert "What it would take to retrain" not in out.read_text()


def test_a_profile_of_another_model_and_an_unknown_format_are_refused(
    evaluated: tuple[Path, Path], profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = evaluated
    profile.write(tmp_path / "other.json")
    images = boxes(tmp_path / "same", 1.0)
    options = ["--model", model, "--reference", tmp_path / "other.json"]
    assert drift(images, *options, "--out", tmp_path / "a.html") == 1
    assert "its classes (ground, box, sky) are not the profile's (road, sky, car)" in capsys.readouterr().err
    assert drift(images, *options, "--out", tmp_path / "a.pdf") == 1
    assert "a.pdf: its suffix tells no format; give a name that ends in .html, .json, .prom" in capsys.readouterr().err


def test_what_is_kept_of_a_prediction(images: list[np.ndarray]) -> None:
    classes = np.zeros(images[0].shape[:2], np.uint8)
    classes[:18] = 1
    confidence = np.where(classes == 1, 0.5, 0.9).astype(np.float32)
    seen = see(images[0], Prediction(classes, confidence), CONFIG)
    assert seen.mix is not None
    assert seen.by_class is not None
    np.testing.assert_allclose(seen.mix, [0.75, 0.25, 0])
    np.testing.assert_allclose(seen.by_class, [0.9, 0.5, np.nan], rtol=1e-6)
    assert seen.confidence == pytest.approx(0.8)
    alone = see(images[0], Prediction(classes), CONFIG)
    assert alone.confidence is None
    assert alone.mix is not None and alone.mix.tolist() == seen.mix.tolist()
