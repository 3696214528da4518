"""Writes `report.html`, one page that needs nothing but itself, and `leaderboard.md`."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import StepError
from components.params import Params
from components.report import charts
from components.report.pictures import comparison, gallery
from components.report.rows import Row, read_row
from components.report.training import training_settings
from components.results import read_json
from components.rules import COSTS, gate_rules
from segmodels.data.folder import DatasetInfo, samples
from segmodels.errors import brief
from segmodels.files import write_text
from segmodels.tasks import get_task, task_info
from segmodels.tasks.base import Part, TaskInfo

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report.html.j2"
# Of all confusion matrices together.
CELLS = 20_000
LINEAGE = {
    "git.commit": "Code (git commit)",
    "git.dirty": "Files differ from that commit",
    "dvc.data.md5": "Data (DVC hash)",
    "image.digest": "Container image",
    "dvc.stage": "DVC stage",
    "kfp.run_id": "Kubeflow run",
}


@dataclass(frozen=True)
class ReportResult:
    """What was written, and the best model by the task's main figure."""

    html: Path
    leaderboard: Path
    winner: str
    figure: str

    def __str__(self) -> str:
        return f"{self.html} and {self.leaderboard}; best by {self.figure}: {self.winner}"


def run(
    params: Params,
    *,
    data: Path,
    validation: Path,
    models: Mapping[str, Path],
    evaluations: Mapping[str, Path],
    registered: Path | None,
    out: Path,
) -> ReportResult:
    """Write the report; the same inputs give the same bytes on the same day (or with SOURCE_DATE_EPOCH).

    Args:
        params: The settings.
        data: The dataset folder; the test images are read from it.
        validation: The folder that `validate` wrote.
        models: Key -> model folder.
        evaluations: Key -> folder that `evaluate` wrote.
        registered: `register.json`, or None where nothing was registered.
        out: The folder to write.

    Raises:
        StepError: A result is missing or unreadable.
    """
    register = read_json(registered, "register") if registered is not None else {}
    task = get_task(params.task)
    main = task.info.main
    rows = sorted(
        (read_row(key, models[key], evaluations[key], register) for key in models),
        key=lambda r: (-main.quality(r.metrics[main.key]), r.key),
    )
    info = DatasetInfo.read(data)
    parts = task.parts(info.classes)
    page = _render(
        title=info.name,
        info=info,
        task=task.info,
        parts=parts,
        units=_units(task.info),
        heat=_heat(rows, task.info),
        rows=rows,
        winner=rows[0],
        columns=_columns(rows, task.info),
        charts=_charts(rows, task.info),
        comparison=comparison(data, info, task, parts, rows, evaluations),
        galleries={row.key: gallery(evaluations[row.key], len(rows)) for row in rows},
        cards={row.key: _html(row.card) for row in rows if row.card},
        validation=read_json(validation / "validation.json", "validate"),
        register=register,
        lineage=_lineage(register),
        commands=_commands(rows, models, data, register, task.info),
        gate=_gate(params),
        date=_date(),
        settings=training_settings(params, rows, models),
        confusions=_confusions(rows, len(parts), evaluations),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", page)
    write_text(out / "leaderboard.md", leaderboard(rows, info, task.info, parts))
    return ReportResult(out / "report.html", out / "leaderboard.md", rows[0].key, main.label)


def leaderboard(rows: list[Row], info: DatasetInfo, task: TaskInfo, parts: Sequence[Part]) -> str:
    """Return the leader board as Markdown, one table."""
    head = ["", "architecture", *(figure.column for figure in task.shown), *(part.name for part in parts)]
    head += ["parameters", "GFLOPs", "ms/image", "version"]
    lines = [_table_row(head), _table_row(["---:", "---", *["---:"] * (len(head) - 3), "---"])]
    for rank, row in enumerate(rows, 1):
        metrics, speed = row.metrics, row.speed
        first, *others = (figure.number(metrics[figure.key]) for figure in task.shown)
        cells = [str(rank), row.key, f"**{first}**", *others]
        cells += [task.each.number(metrics["per_class"].get(part.name)) for part in parts]
        cells += [f"{speed['parameters'] / 1e6:.2f} M", f"{speed['gflops']:.2f}", f"{speed['ms_per_image']:.1f}"]
        cells += [", ".join(filter(None, [row.version, *row.aliases])) or "-"]
        lines.append(_table_row(cells))
    first_row = rows[0]
    size = " x ".join(str(side) for side in first_row.speed["image_size"])
    note = (
        f"{info.name}, {first_row.metrics['images']} images of the {first_row.metrics['split']} split, at full "
        f"resolution; {_units(task)}; GFLOPs and ms for one image of {size} on {first_row.speed['device']}."
    )
    return "\n".join(["# Leader board", "", note, "", *lines, ""])


def _units(task: TaskInfo) -> str:
    """Return in which units the task's figures stand in tables."""
    units: dict[str, list[str]] = {}
    for figure in (*task.shown, task.each):
        unit = "per cent" if figure.unit == "share" else figure.unit or "no unit"
        units.setdefault(unit, []).append(figure.label)
    return "; ".join(f"{', '.join(labels)} in {unit}" for unit, labels in units.items())


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction as a number in per cent, `-` where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def _table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _columns(rows: list[Row], task: TaskInfo) -> dict[str, Any]:
    """Return the best value of each column, to set it in bold."""
    best: dict[str, Any] = {}
    for figure in task.shown:
        values = [r.metrics[figure.key] for r in rows if r.metrics[figure.key] is not None]
        best[figure.key] = max(values, key=figure.gain, default=None)
    best |= {name: min(r.speed[name] for r in rows) for name in ("parameters", "gflops", "ms_per_image")}
    return best if len(rows) > 1 else dict.fromkeys(best)


def _heat(rows: list[Row], task: TaskInfo) -> dict[str, dict[str, float]]:
    """Return how much colour each part's figure has in the table, 0..1: a share as it is, others between their ends."""
    each = task.each
    values = [v for row in rows for v in row.metrics["per_class"].values() if v is not None]
    low, high = (0.0, 1.0) if each.unit == "share" else (min(values, default=0.0), max(values, default=1.0))

    def heat(value: float | None) -> float:
        if value is None or high <= low:
            return 0.0
        share = (value - low) / (high - low)
        return share if each.better == "more" else 1 - share

    return {row.key: {name: heat(value) for name, value in row.metrics["per_class"].items()} for row in rows}


def _gate(params: Params) -> dict[str, str]:
    """Return the gate's rules in words: its floors, and what it asks against the champion."""
    info, rules = task_info(params.task), gate_rules(params)
    floors, others = [], []
    for key, rule in rules.items():
        if key in COSTS:
            others += [f"{key} at most {rule.times:g} times"] if rule.times is not None else []
            continue
        figure = info.figure(key)
        label = f"{info.each.label} of each {info.part}" if key.endswith("/*") else figure.label
        least = "at least" if figure.better == "more" else "at most"
        if rule.floor is not None and not (key.endswith("/*") and rule.floor == 0):
            floors.append(f"{label} {least} {figure.show(rule.floor)}")
        step = f" {figure.step}".rstrip()
        if rule.gain is not None:
            others.append(f"{label} better by {figure.number(rule.gain)}{step}, by more than noise")
        if rule.loss is not None:
            others.append(f"{label} no more than {figure.number(rule.loss)}{step} worse")
    return {"floors": "; ".join(floors) or "none", "against": "; ".join(others)}


def _charts(rows: list[Row], task: TaskInfo) -> dict[str, str]:
    main = task.main
    share = main.unit == "share"
    points = [(row.key, float(row.speed["ms_per_image"]), row.metrics[main.key]) for row in rows]
    return {
        "main": charts.curves(
            {row.key: row.curve(f"val_{main.key}") for row in rows},
            title=f"Validation {main.label} by epoch",
            percent=share,
        ),
        "loss": charts.curves(
            {row.key: row.curve("train_loss") for row in rows}, title="Training loss by epoch", percent=False
        ),
        "scatter": charts.scatter(
            [(key, ms, float(value)) for key, ms, value in points if ms > 0 and value is not None],
            title=f"{main.label} against milliseconds per image",
            x_label="milliseconds per image",
            width=charts.WIDTH if len(rows) <= 6 else 2 * charts.WIDTH,
            percent=share,
            more=main.better == "more",
        ),
    }


def _date() -> str:
    """Return today, in UTC; SOURCE_DATE_EPOCH is what makes builds reproducible elsewhere, too."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(seconds), UTC) if seconds.isdigit() else datetime.now(UTC)
    return moment.date().isoformat()


def _confusions(rows: list[Row], parts: int, evaluations: Mapping[str, Path]) -> dict[str, list[list[float]]]:
    """Of each model, from the best on while the page stays small: shares of each true part's pixels, `[K, K]`."""
    shown = max(1, CELLS // parts**2)
    shares = {}
    for row in rows[:shown]:
        path = evaluations[row.key] / "confusion.csv"
        try:
            with path.open(newline="") as file:
                counts = [[float(cell) for cell in line[1:]] for line in list(csv.reader(file))[1:]]
        except (OSError, ValueError) as error:
            raise StepError(f"{path}: cannot be read ({brief(error)}); run `evaluate` again") from None
        shares[row.key] = [[cell / max(sum(line), 1) for cell in line] for line in counts]
    return shares


def _lineage(register: Mapping[str, Any]) -> dict[str, str]:
    """Return what all versions were made from; several values where they differ."""
    of_models = list(register.get("lineage", {}).values())
    facts = {}
    for tag, label in LINEAGE.items():
        values = sorted({tags[tag] for tags in of_models if tags.get(tag, "none") != "none"})
        if values:
            facts[label] = ", ".join(values)
    return facts


def _commands(
    rows: list[Row], models: Mapping[str, Path], data: Path, register: Mapping[str, Any], task: TaskInfo
) -> dict[str, str]:
    """Shell commands that predict with the challenger, else the champion, else the best; a version is served, too."""
    served = next((row for row in rows if row.challenger), None) or next((row for row in rows if row.champion), None)
    key = served.key if served else rows[0].key
    split = str(rows[0].metrics["split"])
    image = shlex.quote(_relative(samples(data, split, task.needs)[0].image))
    form = next(iter(task.forms))
    commands = {
        "predict": "source .venv/bin/activate\n"
        f"segmodels predict --model {shlex.quote(_relative(models[key]))} {image} --out predictions"
    }
    if served:
        uri = shlex.quote(str(register["tracking_uri"]))
        address = shlex.quote(f"models:/{register['model_name']}@{served.aliases[-1]}")
        commands["serve"] = f"source .venv/bin/activate\nexport MLFLOW_TRACKING_URI={uri}\nsegmodels serve {address}"
        commands["ask"] = f"curl -s -F image=@{image} 'http://127.0.0.1:8000/predict?output={form}' -o {form}.png"
    return commands


def _relative(path: Path) -> str:
    """Return a path as one types it in the working directory."""
    path = path.absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()


def _html(markdown: str) -> Markup:
    """Return a model card as HTML, its headings below the page's; HTML in the card is shown, not taken."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = MarkdownIt("js-default", {"linkify": False})
    return Markup(parser.render(markdown.replace("\n### ", "\n#### ")))


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["capital"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["rgb"] = lambda color: "#" + "".join(f"{int(v):02x}" for v in color)
    environment.globals["series_style"] = charts.series_style
    values["charts"] = {name: Markup(svg) for name, svg in values["charts"].items()}
    return environment.get_template(TEMPLATE).render(**values)
