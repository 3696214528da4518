"""Metrics against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segmodels.tasks.semantic import metrics
from segmodels.tasks.semantic.summed import ConfusionMatrix


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
    target[:, :2] = 255
    maps = F.one_hot(prediction, 3).permute(0, 3, 1, 2) - 0.5 + 0.2 * torch.rand(4, 3, 8, 8)
    for i in range(4):
        metric.update(maps[i : i + 1], {"labels": target[i : i + 1]})
    expected = metrics.confusion_matrix(prediction, target, 3)
    assert torch.equal(metric.compute(), expected)
    assert metric.figures() == metrics.scores(expected.numpy())


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


@pytest.mark.parametrize("classes", [2, 180, 181, 182, 250])
def test_pairs_of_many_classes_fit_into_what_counts_them(classes: int) -> None:
    target = torch.tensor([0, classes - 1, classes - 1, 255, 0], dtype=torch.uint8)
    prediction = torch.tensor([classes - 1, classes - 1, 0, classes - 1, 255 % classes], dtype=torch.uint8)
    expected = np.zeros((classes, classes), np.int64)
    for truth, guess in ((0, classes - 1), (classes - 1, classes - 1), (classes - 1, 0), (0, 255 % classes)):
        expected[truth, guess] += 1
    assert np.array_equal(metrics.confusion_matrix(prediction, target, classes).numpy(), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31), st.integers(1, 12))
def test_scores_are_those_of_fractions_summed_one_by_one(classes: int, seed: int, pixels: int) -> None:
    generator = np.random.default_rng(seed)
    truth, guess = generator.integers(0, classes, (2, pixels))
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, guess), 1)
    ious, accuracies, weighted = [], [], 0.0
    for c in range(classes):
        union = ((truth == c) | (guess == c)).sum()
        if union:
            ious.append(((truth == c) & (guess == c)).sum() / union)
            weighted += ious[-1] * (truth == c).sum()
        if (truth == c).any():
            accuracies.append((guess[truth == c] == c).mean())
    with np.errstate(all="raise"):
        found = metrics.scores(matrix)
        iou, accuracy = metrics.class_iou(matrix), metrics.class_accuracy(matrix)
    assert found == pytest.approx(
        {
            "miou": np.mean(ious),
            "pixel_accuracy": (truth == guess).mean(),
            "mean_accuracy": np.mean(accuracies),
            "fwiou": weighted / pixels,
        }
    )
    for c in range(classes):
        assert np.isnan(iou[c]) == (not matrix[c].any() and not matrix[:, c].any())
        assert np.isnan(accuracy[c]) == (not matrix[c].any())


def _is_boundary(mask: np.ndarray, void: np.ndarray, y: int, x: int) -> bool:
    """A pixel of the mask beside one that is neither of it nor void; the image's edge is none."""
    if not mask[y, x]:
        return False
    around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    inside = [(i, j) for i, j in around if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]]
    return any(not mask[i, j] and not void[i, j] for i, j in inside)


def _boundary_f1(images: list[tuple[np.ndarray, np.ndarray]], classes: int, tolerance: int) -> np.ndarray:
    """Csurka et al., BMVC 2013, section 3, pixel by pixel."""
    found: list[list[float]] = [[] for _ in range(classes)]
    for guess, truth in images:
        void = truth == 255
        for c in range(classes):
            sets = []
            for mask in ((truth == c), (guess == c) & ~void):
                places = np.ndindex(*mask.shape)
                sets.append([(y, x) for y, x in places if _is_boundary(mask, void, y, x)])
            true, guessed = sets
            if not true and not guessed:
                continue

            def near(of: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
                hits = [any(max(abs(y - v), abs(x - u)) <= tolerance for v, u in others) for y, x in of]
                return sum(hits) / max(len(hits), 1)

            recall, precision = near(true, guessed), near(guessed, true)
            found[c].append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.array([np.mean(values) if values else np.nan for values in found])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4))
def test_boundary_f1_is_that_of_the_definition(seed: int, tolerance: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    images, score = [], metrics.BoundaryF1(classes, tolerance)
    for _ in range(3):
        truth = np.kron(generator.integers(0, classes, (3, 4)), np.ones((3, 3), np.int64)).astype(np.uint8)
        guess = np.kron(generator.integers(0, classes, (3, 4)), np.ones((3, 3), np.int64)).astype(np.uint8)
        guess = np.where(generator.random(truth.shape) < 0.5, truth, guess).astype(np.uint8)
        truth[generator.random(truth.shape) < 0.1] = 255
        images.append((guess, truth))
        score.update(torch.from_numpy(guess), torch.from_numpy(truth))
    with np.errstate(all="raise"):
        computed = score.compute()
    np.testing.assert_allclose(computed, _boundary_f1(images, classes, tolerance), rtol=1e-12)
    assert metrics.BoundaryF1(classes).tolerance == 3


def test_an_image_that_is_all_void_has_no_boundary() -> None:
    score = metrics.BoundaryF1(2)
    score.update(torch.ones(8, 8, dtype=torch.uint8), torch.full((8, 8), 255, dtype=torch.uint8))
    assert score.images.tolist() == [0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 20))
def test_calibration_error_is_that_of_equation_3(seed: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    error, seen = metrics.CalibrationError(bins), []
    for _ in range(3):
        confidence = np.concatenate([generator.random(40), [0.0, 1.0]]).astype(np.float32)
        guess, truth = generator.integers(0, 3, (2, 42)).astype(np.uint8)
        truth[generator.random(42) < 0.2] = 255
        seen += [(c, g == t) for c, g, t in zip(confidence, guess, truth, strict=True) if t != 255]
        error.update(torch.from_numpy(confidence), torch.from_numpy(guess), torch.from_numpy(truth))
    expected = 0.0
    for b in range(bins):
        inside = [(c, hit) for c, hit in seen if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c == 1)]
        if inside:
            gap = abs(np.mean([c for c, _ in inside]) - np.mean([hit for _, hit in inside]))
            expected += len(inside) / len(seen) * gap
    assert error.compute() == pytest.approx(expected, abs=1e-5)
    several = np.stack([error.sums(), 2 * error.sums()])
    np.testing.assert_allclose(metrics.calibration_error(several), [error.compute()] * 2)
    assert metrics.CalibrationError().sums().shape == (3, 15)


def test_a_bin_counts_more_pixels_than_float32_can() -> None:
    error, many = metrics.CalibrationError(bins=2), 2**24
    for count in (many, 1):
        ones = torch.ones(count)
        error.update(ones, torch.zeros(count, dtype=torch.uint8), torch.zeros(count, dtype=torch.uint8))
    assert error.sums().tolist() == [[0, many + 1]] * 3


def test_means_are_those_of_what_is_known() -> None:
    values = np.array([[0.5, np.nan, 1.0], [np.nan] * 3, [0.25, np.nan, np.nan]])
    assert metrics.class_mean(values).tolist() == [0.75, 0.0, 0.25]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**31), st.booleans())
def test_the_confusion_matrix_is_that_of_torchmetrics_also_where_the_last_classes_are_missing(
    classes: int, seed: int, void: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    seen = int(torch.randint(1, classes + 1, (), generator=generator))
    prediction, target = torch.randint(0, seen, (2, 3, 5), generator=generator)
    if void:
        target[0, 0] = 255
    expected = multiclass_confusion_matrix(prediction, target, classes, ignore_index=255)
    for kind in (torch.uint8, torch.int64):
        assert torch.equal(metrics.confusion_matrix(prediction.to(kind), target.to(kind), classes), expected)


def test_boundaries_of_one_pixel() -> None:
    score = metrics.BoundaryF1(2, 1)
    truth, guess = torch.zeros(2, 9, 9, dtype=torch.uint8)
    truth[4, 4] = guess[4, 5] = 1
    score.update(guess, truth)
    assert score.compute()[1] == 1.0
