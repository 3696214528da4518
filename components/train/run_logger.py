"""A training's run in MLflow, told epoch by epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from components.lineage import Lineage
    from components.params import Params
from components.metric_names import finite
from components.tracking import MODEL_TAG, Run, Store, TrackingError, reason


class RunLogger:
    """Live curves of a training, which never stop it.

    Whatever MLflow answers, the training goes on: the first failure prints one sentence, and `register` completes the
    history later. An epoch that the run already has (a training that was resumed, or repeated with the same result) is
    not logged again; where its values differ it is another training, which gets a run of its own.

        with RunLogger(params, "enet", lineage) as logger:
            logger.log({"train_loss": 0.7, "val_loss": 0.8}, step=epoch)
    """

    def __init__(
        self, params: Params, key: str, lineage: Lineage, *, warn: Callable[[str], None] | None = None
    ) -> None:
        self.params, self.key, self.lineage = params, key, lineage
        self._warn = warn or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
        self._run: Run | None = None
        self._tags: dict[str, str] = {}
        self._away = False

    def log(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Log the metrics of an epoch.

        Args:
            metrics: Name -> value; what is None or not finite is left out.
            step: The epoch, as in `history.csv`.
        """
        values = finite(metrics)
        if self._away or not values:
            return
        try:
            run = self._run or self._open()
            run.reread()  # the same training may run twice
            if run.contradicts(values, step):
                run.set_status("KILLED" if MODEL_TAG not in run.tags else "FINISHED")
                run = run.store.create_run(self.key, self._tags)
            run.log_steps({step: values}, live=True)
            self._run = run
        except Exception as error:  # a training must outlive every failure of its diary
            self._give_up(error)

    def _open(self) -> Run:
        self._tags = self.lineage.tags(self.key)
        store = Store(self.params.register_.experiment, retries=1, timeout=10)
        run = store.only_run(self.key, self._tags, lambda: store.runs(self._tags))
        run.set_status("RUNNING")
        return run

    def _give_up(self, error: Exception) -> None:
        self._away = True
        why = str(error) if isinstance(error, TrackingError) else reason(error)
        self._warn(f"no live curves for {self.key}: {why}; training goes on, and register completes the run later")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None or self._away:
            return
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        try:
            self._run.set_status(status)
        except Exception as failure:
            self._give_up(failure)
