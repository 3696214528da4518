"""The gate: what a model is held against, and the sentence that says why it does not pass."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from components.params import Params
from components.promotion import PASSED
from components.register.gate import (
    Champion,
    Gate,
    Measured,
    comparable_times,
    decide,
    interval,
    measured_on,
    percent,
)
from components.rules import ParamsError, Rule
from segmodels.evaluation.compare import Comparison, Difference
from segmodels.tasks.per_image import PerImage
from segmodels.tasks.semantic import MIOU

NAMES = ("road", "sky", "pole")
SPEED = {"parameters": 1_000_000, "ms_per_image": 20.0, "device": "cpu", "threads": 2}


def measured(*iou: float, boundary: float = 0.5, ece: float = 0.03, noise: float = 0.02, seed: int = 0, **speed):
    """A model with about these IoU, the same images for all; `noise` is how much they vary from image to image."""
    rng, images = np.random.default_rng(seed), 40
    truth = np.tile([4000, 4000, 400], (images, 1))
    quality = np.clip(np.array(iou) + rng.normal(0, noise, (images, 3)), 0, 1)
    hits = (truth * quality).astype(int)
    bins = np.zeros((images, 3, 15))
    bins[:, :, 12] = [8400, 7000 + 8400 * ece, 7000]
    ids, f1 = np.array([f"{i:03}" for i in range(images)]), np.full((images, 3), boundary)
    counts = {"hits": hits, "truth": truth, "predicted": hits, "boundary_f1": f1, "calibration": bins}
    return Measured(PerImage(ids, np.array(NAMES), counts), {**SPEED, **speed})


BEFORE = measured(0.8, 0.7, 0.3)
CHAMPION = Champion("3", "unet", BEFORE)


def gate(rules: dict[str, dict[str, float]] | None = None, **settings: Any) -> Gate:
    """What these settings ask: `register.rules`, and others of `register`."""
    return Gate.of(Params.parse({"models": {"unet": {}}, "register": {"rules": rules or {}, **settings}}))


def against(
    new: Measured,
    champion: Champion | None = CHAMPION,
    rules: dict[str, dict[str, float]] | None = None,
    **settings: float,
):
    iou = new.each.counts["hits"].sum(0) / new.each.counts["truth"].sum(0)
    metrics = {"miou": float(iou.mean()), "per_class": dict(zip(NAMES, iou.tolist(), strict=True))}
    return decide(gate(rules, **settings), metrics, new, champion)


def test_what_the_settings_leave_out_is_asked_as_the_task_has_it() -> None:
    usual = {
        "miou": Rule(floor=0.15, gain=0.005),
        "iou/*": Rule(floor=0.0, loss=0.05),
        "boundary_f1": Rule(loss=0.02),
        "ece": Rule(loss=0.02),
        "ms_per_image": Rule(times=2.0),
        "parameters": Rule(times=4.0),
    }
    assert gate().rules == usual
    assert (gate().confidence, gate().resamples) == (0.95, 2000)
    changed = gate({"miou": {"floor": 0.3}, "ece": {"floor": 0.1}}).rules
    assert changed == usual | {"miou": Rule(floor=0.3, gain=0.005), "ece": Rule(floor=0.1, loss=0.02)}


@pytest.mark.parametrize(
    ("former", "value", "figure", "rule"),
    [
        ("min_miou", 0.25, "miou", "floor"),
        ("min_class_iou", 0.1, "iou/*", "floor"),
        ("min_gain", 0.01, "miou", "gain"),
        ("max_class_loss", 0.04, "iou/*", "loss"),
        ("max_boundary_loss", 0.03, "boundary_f1", "loss"),
        ("max_ece_rise", 0.05, "ece", "loss"),
        ("max_slowdown", 3.0, "ms_per_image", "times"),
        ("max_growth", 2.5, "parameters", "times"),
    ],
)
def test_a_rule_of_an_earlier_release_is_refused_with_the_line_that_says_the_same(
    former: str, value: float, figure: str, rule: str
) -> None:
    with pytest.raises(ParamsError, match=rf"^params: register\.{former} is a rule of its figure now; ") as caught:
        gate(None, **{former: value})
    line = re.search("`(rules: .*)`", str(caught.value))
    assert line is not None
    rules = yaml.safe_load(line[1])["rules"]
    assert rules == {figure: {rule: value}}
    assert getattr(gate(rules).rules[figure], rule) == value


def test_a_rule_of_no_figure_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ParamsError, match="semantic segmentation has no figure 'mio'; did you mean 'miou'"):
        gate({"mio": {"floor": 0.2}})
    with pytest.raises(ParamsError, match=r"register\.rules\.parameters: a cost has `times` and nothing else"):
        gate({"parameters": {"loss": 0.2}})


def test_a_class_may_have_a_rule_of_its_own() -> None:
    new = measured(0.9, 0.85, 0.2, noise=0.0)
    assert "IoU falls by more than register.rules.iou/pole.loss, 8 points: pole -" in (
        against(new, rules={"iou/pole": {"loss": 0.08}}).reason
    )
    assert against(new, rules={"iou/pole": {"loss": 0.12}}).passed
    floors = against(new, rules={"iou/*": {"floor": 0.3}, "iou/pole": {"floor": 0.1, "loss": 0.12}})
    assert floors.passed, "the class has a floor of its own"


def test_a_better_model_passes() -> None:
    decision = against(measured(0.83, 0.74, 0.36, seed=1))
    assert decision.passed
    assert decision.comparison.figures["miou"].value == pytest.approx(0.043, abs=0.01)


def test_a_worse_model_is_refused_with_the_difference_and_its_interval() -> None:
    decision = against(measured(0.77, 0.68, 0.29, seed=1))
    assert not decision.passed
    assert decision.above_floors
    assert decision.reason.startswith("worse than the champion (version 3): mIoU -")
    assert "95 % interval -" in decision.reason


def test_an_equal_model_is_no_significant_difference_and_does_not_pass() -> None:
    for equal in (BEFORE, measured(0.8, 0.7, 0.3, seed=1)):
        reason = against(equal).reason
        assert reason.startswith("no significant difference from the champion (version 3) on 40 images: mIoU ")


def test_a_gain_that_is_sure_and_too_small_does_not_pass() -> None:
    tiny = measured(0.803, 0.703, 0.303, noise=0.0)
    champion = replace(CHAMPION, measured=measured(0.8, 0.7, 0.3, noise=0.0))
    assert "gains less than register.rules.miou.gain, 0.5 points" in against(tiny, champion).reason
    assert against(tiny, champion, {"miou": {"gain": 0.001}}).reason == PASSED


def test_a_gain_overall_does_not_pay_for_a_class() -> None:
    paid = measured(0.9, 0.85, 0.2, seed=1)
    reason = against(paid).reason
    assert reason.startswith("IoU falls by more than register.rules.iou/*.loss, 5 points: pole -")
    assert "road" not in reason
    assert against(paid, rules={"iou/*": {"loss": 0.2}}).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boundary": 0.45}, "boundary F1 falls by more than register.rules.boundary_f1.loss, 2 points: -5.0 points"),
        ({"ece": 0.09}, "ECE rises by more than register.rules.ece.loss, 2 points: +6.0 points"),
        (
            {"ms_per_image": 50.0},
            "takes 50.0 ms an image, the champion 20.0 ms: more than register.rules.ms_per_image.times, 2",
        ),
        (
            {"parameters": 5_000_000},
            "has 5,000,000 parameters, the champion 1,000,000: more than register.rules.parameters.times, 4",
        ),
    ],
)
def test_nor_for_boundaries_calibration_speed_or_size(change, reason) -> None:
    decision = against(measured(0.9, 0.8, 0.4, seed=1, **change))
    assert decision.reason.startswith(reason)


def test_every_objection_is_named() -> None:
    reason = against(measured(0.7, 0.6, 0.2, seed=1, parameters=9_000_000)).reason
    assert reason.count("; ") == 2
    assert "worse than" in reason and "rules.iou/*.loss" in reason and "rules.parameters.times" in reason


def test_times_of_other_devices_are_not_compared() -> None:
    assert against(measured(0.9, 0.8, 0.4, seed=1, ms_per_image=500.0, device="NVIDIA H100")).passed
    assert against(measured(0.9, 0.8, 0.4, seed=1, ms_per_image=500.0, threads=1)).passed


def test_without_a_champion_the_floors_alone_count() -> None:
    assert against(measured(0.5, 0.4, 0.1), None).reason == PASSED


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"miou": {"floor": 0.6}}, "mIoU is 33.3 %, below register.rules.miou.floor, 60.0 %"),
        ({"iou/*": {"floor": 0.2}}, "IoU below register.rules.iou/*.floor, 20.0 %: pole 10.0 %"),
    ],
)
@pytest.mark.parametrize("champion", [None, CHAMPION])
def test_below_the_floors_there_is_no_version(rules, reason, champion) -> None:
    decision = against(measured(0.5, 0.4, 0.1, noise=0.0), champion, rules)
    assert not decision.above_floors
    assert decision.reason == reason


def test_a_class_that_was_never_seen_is_below_no_floor() -> None:
    metrics = {"miou": 0.5, "per_class": {"road": 0.5, "absent": None}}
    assert decide(gate({"iou/*": {"floor": 0.3}}), metrics, measured(0.5, 0.5, 0.5), None).passed


def test_a_champion_that_cannot_be_compared_is_the_reason() -> None:
    champion = Champion("3", "unet", obstacle="the champion (version 3) has other classes")
    assert against(measured(0.9, 0.9, 0.9), champion).reason == "the champion (version 3) has other classes"


def compared(**figures: float) -> Comparison:
    """A comparison whose figures differ by exactly what is given; mIoU is a sure gain of five points."""

    def by(value: float, *, significant: bool = False) -> Difference:
        return Difference(0.5 + value, 0.5, value - 0.01, value + 0.01, significant)

    values = {"miou": 0.05, "boundary_f1": 0.0, "ece": 0.0, "iou/road": 0.0, "iou/pole": 0.0, **figures}
    found = {name: by(value, significant=name == "miou") for name, value in values.items()}
    return Comparison(images=40, units=40, arms=1, figures=found)


RULES = {
    "miou": {"gain": 0.0625},
    "iou/*": {"loss": 0.125},
    "boundary_f1": {"loss": 0.25},
    "ece": {"loss": 0.0625},
}


@pytest.mark.parametrize(
    ("figures", "rule"),
    [
        ({"miou": 0.0625}, "miou.gain"),
        ({"iou/pole": -0.125}, "iou/*.loss"),
        ({"boundary_f1": -0.25}, "boundary_f1.loss"),
        ({"ece": 0.0625}, "ece.loss"),
    ],
)
def test_a_limit_itself_is_within_it_and_what_lies_beyond_is_not(figures: dict[str, float], rule: str) -> None:
    new = measured(0.5, 0.5, 0.5)
    metrics = {"miou": 0.5, "per_class": {}}
    # Binary fractions: at the limit to the last bit.
    (name, value), *_ = figures.items()
    rest = {} if name == "miou" else {"miou": 0.125}
    assert decide(gate(RULES), metrics, new, CHAMPION, compared(**rest, **figures)).passed
    beyond = value - 2**-10 if name != "ece" else value + 2**-10
    decision = decide(gate(RULES), metrics, new, CHAMPION, compared(**rest, **{name: beyond}))
    assert f"register.rules.{rule}, " in decision.reason
    assert ";" not in decision.reason


@pytest.mark.parametrize(
    ("ms", "parameters", "passes"), [(40.0, 4_000_000, True), (40.1, 1, False), (1.0, 4_000_001, False)]
)
def test_times_and_sizes_at_their_limit_pass(ms: float, parameters: int, passes: bool) -> None:
    new = measured(0.5, 0.5, 0.5, ms_per_image=ms, parameters=parameters)
    rules = gate({"ms_per_image": {"times": 2.0}, "parameters": {"times": 4.0}})
    assert decide(rules, {"miou": 0.5, "per_class": {}}, new, CHAMPION, compared()).passed == passes


@pytest.mark.parametrize(("miou", "iou", "above"), [(0.25, 0.125, True), (0.2499, 0.125, False), (0.25, 0.1249, False)])
def test_a_floor_itself_is_enough(miou: float, iou: float, above: bool) -> None:
    rules = gate({"miou": {"floor": 0.25}, "iou/*": {"floor": 0.125}})
    metrics = {"miou": miou, "per_class": {"road": 0.5, "pole": iou}}
    decision = decide(rules, metrics, measured(0.5, 0.5, 0.5), None)
    assert decision.above_floors == decision.passed == above


def test_no_miou_at_all_is_below_the_floor() -> None:
    decision = decide(gate(), {"miou": None, "per_class": {}}, measured(0.5, 0.5, 0.5), None)
    assert decision.reason == "mIoU is undefined, and register.rules.miou.floor, 15.0 % asks for it"
    assert not decision.above_floors


def test_times_of_whole_predictions_are_compared_with_such_alone() -> None:
    of_passes, of_predictions = {**SPEED}, {**SPEED, "prediction": {}}
    assert comparable_times(of_passes, of_passes) and comparable_times(of_predictions, of_predictions)
    assert not comparable_times(of_passes, of_predictions)


def test_points_and_what_they_were_measured_on_in_words() -> None:
    shown = [MIOU.change(value) for value in (0.021, -0.004, 0.0, -0.0001, 0.0001)]
    assert shown == ["+2.1", "-0.4", "0.0", "0.0", "0.0"]
    assert (percent(0.1234), percent(None)) == ("12.3 %", "-")
    gained = interval(MIOU, Difference(0.5, 0.4, 0.05, 0.15, True), 0.9)
    assert gained == "+10.0 points (90 % interval +5.0 to +15.0)"
    plain = compared()
    assert measured_on(plain) == "40 images"
    assert measured_on(replace(plain, units=7, arms=3)) == (
        "40 images, drawn in 7 sequences or blocks of frames, 3 models compared at once"
    )


def test_a_decision_names_the_champion_and_every_class() -> None:
    floors = against(measured(0.5, 0.1, 0.1, noise=0.0), rules={"iou/*": {"floor": 0.2}})
    assert floors.reason == "IoU below register.rules.iou/*.floor, 20.0 %: sky 10.0 %, pole 10.0 %"
    apart = Champion("3", "unet", obstacle="it has other classes")
    for decision, champion in ((floors, CHAMPION), (against(BEFORE), CHAMPION)):
        assert decision.champion is champion
    assert against(measured(0.9, 0.9, 0.9), apart).champion is apart
    reason = against(measured(0.7, 0.6, 0.3, noise=0.0)).reason
    assert re.search(r"road -.*points \(.*\), sky -1", reason) and "XX" not in reason
    assert "; IoU falls" in reason


def test_draws_and_confidence_are_those_of_the_rules() -> None:
    new = measured(0.83, 0.74, 0.36, seed=1)
    few, sure, usual = (
        against(new, **settings).comparison.figures["miou"]
        for settings in ({"resamples": 500}, {"confidence": 0.5}, {})
    )
    assert (few.low, few.high) != (usual.low, usual.high)
    assert sure.high - sure.low < 0.6 * (usual.high - usual.low)


def test_models_of_less_than_a_millisecond_are_compared_as_they_are() -> None:
    champion = replace(CHAMPION, measured=measured(0.8, 0.7, 0.3, ms_per_image=0.1))
    decision = decide(
        gate(), {"miou": 0.5, "per_class": {}}, measured(0.5, 0.5, 0.5, ms_per_image=0.3), champion, compared()
    )
    assert "register.rules.ms_per_image.times" in decision.reason
