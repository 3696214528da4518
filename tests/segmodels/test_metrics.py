"""Metrics against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segmodels import metrics
from segmodels.summed import ConfusionMatrix


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31), st.sampled_from([torch.uint8, torch.int64]))
def test_confusion_matrix_equals_torchmetrics(classes: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (2, 9, 11), generator=generator).to(dtype)
    prediction = torch.randint(0, classes, (2, 9, 11), generator=generator).to(dtype)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    ours = metrics.confusion_matrix(prediction, target, classes)
    if classes == 1:
        assert ours.item() == (target != 255).sum()
        return
    theirs = multiclass_confusion_matrix(prediction.long(), target.long(), classes, ignore_index=255)
    assert torch.equal(ours, theirs)


def test_matrices_add_up_over_batches() -> None:
    metric = ConfusionMatrix(3)
    prediction, target = torch.randint(0, 3, (4, 8, 8)), torch.randint(0, 3, (4, 8, 8))
    for i in range(4):
        metric.update(prediction[i], target[i])
    assert torch.equal(metric.compute(), metrics.confusion_matrix(prediction, target, 3))


def test_scores_of_a_matrix_by_hand() -> None:
    matrix = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    result = metrics.scores(matrix)
    assert result["pixel_accuracy"] == pytest.approx(9 / 12)
    assert result["miou"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert result["mean_accuracy"] == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert result["fwiou"] == pytest.approx((8 * 6 / 9 + 4 * 3 / 6) / 12)
    assert np.isnan(metrics.class_iou(matrix)[2])


def test_an_empty_matrix_scores_zero() -> None:
    assert metrics.scores(np.zeros((3, 3), np.int64)) == {
        "miou": 0.0,
        "pixel_accuracy": 0.0,
        "mean_accuracy": 0.0,
        "fwiou": 0.0,
    }


def test_boundary_f1_forgives_a_shift_within_the_tolerance_only() -> None:
    target = torch.zeros(40, 40, dtype=torch.uint8)
    target[:, 20:] = 1
    for shift, expected in ((0, 1.0), (2, 1.0), (3, 1.0), (5, 0.0)):
        score = metrics.BoundaryF1(2, tolerance=3)
        prediction = torch.zeros(40, 40, dtype=torch.uint8)
        prediction[:, 20 + shift :] = 1
        score.update(prediction, target)
        assert score.compute().tolist() == [expected, expected]


def test_boundary_f1_of_a_class_without_boundary_is_nan() -> None:
    score = metrics.BoundaryF1(3)
    flat = torch.zeros(16, 16, dtype=torch.uint8)
    score.update(flat, flat)
    assert np.isnan(score.compute()).all()


def test_void_is_no_boundary() -> None:
    target = torch.zeros(20, 20, dtype=torch.uint8)
    target[:, 10:] = 255
    score = metrics.BoundaryF1(2)
    score.update(torch.zeros(20, 20, dtype=torch.uint8), target)
    assert np.isnan(score.compute()).all()


def test_calibration_error_by_hand() -> None:
    error = metrics.CalibrationError(bins=10)
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.65, 0.65])
    prediction = torch.tensor([0, 0, 0, 0, 1, 1])
    target = torch.tensor([0, 0, 1, 1, 1, 255])
    error.update(confidence, prediction, target)
    assert error.compute() == pytest.approx((4 * abs(0.95 - 0.5) + 1 * abs(0.65 - 1)) / 5)
