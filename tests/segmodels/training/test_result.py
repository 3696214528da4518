"""What a training gives: in a notebook it tells how it went, and it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmodels
from segmodels.settings.schema import TrainSettings
from tests.segmodels.data.test_given import Pairs

OPTIONS: dict[str, Any] = {"width": 4, "batch_norm": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("result") / "model"
    settings = TrainSettings(epochs=2, batch_size=4, precision="32", channels_last=False, accelerator="cpu")
    return segmodels.fit(
        Pairs(24), out, architecture="unet", settings=settings, options=OPTIONS, classes=["sky", "road", "car"]
    )


def test_a_torch_dataset_is_trained_on_and_the_model_knows_its_classes(trained: Any) -> None:
    assert segmodels.load_model(trained.folder)[1].class_names == ["sky", "road", "car"]
    assert (trained.folder.with_name("model.data") / "dataset.json").is_file()
    image = Pairs(1).images[0]
    predicted = trained.predictor("cpu").predict(image)
    assert predicted.shape == image.shape[:2] and predicted.max() <= 2


def test_the_history_has_a_row_for_each_epoch(trained: Any) -> None:
    history = trained.history
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[trained.epoch - 1]["val_miou"] == pytest.approx(trained.figures["val_miou"])
    assert all(np.isfinite(list(row.values())).all() for row in history)


def test_a_notebook_shows_the_best_epoch_the_history_and_a_plot(trained: Any, tmp_path: Path) -> None:
    shown = trained._repr_html_()
    assert f"mIoU {100 * trained.figures['val_miou']:.1f} %" in shown and "train_loss" in shown
    losses, quality = trained.plot().axes
    assert [len(line.get_xdata()) for line in losses.lines] == [2, 2]
    assert quality.lines[0].get_ydata()[trained.epoch - 1] == pytest.approx(100 * trained.figures["val_miou"])
    trained.plot().savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_a_prediction_is_shown_over_its_image(trained: Any) -> None:
    image = Pairs(1).images[0]
    plain, shown = trained.predictor("cpu").show(image, alpha=0.0), trained.predictor("cpu").show(image)
    assert np.array_equal(np.asarray(plain), image) and not np.array_equal(np.asarray(shown), image)
    assert shown._repr_png_()[:4] == b"\x89PNG"
