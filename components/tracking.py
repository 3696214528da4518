"""The MLflow run of a model, found by its key.

A run belongs to (architecture, hash of its settings, hash of its data): a step that is repeated or resumed goes on with
the same run and nothing doubles. `train` logs live curves through `RunLogger`, which never stops a training;
`register` completes the run and makes versions through `Store`.

MLflow has neither locks nor requests that create something unless it is there. Two processes that do the same at the
same moment are settled afterwards: who finds that another was there, too, withdraws what it has made itself. That also
settles requests that are repeated because the answer, and only the answer, was lost.

The default store is `mlflow.db` with `mlartifacts/` in the working directory; `MLFLOW_TRACKING_URI` points elsewhere.
mlflow is imported where it is first used: it costs seconds.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from components.lock import project_folder
from segmodels.files import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from components.metric_names import mlflow_names

KEY_TAGS = ("architecture", "params.hash", "dvc.data.md5")
MODEL_TAG = "model.sha256"
# Without it `mlflow ui` guesses from what an experiment holds, and opens a new one under GenAI traces.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
SETTLING = "settling"  # of a run that its creator may yet delete
BATCH = 100  # what one request of MLflow takes
WITHDRAWALS = 3  # tries of a deletion that another process may be making at the same moment
TRIES = 5  # of a request that another process's made fail
PAUSE = (0.5, 2.0)  # seconds between them: long after the other has done what it was about to do
# With an S3 store MLflow sends its clients there for large files, by addresses that often it alone can reach.
THROUGH_MLFLOW = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}


class TrackingError(Exception):
    """MLflow does not answer, or refuses; one sentence."""


def tracking_uri(cwd: Path | None = None, env: Mapping[str, str] = os.environ) -> str:
    """`MLFLOW_TRACKING_URI`, or the address of the default store."""
    return env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_folder(cwd) / 'mlflow.db'}"


def existing_store() -> Store:
    """Return the store, for who only looks at registered versions.

    Raises:
        TrackingError: It does not exist, or MLflow does not answer.
    """
    uri = tracking_uri()
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.is_file():
        raise TrackingError(f"{path}: no such store; `register` writes it, or set MLFLOW_TRACKING_URI")
    return Store(None)


def public_uri(uri: str, cwd: Path | None = None) -> str:
    """Return an address that may be shown: without password, the default store relative to the working directory."""
    here = (cwd or Path.cwd()).resolve()
    if uri == f"sqlite:///{here / 'mlflow.db'}":
        return "sqlite:///mlflow.db"
    parts = urlsplit(uri)
    if parts.scheme == "sqlite" or "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Store:
    """One experiment in MLflow.

    Args:
        experiment: Its name; created where it does not exist. None for who only looks at registered versions.
        retries: How often a request to a server is repeated, unless `MLFLOW_HTTP_REQUEST_MAX_RETRIES` is set.
        timeout: Seconds a request may take, unless `MLFLOW_HTTP_REQUEST_TIMEOUT` is set.

    Raises:
        TrackingError: MLflow does not answer; found out within seconds.
    """

    def __init__(self, experiment: str | None, *, retries: int = 3, timeout: int = 60) -> None:
        self.uri = tracking_uri()
        self._patience = {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        }
        with _one_at_a_time(self.uri):
            with self._calling(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="5"):
                mlflow = _import_mlflow()
                self.client: MlflowClient = mlflow.MlflowClient(self.uri)
                self.client.search_experiments(max_results=1)
            if experiment is not None:
                with self.calling():
                    self.experiment_id = self._experiment_id(experiment)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Where MLflow is called: with this store's address and patience; its errors become `TrackingError`."""
        with self._calling(**self._patience):
            yield

    @contextmanager
    def _calling(self, **patience: str) -> Iterator[None]:
        wanted = {k: v for k, v in patience.items() if k not in os.environ} | {"MLFLOW_TRACKING_URI": self.uri}
        with _environment(wanted):
            try:
                yield
            except _mlflow_errors() as error:
                raise TrackingError(reason(error)) from error

    def write(self, request: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """Send a request that may be repeated: of two that insert the same row at once, MLflow refuses one."""
        with self.calling():
            for _ in range(TRIES - 1):
                try:
                    request(*arguments, **named)
                    return
                except _mlflow_errors() as error:
                    if not re.search("unique|duplicate", str(error), re.IGNORECASE):
                        raise
                time.sleep(random.uniform(*PAUSE))
            request(*arguments, **named)

    def _withdraw(self, request: Callable[..., object], *arguments: str) -> None:
        """Delete what may be gone already, or is being deleted by another process."""
        for attempt in range(WITHDRAWALS):
            try:
                request(*arguments)
                return
            except _mlflow_errors() as error:
                if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                    return
                if attempt + 1 == WITHDRAWALS:
                    raise
                time.sleep(0.5)

    def _experiment_id(self, experiment: str) -> str:
        entity = self.client.get_experiment_by_name(experiment)
        if entity is None:
            try:
                return str(
                    self.client.create_experiment(experiment, artifact_location=self._artifacts(), tags=EXPERIMENT_TAGS)
                )
            except _mlflow_errors():
                entity = self.client.get_experiment_by_name(experiment)  # another process was faster
                if entity is None:
                    raise
        if entity.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment '{experiment}' was deleted; restore it with `mlflow experiments restore "
                f"--experiment-id {entity.experiment_id}` or set another register.experiment"
            )
        for tag, value in EXPERIMENT_TAGS.items():
            if tag not in entity.tags:  # of an earlier release, or made by hand; what a person chose stays
                self.client.set_experiment_tag(entity.experiment_id, tag, value)
        return str(entity.experiment_id)

    def _artifacts(self) -> str | None:
        """Return the artifact folder beside an SQLite file; a server knows its own."""
        if not self.uri.startswith("sqlite:///"):
            return None
        return (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()

    def runs(self, tags: Mapping[str, str]) -> list[Run]:
        """Return the runs of a key, the newest first."""
        key = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in KEY_TAGS)
        with self.calling():
            entities = self.client.search_runs([self.experiment_id], key, order_by=["attributes.start_time DESC"])
        return [self._run(run) for run in entities]

    def create_run(self, name: str, tags: Mapping[str, str]) -> Run:
        """Return a new run with its tags."""
        with self.calling():
            return self._run(
                self.client.create_run(self.experiment_id, run_name=name, tags={**tags, "mlflow.source.type": "JOB"})
            )

    def _run(self, run: Any) -> Run:
        return Run(self, run.info.run_id, dict(run.data.tags), dict(run.data.params), int(run.info.start_time))

    def only_run(self, name: str, tags: Mapping[str, str], search: Callable[[], list[Run]]) -> Run:
        """Return the first run that is found, or a new one, of which there is one however many processes ask at once.

        Whoever creates a run looks again, and deletes its own and begins again where there is another. Of two that
        create at the same moment at least the later one sees both, and who keeps a run has seen no other: it is the
        only one. Until then the run has a tag, so that nobody goes on with one that is about to be deleted.

        Args:
            name: What a new run is called.
            tags: Its tags.
            search: Looks for the runs that would do; a new one is among them.
        """
        attempt = 0
        while True:
            runs = search()
            settled = [run for run in runs if SETTLING not in run.tags]
            if settled:
                return settled[0]
            if runs and attempt >= TRIES:  # its creator was killed before it could decide
                return self._settled(runs[0])
            if not runs:
                made = self.create_run(name, {**tags, SETTLING: "true"})
                if all(run.id == made.id for run in search()):
                    return self._settled(made)
                with self.calling():
                    self.client.delete_run(made.id)
            # At random, since two that have seen each other have both yielded.
            time.sleep(random.uniform(*PAUSE))
            attempt += 1

    def _settled(self, run: Run) -> Run:
        with self.calling():
            self._withdraw(self.client.delete_tag, run.id, SETTLING)
        del run.tags[SETTLING]
        return run

    def run_of(
        self, name: str, tags: Mapping[str, str], model_sha256: str, history: Mapping[int, Mapping[str, float]]
    ) -> Run:
        """Return the run of a trained model, or a new one.

        Args:
            name: What a new run is called.
            tags: Lineage tags; `KEY_TAGS` among them find the run.
            model_sha256: Hash of the weights. A run that holds other weights or another history (the code changed,
                the settings did not) is left as it is.
            history: Epoch -> metrics.
        """

        def matching() -> list[Run]:
            runs = self.runs(tags)
            same = [run for run in runs if run.tags.get(MODEL_TAG) == model_sha256]
            return same or [
                run
                for run in runs
                if MODEL_TAG not in run.tags and not any(run.contradicts(row, step) for step, row in history.items())
            ]

        return self.only_run(name, tags, matching)

    def log_model(self, run: Run, **arguments: Any) -> str:
        """Log a pyfunc model (`mlflow.pyfunc.log_model`) once per run and give its address, `models:/<id>`."""
        with self.calling():
            models = self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run.id}'")
            ready = [m for m in models if m.status == "READY"]
            if ready:
                return f"models:/{ready[0].model_id}"
            mlflow = _import_mlflow()
            # MLflow advises type hints that only fit rows, not arrays; a filter would be overruled by its own.
            with (
                warnings.catch_warnings(record=True),
                _no_bytecode(),
                mlflow.start_run(run_id=run.id, log_system_metrics=False),
            ):
                return str(mlflow.pyfunc.log_model(**arguments).model_uri)

    def version(self, name: str, run: Run, model_sha256: str) -> ModelVersion | None:
        """Return the registered version of a run's weights, if there is one; the first while it is being settled."""
        return next(iter(self._versions(name, run, model_sha256)), None)

    def _versions(self, name: str, run: Run, model_sha256: str) -> list[ModelVersion]:
        with self.calling():
            versions = self.client.search_model_versions(f"name = '{name}' and run_id = '{run.id}'")
        return sorted((v for v in versions if v.tags.get(MODEL_TAG) == model_sha256), key=lambda v: int(v.version))

    def create_version(self, name: str, run: Run, source: str, *, tags: Mapping[str, str]) -> ModelVersion:
        """Return the version of a run's weights, of which there is one however many processes create it at once.

        Numbers are given by the server, each after the one before it is written: who has made a version sees all with
        lower numbers, and the lowest stays. The others are withdrawn, with their logged models and with what a step
        that was killed has left behind.

        Args:
            name: The registered model; created where it does not exist.
            run: The run.
            source: The logged model, `models:/<id>`.
            tags: Of the version; `MODEL_TAG` is one of them.
        """
        with self.calling():
            if not self.client.search_registered_models(f"name = '{name}'"):
                try:
                    self.client.create_registered_model(name)
                except _mlflow_errors():
                    if not self.client.search_registered_models(f"name = '{name}'"):
                        raise
            made = self.client.create_model_version(
                name, source, run.id, tags=dict(tags), model_id=source.rpartition("/")[2]
            )
        return self.only_version(name, run, tags[MODEL_TAG]) or made

    def only_version(self, name: str, run: Run, model_sha256: str) -> ModelVersion | None:
        """Return the first version of a run's weights; others are withdrawn, with the models logged for them."""
        versions = self._versions(name, run, model_sha256)
        if not versions:
            return None
        kept, *doubled = versions
        with self.calling():
            for version in doubled:
                self._withdraw(self.client.delete_model_version, name, str(version.version))
            for model in self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run.id}'"):
                if kept.source != f"models:/{model.model_id}":
                    self._withdraw(self.client.delete_logged_model, model.model_id)
        return kept

    def find(self, address: str) -> ModelVersion:
        """Return the version behind `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

        Raises:
            TrackingError: There is none.
        """
        parts = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))", address)
        if parts is None:
            raise TrackingError(
                f"{address}: not the address of a version; it is models:/NAME@ALIAS or models:/NAME/NUMBER"
            )
        with self.calling():
            try:
                if parts["alias"]:
                    return self.client.get_model_version_by_alias(parts["name"], parts["alias"])
                return self.client.get_model_version(parts["name"], parts["number"])
            except _mlflow_errors() as error:
                # So MLflow answers an account that is no administrator also where there is no such model.
                refused = getattr(error, "error_code", "") == "PERMISSION_DENIED"
                if refused and not self.client.search_registered_models(f"name = '{parts['name']}'"):
                    raise TrackingError(
                        f"MLflow at {public_uri(self.uri)} has no model '{parts['name']}' that this account may read; "
                        "the first registration makes it, and an administrator gives the right to read it"
                    ) from error
                raise

    def download(self, address: str, folder: Path) -> Path:
        """Copy all files behind an address (`models:/NAME/NUMBER`, `runs:/ID/PATH`, …) below a folder.

        Raises:
            TrackingError: They cannot be had.
        """
        with self.calling():
            from mlflow.artifacts import download_artifacts

            return Path(download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=self.uri))

    def registered(self, name: str) -> RegisteredModel | None:
        """Return a registered model with its aliases and tags, or None where there is none."""
        with self.calling():
            if not self.client.search_registered_models(f"name = '{name}'"):
                return None
            return self.client.get_registered_model(name)

    def alias(self, name: str, alias: str) -> str | None:
        """Return the number of the version that an alias points to, or None."""
        model = self.registered(name)
        number = model.aliases.get(alias) if model else None
        return None if number is None else str(number)

    def set_alias(self, name: str, alias: str, version: str | None) -> None:
        """Point an alias of a registered model to a version, or removes it."""
        if self.alias(name, alias) == version:
            return
        if version is None:
            with self.calling():
                self.client.delete_registered_model_alias(name, alias)
        else:
            self.write(self.client.set_registered_model_alias, name, alias, version)

    def update_version(self, version: ModelVersion, tags: Mapping[str, str], description: str) -> None:
        """Give a version these tags and this description, where it has others."""
        for key, value in tags.items():
            if version.tags.get(key) != value:
                self.write(self.client.set_model_version_tag, version.name, version.version, key, value)
        if version.description != description:
            with self.calling():
                self.client.update_model_version(version.name, version.version, description)

    def has_files(self, run_id: str, folder: str, names: Iterable[str]) -> bool:
        """Tell whether a folder of a run's artifacts, `""` the whole, has all these files directly in it."""
        with self.calling():
            paths = {item.path for item in self.client.list_artifacts(run_id, folder or None)}
        return {f"{folder}/{name}".removeprefix("/") for name in names} <= paths

    def download_file(self, run_id: str, path: str, folder: Path) -> Path:
        """Copy one file of a run's artifacts below `folder`."""
        with self.calling():
            return Path(self.client.download_artifacts(run_id, path, str(folder)))


@dataclass
class Run:
    """One MLflow run; whatever it already holds is not logged again.

    Attributes:
        latest: Time of the newest point of its history that was read, at first its start; milliseconds.
    """

    store: Store
    id: str
    tags: dict[str, str]
    params: dict[str, str]
    latest: int
    _history: dict[str, dict[int, float]] = field(default_factory=dict)

    def history(self, metric: str) -> dict[int, float]:
        """Return the logged values of a metric by step."""
        if metric not in self._history:
            with self.store.calling():
                points = self.store.client.get_metric_history(self.id, metric)
            self._history[metric] = {point.step: point.value for point in points}
            self.latest = max([self.latest, *(point.timestamp for point in points)])
        return self._history[metric]

    def reread(self) -> None:
        """Forget what was read: another process may log to the same run."""
        self._history.clear()

    def contradicts(self, metrics: Mapping[str, float], step: int) -> bool:
        """Tell whether the run already has other values at this step: it is of another training."""
        known = [(self.history(name).get(step), value) for name, value in metrics.items()]
        return any(old is not None and not math.isclose(old, new, rel_tol=1e-3, abs_tol=1e-4) for old, new in known)

    def log_steps(self, rows: Mapping[int, Mapping[str, float]], *, live: bool = False) -> None:
        """Log metrics at their steps, those that are missing.

        Args:
            rows: Step -> metrics.
            live: They were measured just now. Others follow the newest point of the run: two processes that complete
                it at once then log the same points, which MLflow keeps once, at one time.
        """
        from mlflow.entities import Metric

        new = [
            (name, value, step)
            for step, metrics in rows.items()
            for name, value in metrics.items()
            if step not in self.history(name)
        ]
        self.latest = time.time_ns() // 1_000_000 if live else self.latest
        for i in range(0, len(new), BATCH):
            batch = [Metric(name, value, self.latest, step) for name, value, step in new[i : i + BATCH]]
            self.store.write(self.store.client.log_batch, self.id, metrics=batch)
        for name, value, step in new:
            self._history[name][step] = value

    def log_results(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, those that are missing or have changed."""
        from mlflow.entities import Metric

        with self.store.calling():
            known = self.store.client.get_run(self.id).data.metrics
        now = time.time_ns() // 1_000_000
        new = [
            # A first value gets a time that another process gives it, too; a later one has to be the latest.
            Metric(name, value, now if name in known else self.latest, 0)
            for name, value in metrics.items()
            if known.get(name) != value
        ]
        for i in range(0, len(new), BATCH):
            self.store.write(self.store.client.log_batch, self.id, metrics=new[i : i + BATCH])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, those that are missing; MLflow never changes one."""
        from mlflow.entities import Param

        names = mlflow_names(params)
        new = [Param(names[k], str(v)) for k, v in params.items() if names[k] not in self.params]
        for i in range(0, len(new), BATCH):
            self.store.write(self.store.client.log_batch, self.id, params=new[i : i + BATCH])
        self.params.update({param.key: param.value for param in new})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, those that differ."""
        from mlflow.entities import RunTag

        new = [RunTag(name, value) for name, value in tags.items() if self.tags.get(name) != value]
        if new:
            self.store.write(self.store.client.log_batch, self.id, tags=new)
            self.tags.update({tag.key: tag.value for tag in new})

    def log_files(self, files: Mapping[Path, str]) -> None:
        """Store files, each in a folder of the run's artifacts; a file of that name is replaced."""
        with self.store.calling():
            for path, folder in files.items():
                self.store.client.log_artifact(self.id, str(path), folder or None)

    def log_text(self, text: str, path: str) -> None:
        """Store a text as a file of the run's artifacts; one of that name is replaced."""
        with self.store.calling():
            self.store.client.log_text(self.id, text, path)

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Names the data that the run has used."""
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source)
        self.store.write(self.store.client.log_inputs, self.id, datasets=[DatasetInput(dataset)])

    def set_status(self, status: str) -> None:
        """Return `RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""
        with self.store.calling():
            if self.store.client.get_run(self.id).info.status == status:
                return
            if status == "RUNNING":
                self.store.client.update_run(self.id, status)
            else:
                self.store.client.set_terminated(self.id, status)


def _import_mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name, value in THROUGH_MLFLOW.items():
        os.environ.setdefault(name, value)
    import mlflow

    for noisy in ("mlflow", "alembic"):  # they tell about tables and type hints
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return mlflow


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow imports the model's script from the folder that it then uploads: keep `__pycache__` out of it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _mlflow_errors() -> tuple[type[Exception], ...]:
    """Return the errors by which MLflow says that it is away or does not want to."""
    import requests
    from mlflow.exceptions import MlflowException

    return MlflowException, requests.RequestException, OSError


def reason(error: Exception) -> str:
    uri = public_uri(tracking_uri())
    text = str(error)
    if re.search(r"Failed to download \d+ chunk", text):
        return (
            f"the object store of MLflow at {uri} cannot be reached from here; "
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false lets files come through MLflow"
        )
    if uri.startswith("http") and re.search(r"Max retries|Connection|timed out|resolve", text):
        return f"MLflow at {uri} does not answer"
    # Of several files that cannot be had: a headline, and below a line with hashes what is wrong with the first.
    lines = [line for line in text.strip().splitlines() if line] or [type(error).__name__]
    headings = [number for number, line in enumerate(lines) if line.startswith("#####")]
    said = lines[headings[0] + 1] if headings and headings[0] + 1 < len(lines) else lines[0]
    return f"MLflow at {uri} refuses: {said[:300]}"


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that meet a new SQLite file at once would both create its tables."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    with locked(Path(uri.removeprefix("sqlite:///") + ".lock")):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
