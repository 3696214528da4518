"""The gate: whether a model may become the challenger, and why not.

Absolute floors come first; below them a model gets no version at all. Above them it is compared with the champion on
the same images: it must be better by more than noise, and it may not pay for that with a class, its boundaries, its
calibration, its speed or its size beyond the limits in `register`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.params import Register
from components.promotion import PASSED
from segmodels.evaluation.compare import Comparison, Difference, compare_all
from segmodels.tasks.semantic.per_image import PerImage


@dataclass(frozen=True)
class Measured:
    """What the gate looks at.

    Attributes:
        each: What every test image counted.
        speed: `parameters`, `ms_per_image`, and the `device` and `threads` of that time.
    """

    each: PerImage
    speed: Mapping[str, Any]


@dataclass(frozen=True)
class Champion:
    """The version in production.

    Attributes:
        version: Its number.
        key: Its key under `models`.
        measured: Its figures on the present images; None where it cannot be compared.
        again: It was evaluated for this comparison, since its own evaluation saw other data.
        obstacle: Why it cannot be compared, a sentence without its end; empty where it can.
    """

    version: str
    key: str
    measured: Measured | None = None
    again: bool = False
    obstacle: str = ""

    def __str__(self) -> str:
        return f"the champion (version {self.version})"


@dataclass(frozen=True)
class Decision:
    """What the gate found.

    Attributes:
        reason: `passed`, or the sentence that says why not.
        above_floors: The model is good enough for a version.
        champion: The version it was compared with; None where there was none.
        comparison: Every figure of both; None where there is no champion, or none to compare with.
    """

    reason: str
    above_floors: bool = True
    champion: Champion | None = None
    comparison: Comparison | None = None

    @property
    def passed(self) -> bool:
        return self.reason == PASSED


def decide(
    settings: Register,
    metrics: Mapping[str, Any],
    new: Measured,
    champion: Champion | None,
    comparison: Comparison | None = None,
) -> Decision:
    """Hold a model against the floors and the champion.

    Args:
        settings: The rules.
        metrics: The model's `metrics.json`.
        new: The model.
        champion: What it is compared with; None where there is no champion yet.
        comparison: With the champion, where several models were compared with it at once; made here by default.
    """
    low = below_floors(settings, metrics)
    if low:
        return Decision(low, above_floors=False, champion=champion)
    if champion is None:
        return Decision(PASSED)
    if champion.measured is None:
        return Decision(champion.obstacle, champion=champion)
    if comparison is None:
        (comparison,) = against(settings, [new], champion.measured)
    objections = [
        *_gain(settings, comparison, champion),
        *_losses(settings, comparison),
        *_costs(settings, new.speed, champion.measured.speed),
    ]
    return Decision("; ".join(objections) or PASSED, champion=champion, comparison=comparison)


def against(settings: Register, new: Sequence[Measured], champion: Measured) -> list[Comparison]:
    """Compare the models of one registration with the champion, at once: the best gains nothing by their number."""
    counts = [one.each for one in new]
    return compare_all(counts, champion.each, resamples=settings.resamples, confidence=settings.confidence)


def below_floors(settings: Register, metrics: Mapping[str, Any]) -> str:
    """Return why a model gets no version; empty where it may have one."""
    miou = metrics["miou"]
    if miou is None or miou < settings.min_miou:
        shown = "undefined" if miou is None else percent(miou)
        return f"mIoU is {shown}, below register.min_miou, {percent(settings.min_miou)}"
    low = {n: iou for n, iou in metrics["per_class"].items() if iou is not None and iou < settings.min_class_iou}
    if low:
        shown = ", ".join(f"{name} {percent(iou)}" for name, iou in low.items())
        return f"IoU below register.min_class_iou, {percent(settings.min_class_iou)}: {shown}"
    return ""


def percent(fraction: float | None) -> str:
    """Return a fraction in per cent; `-` where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """Return a difference in points of per cent, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def interval(difference: Difference, confidence: float) -> str:
    """`+2.1 points (95 % interval +1.0 to +3.3)`."""
    return (
        f"{points(difference.value)} points ({100 * confidence:g} % interval {points(difference.low)} to "
        f"{points(difference.high)})"
    )


def measured_on(comparison: Comparison) -> str:
    """Return `233 images`, with what was drawn where that is no single image, and with the number of models."""
    drawn = f", drawn in {comparison.units} sequences or blocks of frames"
    arms = f", {comparison.arms} models compared at once"
    return (
        f"{comparison.images} images"
        f"{drawn if comparison.units != comparison.images else ''}{arms if comparison.arms != 1 else ''}"
    )


def comparable_times(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Tell whether two milliseconds were taken on the same kind of device with as many threads, of whole predictions.

    Evaluations of earlier releases timed one pass of the network, whatever else a prediction took; they say no
    `prediction`.
    """
    return all(new.get(name) == old.get(name) for name in ("device", "threads")) and (
        ("prediction" in new) == ("prediction" in old)
    )


def _gain(settings: Register, comparison: Comparison, champion: Champion) -> list[str]:
    miou = comparison.miou
    shown = f"mIoU {interval(miou, settings.confidence)}"
    if not miou.significant:
        return [f"no significant difference from {champion} on {measured_on(comparison)}: {shown}"]
    if miou.value < 0:
        return [f"worse than {champion}: {shown}"]
    if miou.value < settings.min_gain:
        return [f"gains less than register.min_gain, {points(settings.min_gain)} points, on {champion}: {shown}"]
    return []


def _losses(settings: Register, comparison: Comparison) -> list[str]:
    """List losses beyond the limits, by the differences themselves: that one may be noise is no reason to ship it."""
    found = []
    lost = {name: d for name, d in comparison.classes.items() if d.value < -settings.max_class_loss}
    if lost:
        shown = ", ".join(f"{name} {interval(d, settings.confidence)}" for name, d in lost.items())
        found.append(
            f"IoU falls by more than register.max_class_loss, {100 * settings.max_class_loss:g} points: {shown}"
        )
    boundary, ece = comparison.boundary_f1, comparison.ece
    if boundary.value < -settings.max_boundary_loss:
        found.append(
            f"boundary F1 falls by more than register.max_boundary_loss, {100 * settings.max_boundary_loss:g} points: "
            f"{interval(boundary, settings.confidence)}"
        )
    if ece.value > settings.max_ece_rise:
        found.append(
            f"ECE rises by more than register.max_ece_rise, {100 * settings.max_ece_rise:g} points: "
            f"{interval(ece, settings.confidence)}"
        )
    return found


def _costs(settings: Register, new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    found = []
    slower = new["ms_per_image"] / max(old["ms_per_image"], 1e-9)
    if comparable_times(new, old) and slower > settings.max_slowdown:
        found.append(
            f"takes {new['ms_per_image']:.1f} ms an image, the champion {old['ms_per_image']:.1f} ms: more than "
            f"register.max_slowdown, {settings.max_slowdown:g} times"
        )
    if new["parameters"] > settings.max_growth * old["parameters"]:
        found.append(
            f"has {new['parameters']:,} parameters, the champion {old['parameters']:,}: more than "
            f"register.max_growth, {settings.max_growth:g} times"
        )
    return found
