"""What each image counted, against figures that are worked out image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmodels.tasks.semantic.per_image import ImageCounts, PerImage


def _image(rng: np.random.Generator, number: int, classes: int) -> ImageCounts:
    matrix = rng.integers(0, 3, (classes, classes)) * (rng.random((classes, classes)) < 0.5)
    f1 = np.where(rng.random(classes) < 0.4, np.nan, rng.random(classes))
    return ImageCounts.of(f"{number:02}", matrix.astype(np.int64), f1, rng.random((3, 4)) * 10)


def _figures(images: list[ImageCounts], classes: int) -> list[float]:
    """mIoU, boundary F1, ECE and IoU of each class of these images, one class after the other."""
    ious, boundaries = [], []
    for c in range(classes):
        hits, union = (
            sum(int(v) for v in values)
            for values in zip(
                *[(image.hits[c], image.truth[c] + image.predicted[c] - image.hits[c]) for image in images], strict=True
            )
        )
        ious.append(hits / union if union else np.nan)
        seen = [image.boundary_f1[c] for image in images if np.isfinite(image.boundary_f1[c])]
        boundaries.append(np.mean(seen) if seen else np.nan)
    count, confidence, correct = sum(image.calibration for image in images)
    ece = np.abs(confidence - correct).sum() / max(count.sum(), 1)
    known = [[v for v in values if np.isfinite(v)] for values in (ious, boundaries)]
    return [*(float(np.mean(v)) if v else 0.0 for v in known), float(ece), *ious]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_figures_are_those_of_the_images_as_often_as_they_count(seed: int, classes: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    listed = [_image(rng, number, classes) for number in range(images)]
    counts = PerImage.of([f"c{c}" for c in range(classes)], listed)
    weights = rng.integers(0, 3, (4, images))
    weights[0] = 1
    weights[1] = 0
    weights[1, 0] = 1
    with np.errstate(all="raise"):
        found = counts.figures(weights.astype(float))
    for row, times in zip(found, weights, strict=True):
        drawn = [image for image, count in zip(listed, times, strict=True) for _ in range(count)]
        if drawn:
            np.testing.assert_allclose(row, _figures(drawn, classes), rtol=1e-9)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    image = ImageCounts.of("a", np.array([[1, 2], [4, 8]]), np.zeros(2), np.zeros((3, 2)))
    assert (image.hits.tolist(), image.truth.tolist(), image.predicted.tolist()) == ([1, 8], [3, 12], [5, 10])


def test_a_file_keeps_the_sequences_and_one_without_them_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [_image(rng, number, 2) for number in range(3)]
    counts = PerImage.of(["a", "b"], images, ["0001TP", "0001TP", "Seq05VD"])
    counts.write(tmp_path / "new.npz")
    read = PerImage.read(tmp_path / "new.npz")
    assert read.sequences.tolist() == ["0001TP", "0001TP", "Seq05VD"]
    assert read.ids.tolist() == ["00", "01", "02"]
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if name != "sequences"})
    old = PerImage.read(tmp_path / "old.npz")
    assert old.sequences.tolist() == ["", "", ""]
    assert old.sequences.dtype.kind == "U"
    assert PerImage.of(["a", "b"], images).sequences.tolist() == ["", "", ""]


def test_a_file_of_anything_else_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", ids=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:40])
    for name in ("pickled.npz", "other.npz", "cut.npz"):
        with pytest.raises(ValueError, match=rf"{name}: not the counts of an evaluation"):
            PerImage.read(tmp_path / name)
    every = {name: np.zeros(2) for name in ("classes", "hits", "truth", "predicted", "boundary_f1", "calibration")}
    np.savez(tmp_path / "ids.npz", ids=np.array([{"a": 1}, 2], dtype=object), **every)
    with pytest.raises(ValueError, match="pickle"):
        PerImage.read(tmp_path / "ids.npz")
