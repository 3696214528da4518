"""What each image counted, against figures that are worked out image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Counts, Part, Prediction
from segmodels.tasks.per_image import PerImage


def _image(rng: np.random.Generator, classes: int) -> Counts:
    matrix = rng.integers(0, 3, (classes, classes)) * (rng.random((classes, classes)) < 0.5)
    f1 = np.where(rng.random(classes) < 0.4, np.nan, rng.random(classes))
    counts = {"hits": np.diag(matrix), "truth": matrix.sum(1), "predicted": matrix.sum(0), "boundary_f1": f1}
    return Counts({**counts, "calibration": rng.random((3, 4)) * 10}, matrix, rng.random())


def _figures(images: list[Counts], classes: int) -> dict[str, float]:
    """mIoU, pixel accuracy, boundary F1, ECE and IoU of each class of these images, one class after the other."""
    each = [image.each for image in images]
    ious, boundaries = [], []
    for c in range(classes):
        hits, union = (
            sum(int(v) for v in values)
            for values in zip(
                *[(one["hits"][c], one["truth"][c] + one["predicted"][c] - one["hits"][c]) for one in each], strict=True
            )
        )
        ious.append(hits / union if union else np.nan)
        seen = [one["boundary_f1"][c] for one in each if np.isfinite(one["boundary_f1"][c])]
        boundaries.append(np.mean(seen) if seen else np.nan)
    right, pixels = (sum(int(one[name].sum()) for one in each) for name in ("hits", "truth"))
    count, confidence, correct = np.sum([one["calibration"] for one in each], axis=0)
    miou, boundary_f1 = (
        float(np.mean(known)) if (known := [v for v in values if np.isfinite(v)]) else 0.0
        for values in (ious, boundaries)
    )
    return {
        "miou": miou,
        "pixel_accuracy": right / max(pixels, 1),
        "boundary_f1": boundary_f1,
        "ece": float(np.abs(confidence - correct).sum() / max(count.sum(), 1)),
        **{f"iou/c{c}": iou for c, iou in enumerate(ious)},
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_figures_are_those_of_the_images_as_often_as_they_count(seed: int, classes: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    listed = [_image(rng, classes) for _ in range(images)]
    names, ids = [f"c{c}" for c in range(classes)], [f"{number:02}" for number in range(images)]
    counts = PerImage.of("semantic", names, ids, listed, ())
    weights = rng.integers(0, 3, (4, images))
    weights[0] = 1
    weights[1] = 0
    weights[1, 0] = 1
    with np.errstate(all="raise"):
        found = counts.figures(weights.astype(float))
    assert {values.shape for values in found.values()} == {(4,)}
    for row, times in enumerate(weights):
        drawn = [image for image, count in zip(listed, times, strict=True) for _ in range(count)]
        if drawn:
            expected = _figures(drawn, classes)
            assert list(found) == list(expected)
            for key, values in found.items():
                np.testing.assert_allclose(values[row], expected[key], rtol=1e-9, err_msg=key)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    truth = np.repeat([0, 0, 1, 1, 255], [1, 2, 4, 8, 3]).astype(np.uint8)[None]
    value = np.repeat([0, 1, 0, 1, 0], [1, 2, 4, 8, 3]).astype(np.uint8)[None]
    parts = [Part(name, (0, 0, 0)) for name in "ab"]
    prediction = Prediction(value, np.full(value.shape, 0.9, np.float32))
    image = get_task("semantic").count(prediction, {"labels": torch.tensor(truth)}, parts, EvaluateSettings())
    assert image.confusion.tolist() == [[1, 2], [4, 8]]
    assert [image.each[name].tolist() for name in ("hits", "truth", "predicted")] == [[1, 8], [3, 12], [5, 10]]


def test_a_file_keeps_the_sequences_and_one_without_them_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, ids = [_image(rng, 2) for _ in range(3)], ["00", "01", "02"]
    counts = PerImage.of("semantic", ["a", "b"], ids, images, ["0001TP", "0001TP", "Seq05VD"])
    counts.write(tmp_path / "new.npz")
    read = PerImage.read(tmp_path / "new.npz")
    assert read.sequences.tolist() == ["0001TP", "0001TP", "Seq05VD"]
    assert read.ids.tolist() == ids
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if name != "sequences"})
    old = PerImage.read(tmp_path / "old.npz")
    assert old.sequences.tolist() == ["", "", ""]
    assert old.sequences.dtype.kind == "U"
    assert PerImage.of("semantic", ["a", "b"], ids, images, ()).sequences.tolist() == ["", "", ""]


def test_a_file_of_anything_else_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", ids=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:40])
    for name in ("pickled.npz", "other.npz", "cut.npz"):
        with pytest.raises(ValueError, match=rf"{name}: not the counts of an evaluation"):
            PerImage.read(tmp_path / name)
    every: dict[str, Any] = {
        name: np.zeros(2) for name in ("classes", "hits", "truth", "predicted", "boundary_f1", "calibration")
    }
    np.savez(tmp_path / "ids.npz", ids=np.array([{"a": 1}, 2], dtype=object), **every)
    with pytest.raises(ValueError, match="pickle"):
        PerImage.read(tmp_path / "ids.npz")
