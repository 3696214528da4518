"""The model card: what a person needs who decides about a version, as Markdown in the version's description.

MLflow's UI renders it with Showdown in GitHub's flavour and a sanitiser: tables and headings work, a line break is one,
HTML is dropped, `@name` outside of code becomes a link to a GitHub user, and pictures need an http(s) or relative
address; those of the run's artifacts are relative to the page. A description holds 5000 characters, so that of a model
with many classes shows the worst of them; the whole card is the artifact `card.md` of the run.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from components.promotion import CHALLENGER
from components.register.gate import Decision, Gate, comparable_times, measured_on, percent
from components.register.trained import Trained
from segmodels.catalog.registry import ModelInfo, model_info
from segmodels.evaluation.compare import Difference
from segmodels.tasks.base import Figure, TaskInfo

LONGEST = 5000  # characters of a description
FEWER_CLASSES = (24, 16, 8, 4, 0)
RARE = 0.01  # share of the training pixels below which a class is named as rare
WARNINGS, WORST = 3, 3
KINDS = ("best", "median", "worst")


@dataclass(frozen=True)
class Card:
    """The facts of one version.

    Attributes:
        model: The model with its results.
        decision: What the gate found.
        dataset: The content of `dataset.json`.
        validation: The content of `validation.json`.
        tags: The lineage tags of its run.
        name: The registered model.
        run_id: Its run, which has the pictures.
        version: Its number; None where it got none.
        gate: What the gate asks.
    """

    model: Trained
    decision: Decision
    dataset: Mapping[str, Any]
    validation: Mapping[str, Any]
    tags: Mapping[str, str]
    name: str
    run_id: str
    version: str | None
    gate: Gate

    @property
    def info(self) -> TaskInfo:
        """The task."""
        return self.gate.info

    def description(self) -> str:
        """Return the card as MLflow's UI shows it: with pictures, no longer than a description may be."""
        for classes in (None, *FEWER_CLASSES):
            text = _spaced(self.markdown(pictures=True, classes=classes))
            if len(text) <= LONGEST:
                return text
        return text[: LONGEST - 1] + "…"

    def markdown(self, *, pictures: bool = False, classes: int | None = None) -> str:
        """Return the card.

        Args:
            pictures: With the run's pictures, by addresses relative to MLflow's UI.
            classes: How many classes are listed, the worst; None lists all in their order.
        """
        info = model_info(self.model.config["architecture"])
        sections = [
            [*self._what(info), "", *self._verdict()],
            ["### Against the champion" if self.decision.comparison else "### Figures", "", *self._figures()],
            ["### Classes" if self.info.needs_classes else f"### By {self.info.part}", "", *self._classes(classes)],
            ["### Pictures", "", *self._pictures()] if pictures else [],
            ["### Data", "", *self._data()],
            ["### Limits", "", *self._limits(info)],
            ["### Use", "", *self._use()],
            ["### Lineage", "", *self._lineage()],
        ]
        return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"

    def _what(self, info: ModelInfo) -> list[str]:
        model = self.model
        metrics, main = model.metrics, self.info.main
        keywords = {**model.config["options"], **({"backbone": b} if (b := model.config["backbone"]) else {})}
        built = f", built with {', '.join(f'`{k}={v}`' for k, v in keywords.items())}" if keywords else ""
        venue = info.venue if str(info.year) in info.venue else f"{info.venue} {info.year}"
        address = f" https://arxiv.org/abs/{info.arxiv}" if info.arxiv else ""
        return [
            f"**{_escaped(model.key)}**: {main.label} **{main.show(metrics[main.key])}** on {metrics['images']} "
            f"images of the {metrics['split']} split, at full resolution. Architecture `{info.name}`{built}: "
            f"{_escaped(info.paper)} ({_escaped(info.authors)}, {_escaped(venue)}).{address}"
        ]

    def _verdict(self) -> list[str]:
        champion = self.decision.champion
        if self.decision.passed:
            against = f"better than {champion}" if champion else "no champion yet, so only the floors counted"
            return [f"**Gate: passed** ({against})."]
        return [f"**Gate: not passed.** {_escaped(_capital(self.decision.reason))}."]

    def _figures(self) -> list[str]:
        metrics, speed, comparison = self.model.metrics, self.model.speed, self.decision.comparison
        size = " x ".join(str(side) for side in speed["image_size"])
        if comparison is None or self.decision.champion is None or self.decision.champion.measured is None:
            return [
                *_table("figure", "value"),
                *[f"| {figure.label} | {figure.show(metrics[figure.key])} |" for figure in self.info.shown],
                f"| ms per image of {size} on {speed['device']} | {speed['ms_per_image']:.1f} |",
                f"| parameters | {speed['parameters']:,} |",
            ]
        champion = self.decision.champion
        old = self.decision.champion.measured.speed
        times = f"{speed['ms_per_image'] / max(old['ms_per_image'], 1e-9):.2f} times"
        again = " It was evaluated again for this comparison, since it had seen other data." if champion.again else ""
        interval = f"{100 * self.gate.confidence:g} % interval"
        return [
            f"Version {champion.version} ({_escaped(champion.key)}), on the same {measured_on(comparison)}.{again}"
            + self._best_of(comparison.arms),
            "",
            *_table("figure", "this", "champion", "difference", interval, "more than noise"),
            *[_row(_told(figure), figure, comparison.figures[figure.key]) for figure in self.info.shown],
            f"| ms per image of {size} on {speed['device']} | {speed['ms_per_image']:.1f} | "
            f"{old['ms_per_image']:.1f} | {times if comparable_times(speed, old) else 'other device'} | | |",
            f"| parameters | {speed['parameters']:,} | {old['parameters']:,} | "
            f"{speed['parameters'] / max(old['parameters'], 1):.2f} times | | |",
        ]

    def _best_of(self, arms: int) -> str:
        if arms == 1:
            return ""
        return (
            f" Best of {arms}: as many models were compared with the champion at once, and the interval of "
            f"{self.info.main.label} is wide enough to hold for all of them together."
        )

    def _classes(self, limit: int | None) -> list[str]:
        per_class, each = self.model.metrics["per_class"], self.info.each
        comparison = self.decision.comparison
        share = self.validation.get("class_frequency", {}).get("train", {})
        shown = list(per_class)
        if limit is not None:
            shown = _worst(per_class, each)[:limit]
        head = (self.info.part, _told(each), "share of training pixels")
        against = ("champion", "difference", f"{100 * self.gate.confidence:g} % interval", "more than noise")
        counted = any(name in share for name in per_class)
        lines = _table(*head[:2], *(against if comparison else ()), *(head[2:] if counted else ()))
        for name in shown:
            pixels = f" {percent(share.get(name))} |" if counted else ""
            if comparison:
                lines.append(_row(_escaped(name), each, comparison.figures[f"{each.key}/{name}"]) + pixels)
            else:
                lines.append(f"| {_escaped(name)} | {each.show(per_class[name])} |{pixels}")
        if limit is not None:
            lines += ["", f"The {len(shown)} worst of {len(per_class)}; all stand in the run's `card.md`."]
        return lines

    def _pictures(self) -> list[str]:
        lines = []
        for kind in KINDS:
            for path in sorted((self.model.evaluation / "pictures").glob(f"{kind}-*.png")):
                address = f"get-artifact?path={quote(f'pictures/{path.name}', safe='')}&run_id={self.run_id}"
                lines += [f"{_capital(kind)} image: photo, truth, prediction, error", "", f"![{kind}]({address})", ""]
        return lines[:-1] or ["None."]

    def _data(self) -> list[str]:
        source = self.dataset.get("source", {})
        counts = ", ".join(f"{count} {split}" for split, count in self.validation.get("splits", {}).items())
        licence = source.get("licence") or "not stated"
        lines = [
            f"{_escaped(str(self.dataset['name']))}: {counts} images; licence {_escaped(str(licence))}; DVC hash "
            f"`{self.tags['dvc.data.md5']}`. Validation "
            f"{'passed' if self.validation.get('passed') else 'did not pass'}{self._warned()}"
        ]
        warnings = [_escaped(str(warning["message"])) for warning in self.validation.get("warnings", ())]
        if warnings:
            lines += ["", *(f"- {warning}" for warning in warnings[:WARNINGS])]
        if len(warnings) > WARNINGS:
            lines.append(f"- and {len(warnings) - WARNINGS} more, in the run's `validation/validation.html`")
        return lines

    def _warned(self) -> str:
        count = len(self.validation.get("warnings", ()))
        return f" with {count} warning{'s' if count > 1 else ''}:" if count else " without warnings."

    def _limits(self, info: ModelInfo) -> list[str]:
        per_class, each = self.model.metrics["per_class"], self.info.each
        share = self.validation.get("class_frequency", {}).get("train", {}) if self.info.needs_classes else {}
        rare = [f"{_escaped(n)} ({percent(v)})" for n, v in share.items() if v is not None and v < RARE]
        worst = [f"{_escaped(n)} ({each.show(per_class[n])})" for n in _worst(per_class, each)[:WORST]]
        lines = [f"- Weakest, by {each.label} of each {self.info.part}: {', '.join(worst)}."]
        if rare:
            lines.append(f"- Rare in training, below {percent(RARE)} of the pixels: {', '.join(rare)}.")
        lines.append(
            f"- Trained and tested on {_escaped(str(self.dataset['name']))} alone: other cameras, places, seasons and "
            "weather are not measured here and can be much worse."
        )
        lines.append("- The intervals tell the choice of test images; another training with another seed varies, too.")
        lines += [f"- Differs from the paper: {_escaped(difference)}" for difference in info.differences[:WORST]]
        return lines

    def _use(self) -> list[str]:
        which = f"{self.name}/{self.version}" if self.version else f"{self.name}@{CHALLENGER}"
        return [
            "```python",
            f'model = mlflow.pyfunc.load_model("models:/{which}")',
            f"model.predict(image)                       # uint8 [H, W, 3] -> {next(iter(self.info.forms))}",
            f'model.predict([{{"image": base64_of_a_file}}])  # -> rows with {next(iter(self.info.forms))} (base64), '
            "height, width",
            "```",
            "",
            "```sh",
            f"mlflow models serve -m models:/{which} --env-manager local --port 5001",
            f"segmodels predict photo.jpg --model {self.model.model.as_posix()} --out predictions",
            "```",
        ]

    def _lineage(self) -> list[str]:
        tags = self.tags
        dirty = " (files differed from it)" if tags.get("git.dirty") == "true" else ""
        which = f"{self.name}/{self.version}" if self.version else ""
        lines = [
            f"Code `{tags['git.commit']}`{dirty}, image `{tags['image.digest']}`, settings `{tags['params.hash']}`, "
            f"data `{tags['dvc.data.md5']}`, weights `{self.model.sha256}`."
        ]
        if which:
            lines += ["", f"All of it: `python -m pipeline trace models:/{which}`"]
        return lines


def _spaced(text: str) -> str:
    """Return tables whose columns and ends keep apart: MLflow's UI gives them no margin."""
    lines = [line.replace(" |", "&emsp;|") if line.startswith("| ") else line for line in text.split("\n")]
    return "\n".join(lines).replace("|\n\n### ", "|\n\n&nbsp;\n\n### ")


def _worst(per_class: Mapping[str, float | None], each: Figure) -> list[str]:
    """Return the parts that were measured, the worst first."""
    known = {name: each.gain(value) for name, value in per_class.items() if value is not None}
    return sorted(known, key=lambda name: known[name])


def _told(figure: Figure) -> str:
    return figure.label if figure.better == "more" else f"{figure.label} (less is better)"


def _table(first: str, *others: str) -> list[str]:
    return [f"| {' | '.join((first, *others))} |", f"|---|{'---:|' * len(others)}"]


def _row(name: str, figure: Figure, difference: Difference) -> str:
    shown = f"| {name} | {figure.show(difference.new)} | {figure.show(difference.old)} |"
    if not math.isfinite(difference.value):
        return f"{shown} - | - | - |"
    return (
        f"{shown} {figure.change(difference.value)} | {figure.change(difference.low)} to "
        f"{figure.change(difference.high)} | {'yes' if difference.significant else 'no'} |"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _escaped(text: str) -> str:
    """Return names and sentences without what Markdown or HTML would take for their own."""
    return html.escape(text, quote=False).replace("|", "&#124;").replace("@", "&#64;").replace("\n", " ")
