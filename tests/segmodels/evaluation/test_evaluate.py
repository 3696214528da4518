"""Evaluation: quality at the label's size, the same bytes every time, and complete pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo, read_image, read_label, samples
from segmodels.drift.profile import Profile
from segmodels.evaluation.evaluate import evaluate
from segmodels.evaluation.speed import gflops, prediction_milliseconds
from segmodels.inference.predictor import Predictor
from segmodels.settings.schema import CRFSettings, EvaluateSettings, PredictSettings
from segmodels.tasks.per_image import PER_IMAGE_FILE, PerImage
from segmodels.tasks.semantic.metrics import confusion_matrix


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig("unet", DatasetInfo.read(dataset).classes, {"width": 4}, image_size=(32, 40))
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(folder, config, config.build().state_dict())
    return folder


@pytest.fixture(scope="module")
def evaluated(dataset: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "unet"
    evaluate(trained, dataset, out, EvaluateSettings())
    return out


def test_metrics_are_those_of_the_predictor_at_full_resolution(dataset: Path, trained: Path, evaluated: Path) -> None:
    predictor, matrix = Predictor(trained, "cpu"), torch.zeros(3, 3, dtype=torch.int64)
    for sample in samples(dataset, "test"):
        label = read_label(sample.label)
        prediction = predictor.predict(np.asarray(Image.open(sample.image)))
        assert prediction.shape == label.shape == (49, 63)
        matrix += confusion_matrix(torch.tensor(prediction), torch.tensor(label), 3)
    with open(evaluated / "confusion.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["truth", "ground", "box", "sky"]
    # Batches of another size may round a tie the other way.
    assert np.abs(np.array([row[1:] for row in rows[1:]], int) - matrix.numpy()).sum() <= 4


def test_the_folder_is_complete(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert list(metrics) == [
        "split", "images", "miou", "pixel_accuracy", "mean_accuracy", "fwiou", "boundary_f1", "ece", "per_class",
    ]  # fmt: skip
    assert (metrics["split"], metrics["images"]) == ("test", 4)
    speed = json.loads((evaluated / "speed.json").read_text())
    assert speed["parameters"] > 0
    assert speed["image_size"] == [32, 40]
    names = sorted(p.name.split("-")[0] for p in (evaluated / "pictures").iterdir())
    assert names == ["best", "median", "worst"]
    assert len(list((evaluated / "predictions").iterdir())) == 4


def test_the_same_model_gives_the_same_bytes(dataset: Path, trained: Path, evaluated: Path, tmp_path: Path) -> None:
    evaluate(trained, dataset, tmp_path / "again", EvaluateSettings())
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "profile.json"):
        assert (tmp_path / "again" / name).read_bytes() == (evaluated / name).read_bytes()


def test_flops_of_a_convolution_by_hand() -> None:
    config = ModelConfig("unet", (ClassInfo("a", (0, 0, 0)), ClassInfo("b", (1, 1, 1))), {"width": 1})
    # The last layer: a 1x1 convolution of 1 to 2 channels over 32 x 32 pixels, two operations a multiply-add.
    wider = ModelConfig("unet", (*config.classes, ClassInfo("c", (2, 2, 2))), {"width": 1})
    assert gflops(wider, (32, 32)) - gflops(config, (32, 32)) == pytest.approx(2 * 32 * 32 / 1e9)


def test_other_classes_are_refused_in_one_sentence(dataset: Path, tmp_path: Path) -> None:
    config = ModelConfig("unet", (ClassInfo("cat", (0, 0, 0)), ClassInfo("dog", (1, 1, 1))), {"width": 2})
    save_model(tmp_path / "m", config, config.build().state_dict())
    with pytest.raises(DatasetError, match=r"its classes \(ground, box, sky\) are not those .* \(cat, dog\)"):
        evaluate(tmp_path / "m", dataset, tmp_path / "out", EvaluateSettings())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        EvaluateSettings(flip=True),
        EvaluateSettings(scales=(0.75, 1.25)),
        EvaluateSettings(window=(32, 32), stride=(16, 16), image_size=(48, 64)),
        EvaluateSettings(mc_samples=3),
        EvaluateSettings(crf=CRFSettings(iterations=2)),
    ],
    ids=["flip", "scales", "window", "mc_samples", "crf"],
)
def test_what_is_measured_is_what_the_predictor_gives_with_the_same_settings(
    settings: EvaluateSettings, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(settings, batch_size=1)
    quality = evaluate(trained, dataset, tmp_path / "out", settings)
    plain, chosen = Predictor(trained, "cpu"), Predictor(trained, "cpu", settings=settings.prediction)
    matrix, changed = np.zeros((3, 3), np.int64), 0
    for sample in samples(dataset, "test"):
        image, label = read_image(sample.image), read_label(sample.label)
        prediction = chosen.predict(image)
        changed += int((prediction != plain.predict(image)).sum())
        matrix += confusion_matrix(torch.tensor(prediction), torch.tensor(label), 3).numpy()
    assert changed > 0
    assert np.array_equal(quality.matrix, matrix)
    speed = json.loads((tmp_path / "out/speed.json").read_text())
    assert PredictSettings.of(speed["prediction"]) == settings.prediction
    assert Profile.read(tmp_path / "out/profile.json").prediction == settings.as_json()


def test_the_time_of_a_prediction_is_that_of_all_that_it_averages(trained: Path) -> None:
    """Counted in passes of the network, not in seconds."""
    passes = []
    for settings in (PredictSettings(), PredictSettings(flip=True, scales=(1.0, 1.5), mc_samples=3)):
        predictor = Predictor(trained, "cpu", settings=settings)
        seen: list[int] = []
        predictor.model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        assert prediction_milliseconds(predictor, np.zeros((49, 63, 3), np.uint8), repeat=2) > 0
        passes.append(len(seen))
    assert passes == [4, 4 * 2 * 2 * 3]


def test_the_figures_of_each_image_add_up_to_the_metrics(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    each = PerImage.read(evaluated / PER_IMAGE_FILE)
    figures = {key: value.item() for key, value in each.figures(np.ones((1, len(each.ids)))).items()}
    for key in ("miou", "pixel_accuracy", "boundary_f1", "ece"):
        assert figures.pop(key) == pytest.approx(metrics[key]), key
    known = {f"iou/{name}": np.nan if v is None else v for name, v in metrics["per_class"].items()}
    assert figures == pytest.approx(known, nan_ok=True)
