"""Follows a target: sees that it means another version, loads that beside the one that serves, and swaps."""

from __future__ import annotations

import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from segmodels.artifacts.sources import Source, SourceError, UnreachableError, Version
from segmodels.catalog.weights import CheckpointError
from segmodels.serving.engine import Engine, LoadedModel
from segmodels.serving.metrics import Metrics

log = logging.getLogger("segmodels.serving")
LONGEST_PAUSE = 300.0  # seconds between two tries to load a version that could not be loaded


class Follower:
    """The thread that keeps an engine's model what its target means.

    A version that cannot be loaded, and a source that is away, leave the model that serves as it is. Where a source is
    away at the start, the version that served last is loaded, if it is still on this machine.

    Args:
        source: Asked every `interval` seconds.
        engine: Whose model is swapped.
        metrics: Where it is counted.
        interval: Seconds between two questions.
        device: `auto`, `cpu` or `cuda`.
        precision: As `LoadedModel`.
    """

    def __init__(
        self, source: Source, engine: Engine, metrics: Metrics, *, interval: float, device: str, precision: str
    ) -> None:
        self._source, self._engine, self._metrics = source, engine, metrics
        self._interval, self._device, self._precision = interval, device, precision
        self._complaint = self._reason = ""
        self._failed: tuple[str, float, float] | None = None  # version's key, when to try again, the pause after that
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    @property
    def trouble(self) -> str:
        """Why there is no model, or it may not be what the target means; empty where all is well."""
        serving = self._engine.model
        if serving is None:
            return self._reason or self._complaint or "the model is being loaded"
        if self._complaint:
            return f"{self._complaint}; version {serving.version.number} is what it meant when it last answered"
        return self._reason

    def start(self) -> None:
        """Start to follow; the first model is loaded at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop following; a version that is being loaded is waited for, but not for long."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception:  # the server must outlive whatever a registry answers
                log.exception("following the model failed; trying again")
            self._stop.wait(self._interval)

    def _follow(self) -> None:
        version = self._latest()
        if version is None or not self._due(version):
            return
        try:
            # libgomp keeps helpers for every thread that ever computed, and where they outnumber the cores, they sleep
            # between operations in place of waiting actively. This thread's helpers end with it.
            with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
                model = loader.submit(self._load, version).result()
        except (SourceError, CheckpointError, RuntimeError, OSError, TypeError, ValueError) as error:
            self._give_up(version, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return
        current = self._latest()
        if current is not None and current.key != version.key:
            return  # it moved on while this one was loaded; the next round loads what it means now
        self._swap(model)
        gc.collect()  # the model before is in no use, and a large part of the memory

    def _latest(self) -> Version | None:
        try:
            version = self._source.latest()
        except SourceError as error:
            self._metrics.reachable.set(0)
            away = self._engine.model is None and isinstance(error, UnreachableError)
            kept = self._source.remembered() if away else None
            self._complain(str(error), kept)
            return kept
        self._metrics.reachable.set(1)
        self._complaint = ""
        return version

    def _due(self, version: Version) -> bool:
        serving = self._engine.model
        if serving is not None and serving.version.key == version.key:
            self._failed, self._reason = None, ""
            return False
        return self._failed is None or self._failed[0] != version.key or time.monotonic() >= self._failed[1]

    def _load(self, version: Version) -> LoadedModel:
        log.info("loading %s version %s", version.name, version.number)
        start = time.perf_counter()
        model = LoadedModel(version, self._source.fetch(version), self._device, self._precision)
        model.warm_up(self._engine.last_size)
        seconds = time.perf_counter() - start
        where = f"{model.predictor.device}, precision {model.predictor.precision}"
        log.info("loaded %s version %s in %.1f s (%s)", version.name, version.number, seconds, where)
        return model

    def _swap(self, model: LoadedModel) -> None:
        before = self._engine.model
        self._engine.swap(model)
        self._failed, self._reason = None, ""
        self._source.remember(model.version)
        self._metrics.model.clear()
        told = (model.version.name, model.version.number, model.sha256, model.config.architecture)
        self._metrics.model.labels(*told).set(1)
        if before is not None:
            self._metrics.swaps.inc()
            log.info("%s: version %s replaces %s", model.version.name, model.version.number, before.version.number)

    def _give_up(self, version: Version, reason: str) -> None:
        self._metrics.failures.inc()
        again = self._failed is not None and self._failed[0] == version.key
        pause = min(LONGEST_PAUSE, 2 * self._failed[2] if again and self._failed else self._interval)
        self._failed = version.key, time.monotonic() + pause, pause
        serving = self._engine.model
        rest = f"version {serving.version.number} goes on serving" if serving else "there is nothing to serve"
        log.error("%s version %s cannot be loaded: %s; %s", version.name, version.number, reason, rest)
        self._reason = reason

    def _complain(self, sentence: str, kept: Version | None) -> None:
        """Say once what is the matter, not at every question."""
        if sentence != self._complaint:
            serving = self._engine.model
            rest = f"version {serving.version.number} goes on serving" if serving else "trying again"
            if kept is not None:
                rest = f"starting with version {kept.number}, which served last"
            log.warning("%s; %s", sentence, rest)
            self._complaint = sentence
