"""The search for a dense CRF's settings, and predicting with what it found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.cli import main
from segmodels.data.folder import ClassInfo
from segmodels.data.writer import DatasetWriter
from segmodels.inference import crf_search
from segmodels.inference.predictor import AnyImage, Predictor
from segmodels.settings.schema import CRFSettings

CLASSES = (ClassInfo("ground", (120, 80, 40)), ClassInfo("box", (200, 30, 30)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ModelConfig("unet", CLASSES, {"width": 4})
    save_model(tmp_path / "unet", config, config.build().state_dict())
    return tmp_path / "unet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Boxes of one colour on ground of another."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "data", "boxes", CLASSES, source={"kind": "made"}) as writer:
        for number in range(4):
            label = np.zeros((48, 64), np.uint8)
            top, left = rng.integers(4, 20, 2)
            label[top : top + 18, left : left + 24] = 1
            colors = np.array([[90, 120, 60], [200, 40, 40]])[label] + rng.integers(-6, 7, (48, 64, 3))
            for split in ("train", "val"):
                writer.add(split, f"{number}", colors.astype(np.uint8), label)
    return tmp_path / "data"


def run(*args: object) -> int:
    """The exit status of a command."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as end:
        return int(end.code or 0)


class Noisy(Predictor):
    """The truth, seen through a strong noise: what a CRF is good against."""

    def maps(self, image: AnyImage) -> Tensor:
        assert isinstance(image, np.ndarray)
        truth = torch.from_numpy(image[..., 0] > 150).float()
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
        return torch.stack([-(truth - 0.5) + noise, truth - 0.5 + noise.flip(0)]).softmax(0)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        crf_search, "COARSE", {"bilateral_weight": (2.0, 5.0), "bilateral_xy": (20.0,), "bilateral_rgb": (10.0,)}
    )
    monkeypatch.setattr(crf_search, "FINE", (1.0, 1.4))


@pytest.mark.usefixtures("short_search")
def test_the_search_finds_settings_that_clean_a_noisy_prediction(model: Path, data: Path) -> None:
    trials = crf_search.tune_crf(Noisy(model), data, images=2, start=CRFSettings(iterations=3))
    best, plain = trials[0], next(trial for trial in trials if trial.settings is None)
    assert best.settings is not None
    assert best.settings.iterations == 3
    assert best.figure > plain.figure + 0.2
    assert [trial.figure for trial in trials] == sorted((trial.figure for trial in trials), reverse=True)
    assert len({trial.settings for trial in trials}) == len(trials)


@pytest.mark.usefixtures("short_search")
def test_predict_takes_the_file_that_the_search_wrote(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segmodels.inference.predictor.Predictor", Noisy)
    found = tmp_path / "crf.json"
    assert run("tune-crf", model, data, "--out", found, "--images", 2) == 0
    assert "predict with it:" in capsys.readouterr().out
    assert set(json.loads(found.read_text())) >= {"bilateral_weight", "iterations"}
    monkeypatch.undo()
    image = data / "val/images/0.png"
    for name, crf in (("with", ["--crf", found]), ("without", [])):
        assert run("predict", image, "--model", model, "--out", tmp_path / name, *crf) == 0
    masks = [np.asarray(Image.open(tmp_path / name / "0.png")) for name in ("with", "without")]
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file; --crf takes a file of `segmodels tune-crf`, or `default`"),
        ("{", "not JSON"),
        ('{"bilateral_xz": 1}', "bilateral_xz"),
        ('{"bilateral_xy": 0}', "it must be a number above 0"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(
    content: str | None,
    sentence: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = tmp_path / "crf.json"
    if content is not None:
        found.write_text(content)
    assert run("predict", data / "val", "--model", model, "--out", tmp_path / "out", "--crf", found) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
