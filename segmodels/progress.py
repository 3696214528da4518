"""What a person sees while something takes long: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

T = TypeVar("T")
# Seconds after which a line is printed where there is no terminal, also while a single step takes longer.
LINE_EVERY = 25.0


class Heartbeat:
    """Prints a line at least every half minute while the body runs, where there is no terminal.

    Args:
        say: Tells how far it is; asked when a line is due.
        stream: Where lines go; where it is a terminal nothing is printed.
    """

    def __init__(self, say: Callable[[], str], stream: TextIO | None = None) -> None:
        self.say, self.stream = say, stream
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, with lines while they are worked on."""
        with self:
            yield from items

    def start(self) -> None:
        """Begin; does nothing in a terminal."""
        self._last = time.monotonic()
        if not (self.stream or sys.stdout).isatty():
            self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no memory for a thread: what is done is worth more than what is said of it
                self._thread = None

    def spoken(self) -> None:
        """Another line was printed: the next one is due later."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End; no line comes afterwards."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(max(0.001, self._last + LINE_EVERY - time.monotonic())):
            if time.monotonic() - self._last >= LINE_EVERY:
                self._last = time.monotonic()
                print(self.say(), file=self.stream or sys.stdout, flush=True)


class Progress:
    """Progress of one training run.

    Args:
        name: What is trained.
        epochs: Number of epochs.
        steps: Steps of an epoch.
        first: The epoch with which this process begins, counted from 0.
        told: Columns of the history that its lines tell: name -> its label, and how a value is shown.
    """

    def __init__(
        self,
        name: str,
        epochs: int,
        steps: int,
        first: int = 0,
        told: Mapping[str, tuple[str, Callable[[float], str]]] | None = None,
    ) -> None:
        self.name, self.epochs, self.steps, self.first, self.told = name, epochs, steps, first, told or {}
        self.started = time.monotonic()
        self.place = f"epoch {first + 1}/{epochs}"
        self.bar: Any = None
        self.heartbeat: Heartbeat | None = None
        if not sys.stdout.isatty():
            self.heartbeat = Heartbeat(lambda: f"{self.name} {self.place}")
            self.heartbeat.start()
            return
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
        text = "" if loss is None else f"loss {loss:.3f}"
        self.place = f"epoch {epoch + 1}/{self.epochs}  step {batch + 1}/{self.steps}  {text}".rstrip()
        if self.bar is not None:
            self.bar.update(
                self.task,
                completed=epoch * self.steps + batch + 1,
                description=f"{self.name} {epoch + 1}/{self.epochs}",
                loss=text,
            )

    def validating(self, epoch: int, batch: int, batches: int) -> None:
        """Before a batch of the validation."""
        self.place = f"epoch {epoch + 1}/{self.epochs}  validation {batch + 1}/{batches}"

    def epoch(self, row: Mapping[str, Any], images_per_second: float) -> None:
        """After an epoch: one line with its losses, its scores and how long the rest will take."""
        done = row["epoch"] - self.first
        left = (time.monotonic() - self.started) / max(done, 1) * (self.epochs - row["epoch"])
        text = f"{self.name} epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}"
        if row["val_loss"] != "":
            text += f"  val loss {row['val_loss']:.4f}"
            text += "".join(f"  {label} {show(row[column])}" for column, (label, show) in self.told.items())
        text += f"  {images_per_second:.1f} img/s  {_clock(left)} left"
        if self.bar is not None:
            self.bar.console.print(text, highlight=False)
        else:
            print(text, flush=True)
        if self.heartbeat is not None:
            self.heartbeat.spoken()

    def close(self) -> None:
        """End the bar and the lines."""
        if self.bar is not None:
            self.bar.stop()
        if self.heartbeat is not None:
            self.heartbeat.stop()


class Stopwatch:
    """How long a loop waits for what it iterates over.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and measure until each is there."""
        iterator = iter(items)
        while True:
            began = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - began
            yield item


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
