"""What each image counted, and whether two models differ by more than noise."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from segmodels.evaluation.compare import (
    FEWEST_UNITS,
    _interval,
    _simultaneous,
    compare,
    compare_all,
    fewest_images,
    units,
)
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Part, Prediction
from segmodels.tasks.per_image import PerImage

CLASSES = ("road", "sky", "pole")


def predictions(wrong: float, images: int = 40, seed: int = 0) -> PerImage:
    """A model that takes this share of pixels for a random class; the truth is the same for every model."""
    truth_rng, rng = np.random.default_rng(7), np.random.default_rng(seed)
    parts, settings, counts = [Part(name, (0, 0, 0)) for name in CLASSES], EvaluateSettings(boundary_px=1), []
    for _ in range(images):
        truth = truth_rng.integers(0, 3, (12, 16)).repeat(2, 0).repeat(2, 1)
        guess = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 3, truth.shape), truth)
        prediction = Prediction(guess, np.full(truth.shape, 0.9, np.float32))
        counts.append(get_task("semantic").count(prediction, {"labels": torch.tensor(truth)}, parts, settings))
    return PerImage.of("semantic", CLASSES, [f"{i:03}" for i in range(images)], counts, ())


def changed(each: PerImage, **columns: Any) -> PerImage:
    """The same with other counts, or classes, or sequences."""
    told = {name: columns.pop(name, getattr(each, name)) for name in ("ids", "classes", "sequences", "task")}
    assert columns.keys() <= each.counts.keys()
    return PerImage(counts={**each.counts, **columns}, **told)


def test_the_figures_of_all_images_are_those_of_the_evaluation() -> None:
    each = predictions(0.3)
    figures = {key: value.item() for key, value in each.figures(np.ones((1, 40))).items()}
    hits, truth, predicted = (each.counts[name].sum(0) for name in ("hits", "truth", "predicted"))
    iou = hits / (truth + predicted - hits)
    assert [figures[f"iou/{name}"] for name in CLASSES] == pytest.approx(iou.tolist())
    assert figures["miou"] == pytest.approx(np.mean(iou))
    assert figures["pixel_accuracy"] == pytest.approx(hits.sum() / truth.sum())
    assert figures["ece"] == pytest.approx(abs(0.9 - hits.sum() / truth.sum()), abs=1e-6)


def test_an_image_that_counts_twice_is_an_image_that_is_there_twice() -> None:
    each = predictions(0.3, images=3)
    order = [0, 2, 2]
    columns = {name: column[order] for name, column in each.counts.items()}
    repeated = changed(each, ids=each.ids[order], sequences=each.sequences[order], **columns).figures(np.ones((1, 3)))
    weighted = each.figures(np.array([[1.0, 0.0, 2.0]]))
    assert list(repeated) == list(weighted)
    for key, value in repeated.items():
        assert value == pytest.approx(weighted[key]), key


def test_the_file_keeps_the_counts_and_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    each = predictions(0.3, images=4)
    each.write(tmp_path / "a.npz")
    each.write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = PerImage.read(tmp_path / "a.npz")
    for name in ("ids", "classes", "sequences", "task"):
        np.testing.assert_array_equal(getattr(again, name), getattr(each, name))
    assert again.counts.keys() == each.counts.keys()
    for name, column in each.counts.items():
        np.testing.assert_array_equal(again.counts[name], column)
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(ValueError, match=r"a\.npz: not the counts of an evaluation"):
        PerImage.read(tmp_path / "a.npz")


def test_a_model_is_no_different_from_itself() -> None:
    each = predictions(0.3)
    miou = compare(each, each).figures["miou"]
    assert (miou.value, miou.low, miou.high, miou.significant) == (0, 0, 0, False)


def test_two_models_that_err_as_often_differ_by_noise_alone() -> None:
    miou = compare(predictions(0.3, seed=1), predictions(0.3, seed=2)).figures["miou"]
    assert miou.value != 0
    assert miou.low < 0 < miou.high
    assert not miou.significant


def test_a_model_that_errs_less_is_better_in_every_class_and_the_interval_holds_the_difference() -> None:
    figures = compare(predictions(0.2, seed=1), predictions(0.3, seed=2)).figures
    for difference in (figures["miou"], *(figures[f"iou/{name}"] for name in CLASSES)):
        assert difference.significant
        assert 0 < difference.low < difference.value < difference.high
    assert figures["ece"].value < 0


def test_the_same_images_are_drawn_for_both_models() -> None:
    """Images of very different difficulty: unpaired draws would drown a small difference."""
    old = predictions(0.3)
    truth = old.counts["truth"]
    hits = (truth * np.linspace(0.1, 0.9, 40)[:, None]).astype(int)
    old = changed(old, hits=hits, predicted=truth)
    miou = compare(changed(old, hits=hits + truth // 100), old).figures["miou"]
    assert miou.significant
    assert miou.high - miou.low < 0.002


def test_the_same_seed_gives_the_same_interval_and_the_interval_grows_with_the_confidence() -> None:
    new, old = predictions(0.2, seed=1), predictions(0.3, seed=2)
    assert compare(new, old) == compare(new, old)
    sure, less = (compare(new, old, confidence=confidence).figures["miou"] for confidence in (0.99, 0.8))
    assert sure.low < less.low < less.high < sure.high


def test_a_class_that_never_occurs_has_no_difference() -> None:
    new, old = (changed(each, classes=np.array([*CLASSES[:2], "x"])) for each in [predictions(0.2)] * 2)
    gone = {name: new.counts[name] * np.array([1, 1, 0]) for name in ("hits", "truth", "predicted")}
    figures = compare(changed(new, **gone), changed(old, **gone)).figures
    assert np.isnan(figures["iou/x"].value)
    assert not figures["iou/x"].significant


def test_a_handful_of_images_proves_nothing() -> None:
    assert fewest_images(0.95) == 6
    five = compare(predictions(0.1, images=5), predictions(0.5, images=5)).figures["miou"]
    assert five.low > 0
    assert not five.significant
    assert compare(predictions(0.1, images=6), predictions(0.5, images=6)).figures["miou"].significant


def test_other_images_classes_and_tasks_are_refused() -> None:
    five = predictions(0.1, images=5)
    for other in (predictions(0.1, images=6), changed(five, classes=list("abc")), changed(five, task="depth")):
        with pytest.raises(ValueError, match="same images"):
            compare(five, other)


def alike(rng: np.random.Generator, images: int, arms: int) -> list[PerImage]:
    """Models that are equally good: the images differ in difficulty, and each model errs by chance."""
    truth = rng.gamma(1.0, 1000, (images, 6)) + 1
    difficulty = np.clip(rng.normal(0.6, 0.15, truth.shape), 0.02, 0.98)
    bins = np.zeros((images, 3, 15))
    bins[:, :, 10] = [1000, 700, 700]
    made = []
    for _ in range(arms):
        hits = truth * np.clip(difficulty + rng.normal(0, 0.06, truth.shape), 0.01, 0.99)
        ids, names = np.array([f"{i:03}" for i in range(images)]), np.array(list("abcdef"))
        counts = {"hits": hits, "truth": truth, "predicted": hits}
        made.append(PerImage(ids, names, counts | {"boundary_f1": np.full(truth.shape, 0.5), "calibration": bins}))
    return made


def test_the_best_of_many_equal_models_is_rarely_better_than_the_champion() -> None:
    """In 40 rounds with 20 models equal to the champion; compared one by one a third of the rounds passes one."""
    rng = np.random.default_rng(0)
    together = alone = 0
    for _ in range(40):
        champion, *arms = alike(rng, images=40, arms=21)
        found = [one.figures["miou"] for one in compare_all(arms, champion, resamples=400)]
        together += any(miou.significant and miou.value > 0 for miou in found)
        single = (compare(one, champion, resamples=400).figures["miou"] for one in arms)
        alone += any(miou.significant and miou.value > 0 for miou in single)
    assert together <= 4
    assert alone >= 8


def test_many_models_do_not_hide_one_that_is_better() -> None:
    rng = np.random.default_rng(1)
    champion, *arms = alike(rng, images=60, arms=21)
    hits, predicted = (arms[3].counts[name] for name in ("hits", "predicted"))
    better = changed(arms[3], hits=hits * 1.1, predicted=predicted * 1.05)
    found = compare_all([*arms[:3], better, *arms[4:]], champion)
    assert [index for index, one in enumerate(found) if one.figures["miou"].significant] == [3]
    assert {one.arms for one in found} == {20}


def test_one_model_among_several_has_a_wider_interval_and_the_same_difference() -> None:
    rng = np.random.default_rng(2)
    champion, *arms = alike(rng, images=40, arms=9)
    alone, among = (one.figures["miou"] for one in (compare(arms[0], champion), compare_all(arms, champion)[0]))
    assert alone.value == among.value
    assert among.high - among.low > 1.2 * (alone.high - alone.low)


def test_whole_sequences_are_drawn_and_few_of_them_as_blocks_of_frames() -> None:
    alone = units(np.array([""] * 5))
    assert alone.tolist() == [0, 1, 2, 3, 4]
    many = units(np.array([f"s{i // 3}" for i in range(3 * FEWEST_UNITS)]))
    assert many.max() + 1 == FEWEST_UNITS and (np.bincount(many) == 3).all()
    few = units(np.array(["a"] * 60 + ["b"] * 40 + ["", ""]))
    assert few.max() + 1 >= FEWEST_UNITS and (np.diff(few) >= 0).all()
    assert set(few[:60]).isdisjoint(few[60:100]) and np.bincount(few).max() <= 6
    assert len(set(few[100:])) == 2


def test_frames_that_err_together_say_less_than_as_many_images() -> None:
    """Each of 25 sequences is better or worse as a whole; taken for 250 images the difference seems sure."""
    rng = np.random.default_rng(3)
    champion = alike(rng, images=250, arms=1)[0]
    truth = np.full_like(champion.counts["truth"], 1000.0)
    level = np.full_like(truth, 500.0)
    shift = (rng.permutation(25) < 15).repeat(10)[:, None] * 100.0 - 50.0
    base = changed(champion, truth=truth, hits=level, predicted=level)
    other = changed(base, hits=level + shift, predicted=level + shift)
    named = np.array([f"s{i // 10}" for i in range(250)])
    single = compare(other, base).figures["miou"]
    drawn = compare(changed(other, sequences=named), changed(base, sequences=named))
    assert single.significant and not drawn.figures["miou"].significant
    assert (drawn.images, drawn.units) == (250, 25)


def test_one_models_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1.0, 8)
    means = rng.choice(values, (40_000, 8)).mean(1)
    low, high = _simultaneous(np.array([values.mean()]), means[:, None], 8, 0.95)
    expected = stats.t.interval(0.95, 7, values.mean(), values.std(ddof=1) / math.sqrt(8))
    assert (low[0], high[0]) == pytest.approx(expected, rel=0.02)
    # Two units: one degree of freedom. One unit: nothing is known of the spread.
    low, high = _simultaneous(np.array([0.0]), rng.normal(0, 1, (40_000, 1)), 2, 0.95)
    assert high[0] == pytest.approx(stats.t.isf(0.025, 1) * math.sqrt(2), rel=0.1)
    low, high = _simultaneous(np.array([0.0]), rng.normal(0, 1, (40_000, 1)), 1, 0.95)
    assert high[0] == pytest.approx(stats.norm.isf(0.025), rel=0.02)


def test_intervals_of_several_models_hold_for_all_of_them_and_each_has_its_own_spread() -> None:
    rng, spreads = np.random.default_rng(1), np.array([1.0, 5.0, 0.1])
    draws = rng.normal(0, spreads, (60_000, 3))
    points = np.array([0.0, 0.0, 0.0])
    low, high = _simultaneous(points, draws, 10**6, 0.95)
    every = stats.norm.isf((1 - 0.95 ** (1 / 3)) / 2)
    np.testing.assert_allclose(high, every * spreads, rtol=0.02)
    np.testing.assert_allclose(low, -high)
    # A model that never differs, and one that differs always by the same, widen the others' by nothing.
    still = np.column_stack([draws, np.zeros(60_000), np.full(60_000, 2.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, wide = _simultaneous(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), still, 10**6, 0.95)
    np.testing.assert_allclose(wide[:3], high, rtol=1e-6)
    few = np.array([[0.0], [1.0], [2.0]])
    assert _simultaneous(np.array([1.0]), few, 10**6, 0.5)[1][0] == pytest.approx(1 + 1.0, rel=1e-3)


def test_percentiles_leave_as_much_on_either_side() -> None:
    rng = np.random.default_rng(2)
    columns = np.column_stack([rng.exponential(1, 5000), np.full(5000, np.nan)])
    columns[::7, 0] = np.nan
    low, high = _interval(columns, 0.9)
    known = columns[np.isfinite(columns[:, 0]), 0]
    assert (low[0], high[0]) == pytest.approx(tuple(np.percentile(known, [5, 95])))
    assert np.isnan(low[1]) and np.isnan(high[1])


def test_settings_of_a_comparison_reach_the_draws() -> None:
    new, old = predictions(0.25, seed=1), predictions(0.3, seed=2)
    usual = compare(new, old)
    assert usual == compare(new, old, resamples=2000, confidence=0.95, seed=0) == compare_all([new], old)[0]
    for other in ({"resamples": 1999}, {"seed": 1}, {"confidence": 0.9}):
        assert compare(new, old, **other).figures["miou"].low != usual.figures["miou"].low
    boundary, miou = usual.figures["boundary_f1"], usual.figures["miou"]
    assert boundary.value == boundary.new - boundary.old
    assert miou.value - miou.low == pytest.approx(miou.high - miou.value)
    assert usual.figures.keys() == {"miou", "pixel_accuracy", "boundary_f1", "ece", *(f"iou/{c}" for c in CLASSES)}
    for figure in usual.figures.values():
        assert figure.low < figure.value < figure.high
    # The same by hand, from the same draws.
    drawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=250).astype(float)
    differences = new.figures(drawn)["ece"] - old.figures(drawn)["ece"]
    assert compare(new, old, resamples=250).figures["ece"].low == pytest.approx(np.quantile(differences, 0.025))


def test_units_are_images_sequences_or_blocks_of_about_the_same_length() -> None:
    def sizes(sequences: list[str]) -> list[int]:
        return np.bincount(units(np.array(sequences))).tolist()

    assert sizes(["", "a", "", "a", ""] + [f"s{i}" for i in range(20)]) == [1, 2, 1, 1] + [1] * 20
    twenty = [f"s{i}" for i in range(20) for _ in range(3)]
    assert sizes(twenty) == [3] * 20
    # 93 frames in three sequences: blocks of at most 93 // 20 = 4, so eight of each sequence.
    assert sizes(["a"] * 31 + ["b"] * 31 + ["c"] * 31) == ([4] * 7 + [3]) * 3
    assert sizes(["a"] * 5 + ["b"] * 5) == [1] * 10
    assert units(np.array(["b", "a", "b", "a"] * 10))[:4].tolist() == [0, 10, 0, 10]


@pytest.mark.parametrize(("confidence", "images"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_fewest_images_are_those_of_a_sign_test(confidence: float, images: int) -> None:
    assert 2 * 0.5**images <= 1 - confidence + 1e-12 < 2 * 0.5 ** (images - 1)
    assert fewest_images(confidence) == images
