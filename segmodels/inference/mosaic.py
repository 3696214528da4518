"""Windows over rasters of any size, blended where they overlap, in bounded memory; what was computed survives a stop.

Windows begin at multiples of 32 pixels, so that a network's grid of features lies the same in all of them, and overlap
by a quarter or more of their side. There, maps are averaged with Gaussian weights about the windows' centres (Isensee
et al., nnU-Net, 2021: a spread of an eighth of the window). A row of windows keeps its lower overlap in a file, not in
memory, and ends in a file of its own; a run that was stopped goes on with the first row that is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GRID = 32  # pixels: the largest stride of a network's features
SPREAD = 1 / 8  # standard deviation of the weights, of a window's side
JOB_FILE = "job.json"


@dataclass(frozen=True)
class Side:
    """One side of a raster, and the windows along it.

    Attributes:
        length: Pixels of the raster.
        window: Pixels of a window; the last one ends with the raster and may be shorter.
    """

    length: int
    window: int

    @property
    def stride(self) -> int:
        """Pixels from window to window."""
        step = max(1, self.window * 3 // 4)
        whole = step - step % GRID
        return whole if 2 * whole >= self.window else step  # no three windows overlap

    @property
    def overlap(self) -> int:
        """Pixels that a window shares with the next one."""
        return self.window - self.stride

    @property
    def count(self) -> int:
        """Number of windows."""
        return 1 if self.window >= self.length else -(-(self.length - self.overlap) // self.stride)

    def span(self, index: int) -> tuple[int, int]:
        """Return the first pixel of a window, and the one behind its last."""
        start = index * self.stride
        return start, self.length if index == self.count - 1 else start + self.window

    def final(self, index: int) -> int:
        """Return how many of a window's pixels no later window covers: its first ones."""
        start, stop = self.span(index)
        return stop - start if index == self.count - 1 else self.stride

    def weights(self, index: int) -> np.ndarray:
        """Return the share of each of a window's pixels in the average, float32; those of all windows sum to 1."""
        start, stop = self.span(index)
        shares = np.ones(stop - start, np.float32)
        places = (np.arange(self.overlap) + 0.5 - self.window / 2) / (SPREAD * self.window)
        leading = np.exp(-0.5 * places**2)  # of a window in the overlap with the one before
        rising = leading / (leading + leading[::-1])
        if index:
            shares[: self.overlap] = rising
        if index < self.count - 1:
            shares[-self.overlap :] = rising[::-1]
        return shares


Window = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass
class Mosaic:
    """The windows of a raster, and the folder that holds what is done.

    Attributes:
        rows: The raster's height and its windows.
        columns: Its width and its windows.
        folder: Where rows of windows are kept.
        job: What decides the result; a folder of another job is emptied.
    """

    rows: Side
    columns: Side
    folder: Path
    job: Mapping[str, Any]

    def begin(self) -> None:
        """Take over the folder of the same job, or begin anew."""
        told = json.dumps({**self.job, "windows": [self.rows.window, self.columns.window]}, sort_keys=True)
        file = self.folder / JOB_FILE
        if not file.is_file() or file.read_text() != told:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            file.write_text(told)

    def run(
        self,
        maps: Callable[[Window], np.ndarray | None],
        keep: Callable[[int, Iterator[tuple[Window, np.ndarray | None]], Path], None],
        on_window: Callable[[], None] = lambda: None,
    ) -> None:
        """Compute what is missing, row by row.

        Args:
            maps: Gives float32 `[C, h, w]` of a window, or None where there is nothing to predict.
            keep: Writes a row of windows to a file, from the number of the row and its blocks from left to right: the
                place of each and its blended maps, or None where no window saw anything.
            on_window: Called after each window.
        """
        for row in range(self.rows.count):
            if not self.file(row).exists():
                part = self.file(row).with_suffix(".part.tif")
                keep(row, self._blocks(row, maps, on_window), part)
                part.rename(self.file(row))
            self._overlap(row).unlink(missing_ok=True)

    def file(self, row: int) -> Path:
        """Return the file of a row of windows."""
        return self.folder / f"row-{row:06}.tif"

    def extent(self, row: int) -> tuple[int, int]:
        """Return the first pixel of a row of windows, and the one behind its last, as its file holds them."""
        top = self.rows.span(row)[0]
        return top, top + self.rows.final(row)

    def rows_of(self, top: int, bottom: int) -> range:
        """Return the rows of windows whose files hold these lines."""
        last = self.rows.count - 1
        return range(min(top // self.rows.stride, last), min((bottom - 1) // self.rows.stride, last) + 1)

    def _overlap(self, row: int) -> Path:
        """Return the file of what the row before adds to the first lines of a row."""
        return self.folder / f"overlap-{row:06}.raw"

    def _blocks(
        self, row: int, maps: Callable[[Window], np.ndarray | None], on_window: Callable[[], None]
    ) -> Iterator[tuple[Window, np.ndarray | None]]:
        (top, bottom), below = self.rows.span(row), self.rows.final(row)
        down = self.rows.weights(row)[:, None]
        above = self._overlap(row).open("rb") if row else None
        following = self._overlap(row + 1).open("wb") if row < self.rows.count - 1 else None
        carried: np.ndarray | None = None
        try:
            for column in range(self.columns.count):
                left, right = self.columns.span(column)
                width = self.columns.final(column)
                seen = maps((top, left, bottom, right))
                block: np.ndarray | None = None
                if seen is not None:
                    # The last map is the sum of the weights: what no window saw has none.
                    block = np.concatenate([seen, np.ones((1, *seen.shape[1:]), np.float32)])
                    block *= down * self.columns.weights(column)
                if carried is not None:
                    block = _added(block, carried, (bottom - top, right - left))
                carried = None if block is None or width == right - left else block[..., width:].copy()
                block = None if block is None else block[..., :width]
                if above is not None and (stored := _load(above)) is not None:
                    block = _added(block, stored, (bottom - top, width))
                if following is not None:
                    _store(following, None if block is None else block[:, below:])
                done = None if block is None else _mean(block[:, :below])
                yield (top, left, top + below, left + width), done
                on_window()
        finally:
            for file in (above, following):
                if file is not None:
                    file.close()


def _added(block: np.ndarray | None, stored: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Add what is stored to the upper left corner of a block; to nothing, where there is no block."""
    if block is None:
        block = np.zeros((len(stored), *size), np.float32)
    block[:, : stored.shape[1], : stored.shape[2]] += stored
    return block


def _mean(block: np.ndarray) -> np.ndarray:
    """Return weighted sums over the sum of their weights, which is the last map."""
    mean: np.ndarray = block[:-1] / np.maximum(block[-1:], np.float32(1e-6))
    return mean


def _store(file: Any, values: np.ndarray | None) -> None:
    shape = np.array(values.shape if values is not None else (0, 0, 0), np.int64)
    file.write(shape.tobytes())
    if values is not None:
        file.write(values.astype(np.float16).tobytes())


def _load(file: Any) -> np.ndarray | None:
    shape = tuple(int(side) for side in np.frombuffer(file.read(24), np.int64))
    if not shape[0]:
        return None
    values = np.frombuffer(file.read(2 * int(np.prod(shape))), np.float16)
    return values.reshape(shape).astype(np.float32)
