"""Predictions for files: each input's results are written whole or not at all.

Inputs and results may lie in an object store: they pass through a temporary folder, one at a time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from segmodels.data.bands import view
from segmodels.data.folder import DatasetError
from segmodels.inference import rasters
from segmodels.inference.inputs import Input, Job, Model
from segmodels.inference.videos import predict_video
from segmodels.tasks.pictures import JPEG_QUALITY, MARK, save


@dataclass
class Outcome:
    """What became of the inputs: how many were written and left as they were, and a sentence for each that failed."""

    written: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)


def run(
    jobs: Sequence[Job],
    model: Model,
    *,
    overwrite: bool = False,
    alpha: float = 0.5,
    window: tuple[int, int] = rasters.WINDOW,
    on_frame: Callable[[Job], None] = lambda job: None,
    on_done: Callable[[Job], None] = lambda job: None,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Outcome:
    """Predict every input; one that cannot be read does not stop the others.

    Args:
        jobs: From `plan`.
        model: What predicts.
        overwrite: Computes also what exists.
        alpha: How much of the colours is seen in overlays, 0..1.
        window: (height, width) in which rasters are predicted.
        on_frame: Called after each frame of a video and each window of a raster.
        on_done: Called after each input, whatever became of it.
        on_problem: Called with the sentence about an input that failed.
    """
    outcome = Outcome()
    for job in jobs:
        try:
            if job.done and not overwrite:
                outcome.skipped += 1
            else:
                with _staged(job) as here:
                    _predict(here, model, alpha, window, on_frame)
                outcome.written += 1
        except DatasetError as error:
            outcome.problems.append(str(error))
            on_problem(str(error))
        except RuntimeError as error:  # torch: not enough memory, an image smaller than the network takes
            problem = (
                f"{job.input.shown}: the network failed ({str(error).splitlines()[0]}); --window takes less memory"
            )
            outcome.problems.append(problem)
            on_problem(problem)
        on_done(job)
    return outcome


def _predict_image(job: Job, model: Model, alpha: float) -> None:
    image = model.config.bands.read(job.input.path)
    value = model.predict(image)
    palette = model.config.palette
    if job.masks is not None:
        model.task.write(value, palette, job.masks)
    if job.overlay is not None:
        picture = Image.fromarray(model.task.overlay(view(image), value, palette, alpha))
        save(picture, job.overlay, "JPEG", quality=JPEG_QUALITY, comment=MARK)


def _predict(job: Job, model: Model, alpha: float, window: tuple[int, int], on_frame: Callable[[Job], None]) -> None:
    """Predict what lies on this machine, to this machine."""
    _parent(job)
    if job.input.kind == "image":
        _predict_image(job, model, alpha)
    elif job.input.kind == "video":
        predict_video(job, model, alpha, on_frame)
    else:
        rasters.predict_raster(
            job.input.path,
            model.maps,
            model.task,
            model.config.palette,
            masks=job.masks,
            overlays=job.overlay,
            bands=model.config.bands,
            window=window,
            alpha=alpha,
            model=model.fingerprint(),
            names=model.config.part_names,
            on_window=lambda: on_frame(job),
        )


@contextlib.contextmanager
def _staged(job: Job) -> Iterator[Job]:
    """Give the job with all its files on this machine; leaving it stores what was written."""
    source, store = job.input, job.store
    if source.store is None and store is None:
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="segmodels-") as held:
        path = source.path
        if source.store is not None:
            path = Path(held, source.place.name)
            source.store.fetch(source.path.as_posix(), path)
        local = {p: Path(held, "results", p.name) if store else p for p in (job.masks, job.overlay) if p is not None}
        try:
            yield Job(
                Input(path, source.place, source.kind),
                local[job.masks] if job.masks is not None else None,
                local[job.overlay] if job.overlay is not None else None,
            )
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(path), source.shown)) from None
        if store is not None:
            for name, result in local.items():
                store.put(result, name.as_posix())


def _parent(job: Job) -> None:
    for path in (job.masks, job.overlay):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
