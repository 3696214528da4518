"""The thread that predicts. It takes what waits, and predicts it with the model that is current at that moment."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from segmodels.artifacts.sources import Fetched, Version
from segmodels.inference.predictor import Precision, Predictor, fast_precision
from segmodels.serving.watch import Watched, watched
from segmodels.tasks.base import Prediction

log = logging.getLogger("segmodels.serving")
# What a network meets first if it has answered nothing and has no size of its own.
TYPICAL_SIZE = (360, 480)
BATCH_ON_GPU = 8
# Failures in a row after which it is tried whether the network or the images are at fault.
FAILURES = 3


class LoadedModel:
    """A version in memory, ready to predict.

    Args:
        version: What it is.
        fetched: Where its files are and how it is used.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` takes the fastest that the hardware has.
    """

    def __init__(self, version: Version, fetched: Fetched, device: str, precision: Precision | str) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen: Any = fast_precision(device) if precision == "auto" else precision
        self.version, self.sha256, self.settings = version, fetched.sha256, fetched.settings
        self.loaded_at = time.time()
        self.predictor = Predictor(fetched.folder, device, precision=chosen, fused=True, settings=fetched.settings)
        self.config = self.predictor.config
        self.watched: Watched | None = watched(version.number, fetched, self.config)

    def warm_up(self, size: tuple[int, int]) -> None:
        """Predict an image of the size (height, width) twice: the first passes choose kernels and take memory."""
        for _ in range(2):
            self.predictor.predict_batch([self.config.bands.blank(size)])


@dataclass(frozen=True)
class Made:
    """What was predicted for a request's images, and the one model that made it all.

    Attributes:
        predictions: One for each image, with confidence only where drift is watched.
        model: What predicted.
    """

    predictions: list[Prediction]
    model: LoadedModel


@dataclass
class _Job:
    images: Sequence[np.ndarray]
    result: Future[Made] = field(default_factory=Future)

    @property
    def size(self) -> tuple[int, ...] | None:
        """The size that all its images have; None where they differ."""
        sizes = {image.shape for image in self.images}
        return sizes.pop() if len(sizes) == 1 else None


class Engine:
    """A queue, and a thread that works it off.

    Images of one size are predicted together, up to `batch` at a time: those of a request, and of several requests
    that arrive within `wait` seconds of each other.

    Args:
        batch: Images in one pass; None is 8 on a GPU, and 1 on a CPU, where batches gain nothing.
        wait: Seconds that the first of a batch waits for others.
        on_batch: Called with the number of images and the seconds of each pass.
    """

    def __init__(
        self, batch: int | None, wait: float, on_batch: Callable[[int, float], None] = lambda count, seconds: None
    ) -> None:
        self._batch, self._wait, self._on_batch = batch, wait, on_batch
        self._model: LoadedModel | None = None
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failures = 0
        self.broken = ""  # why the network fails on every image; empty where it does not
        self.last_size = TYPICAL_SIZE
        self._thread = threading.Thread(target=self._work, name="predict", daemon=True)
        self._thread.start()

    @property
    def model(self) -> LoadedModel | None:
        """The model that predicts what is taken from the queue next."""
        return self._model

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def swap(self, model: LoadedModel) -> None:
        """Make a model the current one; what is being predicted ends with the one before it."""
        self._model = model
        self._failures, self.broken = 0, ""

    def submit(self, images: Sequence[np.ndarray]) -> Future[Made]:
        """Queue the images of a request; cancelling the future takes them out again."""
        job = _Job(images)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """End the thread when the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._take():
            model = self._model  # one for all of them, whatever is swapped meanwhile
            running = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            if not running:
                continue
            try:
                if model is None:
                    raise RuntimeError("no model is loaded")
                made = self._predict(model, [image for job in running for image in job.images])
            except Exception as error:
                if not isinstance(error, RuntimeError):
                    log.exception("a batch failed")
                for job in running:
                    job.result.set_exception(error)
                if model is not None:
                    self._failed(model)
                continue
            self._failures, self.broken = 0, ""
            for job in running:
                count = len(job.images)
                job.result.set_result(Made(made[:count], model))
                made = made[count:]

    def _failed(self, model: LoadedModel) -> None:
        """Count a failure; after several in a row an image of a size that went well tells what is at fault."""
        self._failures += 1
        if self._failures < FAILURES:
            return
        try:
            model.warm_up(self.last_size)
            broken = ""
        except Exception as error:
            broken = str(error).partition("\n")[0][:160] or type(error).__name__
            if not self.broken:
                log.error("the network fails on every image: %s", broken)
        # Images that a sound network cannot take are no reason to end the process, however many come.
        if model is self._model:
            self._failures, self.broken = 0, broken

    def _predict(self, model: LoadedModel, images: Sequence[np.ndarray]) -> list[Prediction]:
        most = self._most(model)
        made: list[Prediction] = []
        while len(made) < len(images):
            group = [images[len(made)]]
            for image in images[len(made) + 1 :]:
                if len(group) >= most or image.shape != group[0].shape:
                    break
                group.append(image)
            start = time.perf_counter()
            if model.watched is not None:
                made += model.predictor.predict_with_confidence(group)
            else:
                made += [Prediction(value) for value in model.predictor.predict_batch(group)]
            self._on_batch(len(group), time.perf_counter() - start)
        height, width = images[-1].shape[:2]
        self.last_size = height, width
        return made

    def _take(self) -> list[_Job]:
        """Return the next job with those that fit into one pass with it; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            taken = [self._jobs.popleft()]
            most = self._most(self._model)
            size = taken[0].size
            deadline = time.monotonic() + self._wait
            while size is not None:
                room = most - sum(len(job.images) for job in taken)
                fitting = next((j for j in self._jobs if len(j.images) <= room and j.size == size), None)
                if fitting is not None:
                    self._jobs.remove(fitting)
                    taken.append(fitting)
                elif room <= 0 or self._closed or not self._changed.wait(deadline - time.monotonic()):
                    break
            return taken

    def _most(self, model: LoadedModel | None) -> int:
        if self._batch is not None:
            return self._batch
        return BATCH_ON_GPU if model is not None and model.predictor.device.type == "cuda" else 1
