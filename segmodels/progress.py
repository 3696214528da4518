"""What a person sees while a model trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Progress of one training run.

    Args:
        name: What is trained.
        epochs: Number of epochs.
        steps: Steps of an epoch.
        first: The epoch with which this process begins, counted from 0.
    """

    def __init__(self, name: str, epochs: int, steps: int, first: int = 0) -> None:
        self.name, self.epochs, self.steps, self.first = name, epochs, steps, first
        self.started = time.monotonic()
        self.bar: Any = None
        if sys.stdout.isatty():
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[loss]}"),
            )
            self.task = self.bar.add_task(name, total=epochs * steps, completed=first * steps, loss="")
            self.bar.start()

    def step(self, epoch: int, batch: int, loss: float | None) -> None:
        """After a step; `loss` may be None where reading it would wait for the device."""
        if self.bar is not None:
            text = "" if loss is None else f"loss {loss:.3f}"
            self.bar.update(
                self.task,
                completed=epoch * self.steps + batch + 1,
                description=f"{self.name} {epoch + 1}/{self.epochs}",
                loss=text,
            )

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        """After an epoch: one line with its losses, its scores and how long the rest will take."""
        done = row["epoch"] - self.first
        left = (time.monotonic() - self.started) / max(done, 1) * (self.epochs - row["epoch"])
        text = f"{self.name} epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}"
        if row["val_miou"] != "":
            text += f"  val loss {row['val_loss']:.4f}  val mIoU {100 * row['val_miou']:.1f} %"
        text += f"  {images_per_second:.1f} img/s  {_clock(left)} left"
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
