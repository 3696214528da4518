"""What the task of depth counts, draws, sends and stores."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.settings.schema import EvaluateSettings, TrainSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Answered, Prediction, TaskError
from segmodels.tasks.depth.summed import DepthErrors
from segmodels.tasks.depth.task import EDGES
from segmodels.tasks.per_image import PerImage

TASK = get_task("depth")
PARTS = TASK.parts(())
RNG = np.random.default_rng(0)


def image(seed: int, size: tuple[int, int] = (12, 16)) -> tuple[np.ndarray, np.ndarray]:
    """Truth with unknown pixels, and a prediction."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 120, size).astype(np.float32)
    truth[rng.random(size) < 0.2] = 0
    return truth, (np.maximum(truth, 1) * rng.uniform(0.6, 1.6, size)).astype(np.float32)


def counted(
    count: int = 3, max_depth: float | None = None
) -> tuple[PerImage, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    pairs = [image(seed) for seed in range(count)]
    settings = EvaluateSettings(max_depth=max_depth)
    counts = [TASK.count(Prediction(value), {"depth": torch.tensor(truth)}, PARTS, settings) for truth, value in pairs]
    ids, names = [f"{i}" for i in range(count)], [part.name for part in PARTS]
    return PerImage.of("depth", names, ids, counts, ()), np.sum([one.confusion for one in counts], axis=0), pairs


def test_figures_are_those_of_all_pixels_together() -> None:
    each, confusion, pairs = counted()
    truth = np.concatenate([t[t > 0] for t, _ in pairs]).astype(np.float64)
    value = np.concatenate([v[t > 0] for t, v in pairs]).astype(np.float64)
    metrics = TASK.metrics(each.measured, confusion)
    ratio = np.maximum(truth / value, value / truth)
    assert metrics["abs_rel"] == pytest.approx((np.abs(value - truth) / truth).mean())
    assert metrics["rmse"] == pytest.approx(np.sqrt(((value - truth) ** 2).mean()))
    for power in (1, 2, 3):
        assert metrics[f"delta{power}"] == pytest.approx((ratio < 1.25**power).mean())
    free = [np.log(v[t > 0].astype(np.float64) / t[t > 0]).var() for t, v in pairs]
    assert metrics["si_rmse"] == pytest.approx(np.sqrt(np.mean(free)))
    near = (truth >= EDGES[0]) & (truth < EDGES[1])
    assert metrics["per_class"]["2 to 5 m"] == pytest.approx((np.abs(value - truth) / truth)[near].mean())
    assert confusion.sum() == len(truth) and confusion[1].sum() == near.sum()


def test_images_count_as_often_as_they_are_drawn() -> None:
    each, _, _ = counted()
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    again = PerImage.of("depth", each.classes.tolist(), ["a", "b", "c"], [
        TASK.count(Prediction(image(seed)[1]), {"depth": torch.tensor(image(seed)[0])}, PARTS, EvaluateSettings())
        for seed in (0, 0, 2)
    ], ())  # fmt: skip
    drawn, expected = each.figures(weights), again.figures(np.ones((1, 3)))
    for key, value in expected.items():
        assert drawn[key][0] == pytest.approx(value[0], nan_ok=True), key
        assert np.isnan(drawn[key][1]), key


def test_depths_beyond_the_farthest_count_nowhere_and_predictions_as_at_most_so_far() -> None:
    """KITTI's protocol, with 80 m."""
    each, confusion, pairs = counted(max_depth=80.0)
    there = [(t > 0) & (t <= 80) for t, _ in pairs]
    truth = np.concatenate([t[seen] for (t, _), seen in zip(pairs, there, strict=True)]).astype(np.float64)
    value = np.concatenate([v[seen] for (_, v), seen in zip(pairs, there, strict=True)]).astype(np.float64)
    assert (value > 80).any() and len(truth) < sum((t > 0).sum() for t, _ in pairs)
    value = value.clip(max=80)
    metrics = TASK.metrics(each.measured, confusion)
    ratio = np.maximum(truth / value, value / truth)
    assert metrics["abs_rel"] == pytest.approx((np.abs(value - truth) / truth).mean())
    assert metrics["rmse"] == pytest.approx(np.sqrt(((value - truth) ** 2).mean()))
    assert metrics["delta1"] == pytest.approx((ratio < 1.25).mean())
    assert confusion.sum() == len(truth) and metrics["per_class"]["80 m and more"] is None


def test_an_image_that_lies_beyond_the_farthest_depth_altogether_counts_as_one_without_depth() -> None:
    far, settings = torch.full((4, 4), 90.0), EvaluateSettings(max_depth=80)
    one = TASK.count(Prediction(np.full((4, 4), 60, np.float32)), {"depth": far}, PARTS, settings)
    none = TASK.count(Prediction(np.full((4, 4), 60, np.float32)), {"depth": 0 * far}, PARTS, settings)
    for name, values in one.each.items():
        np.testing.assert_array_equal(values, none.each[name])
    assert one.own == none.own


@pytest.mark.parametrize("loss", [{}, {"silog": 1.0}])
def test_training_and_validation_leave_out_what_lies_beyond_the_farthest_depth(loss: dict[str, float]) -> None:
    settings = TrainSettings(max_depth=10.0, loss=loss)
    depth = torch.rand(2, 8, 8) * 19 + 1
    maps, targets = torch.randn(2, 1, 8, 8), {"depth": depth, "image": torch.zeros(2, 3, 8, 8)}
    near = {**targets, "depth": torch.where(depth > 10, 0.0, depth)}
    for capped, free in (
        (TASK.criterion(settings, None), TASK.criterion(TrainSettings(loss=loss), None)),
        (TASK.plain_criterion(settings), TASK.plain_criterion(TrainSettings())),
    ):
        assert torch.equal(capped(maps, targets), free(maps, near))
        assert not torch.equal(capped(maps, targets), free(maps, targets))
    metric, wanted = TASK.summed(1, settings), TASK.summed(1, TrainSettings())
    metric.update(maps, targets)
    wanted.update(maps.clamp(max=float(np.log(10))), near)
    for key, value in wanted.figures().items():
        assert metric.figures()[key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.parametrize("kind", [TrainSettings, EvaluateSettings])
def test_a_farthest_depth_that_is_none_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"^max_depth is -1.0; it must be a number above 0"):
        kind(max_depth=-1.0)


@pytest.mark.parametrize("farthest", [None, 80.0])
def test_training_sums_what_evaluation_counts(farthest: float | None) -> None:
    each, confusion, pairs = counted(max_depth=farthest)
    metric = DepthErrors(farthest)
    for truth, value in pairs:
        metric.update(torch.tensor(value).log()[None, None], {"depth": torch.tensor(truth)[None]})
    wanted = TASK.metrics(each.measured, confusion)
    for key, figure in metric.figures().items():
        assert figure == pytest.approx(wanted[key], rel=1e-5), key
    assert set(metric.figures()) == set(TASK.info.validated)


def test_counts_survive_their_file(tmp_path: Path) -> None:
    each, _, _ = counted()
    each.write(tmp_path / "per_image.npz")
    read = PerImage.read(tmp_path / "per_image.npz")
    assert read.task == "depth" and read.classes.tolist() == each.classes.tolist()
    for name, values in each.counts.items():
        np.testing.assert_array_equal(read.counts[name], values)


def test_an_image_that_is_shown_twice_as_large_has_half_the_depth() -> None:
    """So that predictions at several scales may be averaged."""
    maps = torch.full((1, 1, 4, 4), 1.0)
    restored = TASK.restore(maps, mirrored=False, scale=2.0)
    assert TASK.decide(restored)[0].mean().item() == pytest.approx(2 * np.e, rel=1e-5)
    assert TASK.decide(TASK.restore(maps, mirrored=True, scale=1.0))[0].mean().item() == pytest.approx(np.e, rel=1e-5)


def test_answers_can_be_read_as_metres() -> None:
    value = np.array([[0.0, 1.5], [99.25, 1000.0]], np.float32)
    answered = Answered(np.zeros((2, 2, 3), np.uint8), value, "x", PARTS)
    forms = TASK.forms()
    assert {name: tuple(form.encode) for name, form in forms.items()} == dict(TASK.info.forms)
    png = np.asarray(Image.open(io.BytesIO(forms["depth"].encode["image/png"](answered))))
    assert png.dtype == np.uint16 and (png / 256).tolist() == [[0, 1.5], [99.25, 65535 / 256]]
    assert np.array_equal(np.load(io.BytesIO(forms["npy"].encode["application/x-npy"](answered))), value)
    picture = np.asarray(Image.open(io.BytesIO(forms["overlay"].encode["image/png"](answered))))
    assert picture.shape == (2, 2, 3)


def test_pictures_share_the_scale_of_the_first_and_show_what_is_unknown_in_black() -> None:
    truth, value = image(0)
    drawn, other, same = TASK.draw([truth, value, truth], PARTS)
    assert np.array_equal(drawn, same) and not np.array_equal(drawn, other)
    assert (drawn[truth == 0] == 0).all() and (drawn[truth > 0] > 0).any(-1).all()
    nearer = drawn[truth > 0][truth[truth > 0].argmin()].astype(int).sum()
    assert nearer > drawn[truth > 0][truth[truth > 0].argmax()].astype(int).sum()
    scale = TASK.key_picture(truth, PARTS)
    assert scale is not None and scale.shape[0] == truth.shape[0]


def test_drift_sees_ranges_and_the_median() -> None:
    value = np.array([[1.0, 1.0], [3.0, 100.0]], np.float32)
    shares, number, sure = TASK.describe(Prediction(value), PARTS)
    assert shares.tolist() == [0.5, 0.25, 0, 0, 0, 0, 0.25] and number == 2.0 and np.isnan(sure).all()


def test_a_loss_of_another_task_is_refused() -> None:
    with pytest.raises(TaskError, match="unknown term 'cross_entropy'; known are silog"):
        TASK.criterion(TrainSettings(loss={"cross_entropy": 1.0}), None)


def test_metrics_are_json_also_where_a_range_has_no_pixel() -> None:
    truth = np.full((4, 4), 3.0, np.float32)
    one = TASK.count(Prediction(truth), {"depth": torch.tensor(truth)}, PARTS, EvaluateSettings())
    each = PerImage.of("depth", [part.name for part in PARTS], ["0"], [one], ())
    metrics = json.loads(json.dumps(TASK.metrics(each.measured, one.confusion), allow_nan=False))
    assert metrics["abs_rel"] == 0 and metrics["per_class"]["80 m and more"] is None
