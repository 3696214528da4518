"""What a training gives, to be looked at in a notebook or a script."""

from __future__ import annotations

import csv
import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmodels.artifacts.model_folder import HISTORY_FILE, read_config
from segmodels.errors import UserError
from segmodels.tasks import task_info

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

    from segmodels.inference.predictor import Predictor


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        folder: The model folder.
        figures: What the best epoch had on the validation split: `val_` and the key of the task's main figure.
        epoch: The epoch that reached it, counted from 1.
        seconds: Wall time of this process's training.
        images_per_second: Training images per second of this process.
        loading: Share of the training steps' time that went by until their samples were there, 0..1.
    """

    folder: Path
    figures: Mapping[str, float]
    epoch: int
    seconds: float
    images_per_second: float
    loading: float = 0.0

    @property
    def history(self) -> list[dict[str, float]]:
        """A row for each epoch, as `history.csv` has it: `epoch`, `step`, `lr`, `train_loss`, what was validated."""
        with open(self.folder / HISTORY_FILE, newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items() if v not in ("", None)}
            for row in rows
        ]

    def predictor(self, device: str = "auto", **settings: Any) -> Predictor:
        """Return the trained model, ready to predict; keywords are those of `Predictor`."""
        from segmodels.inference.predictor import Predictor

        return Predictor(self.folder, device, **settings)

    def plot(self) -> Plot:
        """Return the losses and the main figure by epoch, as a figure of matplotlib, which notebooks show.

        Raises:
            UserError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure as Plot
        except ImportError:
            raise UserError("plot() draws with matplotlib: pip install 'segmodels[notebook]'") from None
        main, rows = task_info(read_config(self.folder).task).main, self.history
        plot = Plot(figsize=(9, 3.2), layout="constrained")
        losses, quality = plot.subplots(1, 2)
        for column, label in (("train_loss", "training"), ("val_loss", "validation")):
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            losses.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        losses.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        losses.legend(frameon=False)
        key, factor = f"val_{main.key}", 100 if main.unit == "share" else 1
        points = [(row["epoch"], factor * row[key]) for row in rows if key in row]
        quality.plot(*zip(*points, strict=True), marker="o", markersize=3, color="C2")
        quality.axvline(self.epoch, color="0.8", zorder=0)
        unit = "per cent" if main.unit == "share" else main.unit
        quality.set(xlabel="epoch", ylabel=f"{main.label}{f', {unit}' if unit else ''}", ylim=(0, None))
        return plot

    def __str__(self) -> str:
        info = task_info(read_config(self.folder).task)
        return f"{info.told(self.figures)} on the validation split, in epoch {self.epoch}; {self.folder}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the best epoch, and the last rows of the history."""
        rows = self.history
        columns = list(rows[-1])
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        cells = [
            [f"<td>{row[column]:.4g}</td>" if column in row else "<td></td>" for column in columns] for row in rows
        ]
        body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells[-10:])
        return f"<p>{html.escape(str(self))}</p><table><tr>{head}</tr>{body}</table>"
