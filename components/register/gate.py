"""The gate: whether a model may become the challenger, and why not.

Absolute floors come first; below them a model gets no version at all. Above them it is compared with the champion on
the same images: in the task's main figure it must be better by more than noise, and it may not pay for that with
another figure, a class, its speed or its size beyond the limits in `register.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.params import Params
from components.promotion import PASSED
from components.rules import COSTS, Rule, gate_rules
from segmodels.evaluation.compare import Comparison, Difference, compare_all
from segmodels.tasks import task_info
from segmodels.tasks.base import Figure, TaskInfo
from segmodels.tasks.per_image import PerImage


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
class Gate:
    """What the gate asks.

    Attributes:
        info: The task, whose figures it asks for.
        rules: Figure or cost -> rule.
        confidence: Of the intervals; a difference inside them is noise.
        resamples: Draws of the bootstrap over images.
    """

    info: TaskInfo
    rules: Mapping[str, Rule]
    confidence: float = 0.95
    resamples: int = 2000

    @classmethod
    def of(cls, params: Params) -> Gate:
        """Return the gate of these settings."""
        own = params.register_
        return cls(task_info(params.task), gate_rules(params), own.confidence, own.resamples)


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
    gate: Gate,
    metrics: Mapping[str, Any],
    new: Measured,
    champion: Champion | None,
    comparison: Comparison | None = None,
) -> Decision:
    """Hold a model against the floors and the champion.

    Args:
        gate: The rules.
        metrics: The model's `metrics.json`.
        new: The model.
        champion: What it is compared with; None where there is no champion yet.
        comparison: With the champion, where several models were compared with it at once; made here by default.
    """
    low = below_floors(gate, metrics)
    if low:
        return Decision(low, above_floors=False, champion=champion)
    if champion is None:
        return Decision(PASSED)
    if champion.measured is None:
        return Decision(champion.obstacle, champion=champion)
    if comparison is None:
        (comparison,) = against(gate, [new], champion.measured)
    objections = [
        *_gains(gate, comparison, champion),
        *_losses(gate, comparison),
        *_costs(gate, new.speed, champion.measured.speed),
    ]
    return Decision("; ".join(objections) or PASSED, champion=champion, comparison=comparison)


def against(gate: Gate, new: Sequence[Measured], champion: Measured) -> list[Comparison]:
    """Compare the models of one registration with the champion, at once: the best gains nothing by their number."""
    return compare_all([one.each for one in new], champion.each, resamples=gate.resamples, confidence=gate.confidence)


def below_floors(gate: Gate, metrics: Mapping[str, Any]) -> str:
    """Return why a model gets no version; empty where it may have one."""
    for key, rule in gate.rules.items():
        if rule.floor is None or key in COSTS:
            continue
        figure = gate.info.figure(key)
        where = f"register.rules.{key}.floor, {figure.show(rule.floor)}"
        side = "below" if figure.better == "more" else "above"
        if "/" not in key:
            value = metrics[key]
            if value is None:
                return f"{figure.label} is undefined, and {where} asks for it"
            if figure.gain(value - rule.floor) < 0:
                return f"{figure.label} is {figure.show(value)}, {side} {where}"
            continue
        values = {f"{gate.info.each.key}/{name}": value for name, value in metrics["per_class"].items()}
        low = {
            name.partition("/")[2]: value
            for name, value in _of(gate, key, values).items()
            if value is not None and figure.gain(value - rule.floor) < 0
        }
        if low:
            shown = ", ".join(f"{name} {figure.show(value)}" for name, value in low.items())
            return f"{gate.info.each.label} {side} {where}: {shown}"
    return ""


def percent(fraction: float | None) -> str:
    """Return a fraction in per cent; `-` where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def interval(figure: Figure, difference: Difference, confidence: float) -> str:
    """`+2.1 points (95 % interval +1.0 to +3.3)`."""
    step = f" {figure.step}" if figure.step else ""
    return (
        f"{figure.change(difference.value)}{step} ({100 * confidence:g} % interval {figure.change(difference.low)} to "
        f"{figure.change(difference.high)})"
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


def _of(gate: Gate, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rule is about: one figure, or with `/*` those of all parts that have no rule of their own."""
    if not key.endswith("/*"):
        return {key: values[key]} if key in values else {}
    prefix = key[:-1]
    return {name: value for name, value in values.items() if name.startswith(prefix) and name not in gate.rules}


def _amount(figure: Figure, value: float) -> str:
    """Return the size of a difference with its unit: `0.5 points`."""
    number = f"{100 * value:g}" if figure.unit == "share" else f"{value:g}"
    return f"{number} {figure.step}".rstrip()


def _gains(gate: Gate, comparison: Comparison, champion: Champion) -> list[str]:
    """List what is not better by enough; the main figure must be better in any case, by more than noise."""
    main = gate.info.main
    asked = {main.key: Rule(gain=0.0), **{key: rule for key, rule in gate.rules.items() if rule.gain is not None}}
    reasons = []
    for key, rule in asked.items():
        for name, difference in _of(gate, key, comparison.figures).items():
            figure = gate.info.figure(name)
            shown = f"{figure.label} {interval(figure, difference, gate.confidence)}"
            gained = figure.gain(difference.value)
            if not difference.significant:
                reasons.append(f"no significant difference from {champion} on {measured_on(comparison)}: {shown}")
            elif gained < 0:
                reasons.append(f"worse than {champion}: {shown}")
            elif gained < (rule.gain or 0.0):
                least = _amount(figure, rule.gain or 0.0)
                reasons.append(f"gains less than register.rules.{key}.gain, {least}, on {champion}: {shown}")
    return reasons


def _losses(gate: Gate, comparison: Comparison) -> list[str]:
    """List losses beyond the limits, by the differences themselves: that one may be noise is no reason to ship it."""
    reasons = []
    for key, rule in gate.rules.items():
        if rule.loss is None:
            continue
        figure = gate.info.figure(key)
        lost = {name: d for name, d in _of(gate, key, comparison.figures).items() if figure.gain(d.value) < -rule.loss}
        if not lost:
            continue
        what = gate.info.each.label if "/" in key else figure.label
        verb = "falls" if figure.better == "more" else "rises"
        limit = f"register.rules.{key}.loss, {_amount(figure, rule.loss)}"
        shown = ", ".join(
            (f"{name.partition('/')[2]} " if "/" in key else "") + interval(figure, d, gate.confidence)
            for name, d in lost.items()
        )
        reasons.append(f"{what} {verb} by more than {limit}: {shown}")
    return reasons


def _costs(gate: Gate, new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    reasons = []
    time, size = (gate.rules.get(key, Rule()).times for key in COSTS)
    slower = new["ms_per_image"] / max(old["ms_per_image"], 1e-9)
    if time is not None and comparable_times(new, old) and slower > time:
        reasons.append(
            f"takes {new['ms_per_image']:.1f} ms an image, the champion {old['ms_per_image']:.1f} ms: more than "
            f"register.rules.ms_per_image.times, {time:g}"
        )
    if size is not None and new["parameters"] > size * old["parameters"]:
        reasons.append(
            f"has {new['parameters']:,} parameters, the champion {old['parameters']:,}: more than "
            f"register.rules.parameters.times, {size:g}"
        )
    return reasons
