"""What the store asks of MLflow and what it makes of the answers, on one real store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST

from components import tracking
from components.metric_names import finite, mlflow_names
from components.tracking import MODEL_TAG, SETTLING, Run, Store, TrackingError

TAGS = {"architecture": "unet", "params.hash": "1", "dvc.data.md5": "2.dir", "git.commit": "3"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Store("streets")


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store without MLflow."""
    made = Store.__new__(Store)
    made.uri, made._patience = "http://nowhere.example", {"MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
    monkeypatch.setattr(tracking, "PAUSE", (0.0, 0.0))
    return made


def run(history: dict[str, dict[int, float]]) -> Run:
    return Run(None, "r", {}, {}, 5, history)  # type: ignore[arg-type]


def points(made: Run, metric: str) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in made.store.client.get_metric_history(made.id, metric))


class Failing:
    """A request that fails so many times, with that error."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, list[Any]()

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self.calls.append((arguments, named))
        if len(self.calls) <= self.times:
            raise self.error


UNIQUE = MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
DUPLICATE = MlflowException("Duplicate entry")


@pytest.mark.parametrize("error", [UNIQUE, DUPLICATE])
def test_a_write_that_another_process_made_fail_is_tried_five_times(away: Store, error: Exception) -> None:
    for times in (0, 1, 4):
        request = Failing(error, times)
        away.write(request, 1, "a", key=2)
        assert request.calls == [((1, "a"), {"key": 2})] * (times + 1)
    request = Failing(error, 5)
    with pytest.raises(TrackingError):
        away.write(request)
    assert len(request.calls) == 5
    other = Failing(MlflowException("no such table"), 9)
    with pytest.raises(TrackingError, match=r"^MLflow at http://nowhere.example refuses: no such table$"):
        away.write(other)
    assert len(other.calls) == 1


def test_between_tries_it_waits_long_enough_for_the_other(away: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr(tracking, "PAUSE", (0.5, 2.0))
    away.write(Failing(UNIQUE, 4))
    assert len(slept) == 4 and all(0.5 <= seconds <= 2 for seconds in slept) and len(set(slept)) > 1


def test_what_is_gone_already_is_withdrawn_and_what_stays_is_tried_three_times(
    away: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    gone = Failing(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST), 9)
    away._withdraw(gone, "x", "y")
    assert gone.calls == [(("x", "y"), {})] and not slept
    late = Failing(MlflowException("locked"), 2)
    away._withdraw(late, "x")
    assert len(late.calls) == 3 and slept == [0.5, 0.5]
    never = Failing(OSError("locked"), 3)
    with pytest.raises(OSError, match="locked"):
        away._withdraw(never, "x")
    assert len(never.calls) == 3


def test_mlflow_is_called_with_the_stores_address_and_patience_and_a_persons_own_hold(
    away: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with away.calling():
        assert [os.environ.get(name) for name in names] == ["http://nowhere.example", "7", None]
    assert not set(names) & set(os.environ)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other.example")
    with pytest.raises(KeyError), away.calling():
        assert [os.environ.get(name) for name in names[:2]] == ["http://nowhere.example", "1"]
        raise KeyError
    assert [os.environ.get(name) for name in names[:2]] == ["http://other.example", "1"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (requests.ConnectionError("Max retries exceeded"), "does not answer"),
        (requests.ConnectionError("Connection refused"), "does not answer"),
        (requests.Timeout("Read timed out."), "does not answer"),
        (requests.ConnectionError("Failed to resolve 'x'"), "does not answer"),
        (MlflowException("\nfirst line\nsecond"), "refuses: first line"),
        (MlflowException(""), "refuses: MlflowException"),
        (MlflowException("Failures:\n##### File a #####\ngone\n##### File b #####\nx"), "refuses: gone"),
        (MlflowException("Failures:\n##### File a #####"), "refuses: Failures:"),
        (OSError("x" * 400), "refuses: " + "x" * 300),
    ],
)
def test_trouble_is_told_in_a_sentence_without_the_password(
    error: Exception, sentence: str, away: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.uri = "http://me:secret@mlflow.example"
    with pytest.raises(TrackingError) as caught, away.calling():
        raise error
    assert str(caught.value) == f"MLflow at http://mlflow.example {sentence}"
    assert caught.value.__cause__ is error
    away.uri = "sqlite:////nowhere/mlflow.db"
    with pytest.raises(TrackingError, match=r"^MLflow at sqlite:////nowhere/mlflow.db refuses: "), away.calling():
        raise error


def test_an_object_store_out_of_reach_is_told_with_the_variable_that_helps(away: Store) -> None:
    away.uri = "http://mlflow.example"
    sentence = r"store of MLflow at http://mlflow\.example cannot be .*MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false"
    with pytest.raises(TrackingError, match=sentence), away.calling():
        raise MlflowException("Failed to download 3 chunk(s): connection refused")


def test_a_model_that_an_account_may_not_read_is_told_as_one_that_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise MlflowException("no", error_code=PERMISSION_DENIED)

    store.client.create_registered_model("readable")
    monkeypatch.setattr(store.client, "get_model_version_by_alias", refuse)
    with pytest.raises(TrackingError, match="has no model 'nets' that this account may read"):
        store.find("models:/nets@champion")
    with pytest.raises(TrackingError, match=r"refuses: no$"):
        store.find("models:/readable@champion")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://a:b@c@host:5000/p?q=1", "http://host:5000/p?q=1"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:///x@y/mlflow.db", "sqlite:///x@y/mlflow.db"),
    ],
)
def test_addresses_that_may_be_shown(uri: str, shown: str, tmp_path: Path) -> None:
    assert tracking.public_uri(uri, tmp_path) == shown


def test_without_a_store_it_is_said_which_step_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError) as error:
        tracking.existing_store()
    wanted = f"{tmp_path / 'mlflow.db'}: no such store; `register` writes it, or set MLFLOW_TRACKING_URI"
    assert str(error.value) == wanted and not list(tmp_path.iterdir())
    asked: list[Any] = []
    monkeypatch.setattr(tracking, "Store", asked.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    tracking.existing_store()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "mlflow.db").touch()
    tracking.existing_store()
    assert asked == [None, None]


def test_only_one_process_at_a_time_opens_a_file(tmp_path: Path) -> None:
    with tracking._one_at_a_time("http://mlflow.example"):
        assert not list(tmp_path.iterdir())
    path = tmp_path / "deep" / "mlflow.db"
    for _ in range(2):
        with tracking._one_at_a_time(f"sqlite:///{path}"):
            with open(f"{path}.lock") as again, pytest.raises(BlockingIOError):
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(f"{path}.lock") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_artifacts_lie_beside_the_file_and_a_server_knows_its_own(away: Store, tmp_path: Path) -> None:
    assert away._artifacts() is None
    away.uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert away._artifacts() == (tmp_path / "mlartifacts").as_uri()


def test_values_that_differ_by_rounding_are_the_same_training() -> None:
    made = run({"loss": {1: 2.0, 2: 0.0}, "miou": {}})
    for value, other in ((2.0, False), (2.0019, False), (2.0021, True), (1.9981, False), (1.9979, True)):
        assert made.contradicts({"loss": value}, 1) == other
    assert not made.contradicts({"loss": 0.00009}, 2) and made.contradicts({"loss": 0.00011}, 2)
    assert not made.contradicts({"loss": 9.0}, 3) and not made.contradicts({"miou": 9.0}, 1)
    assert made.contradicts({"miou": 9.0, "loss": 9.0}, 1)
    made.reread()
    assert made._history == {}


def test_names_for_mlflow() -> None:
    def digest(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()[:6]

    plain = ["iou/a b", "x-1_2.3:4", "straße"]
    assert mlflow_names(plain) == {name: name for name in plain}
    odd = {"a(b": "a_b", "../up": ".._up", "/top": "_top", "x/": "x_", "a/./b": "a_._b", "..": ".."}
    assert mlflow_names(odd) == odd
    assert mlflow_names(["a(b", "a)b", "a_b"]) == {
        "a(b": f"a_b-{digest('a(b')}", "a)b": f"a_b-{digest('a)b')}", "a_b": "a_b",
    }  # fmt: skip
    assert mlflow_names(["y" * 240, "z" * 241]) == {
        "y" * 240: "y" * 240,
        "z" * 241: f"{'z' * 233}-{digest('z' * 241)}",
    }
    assert finite({"a": 1, "b": None, "c": float("nan"), "d": float("inf"), "e(": 2.5}) == {
        "a": 1.0,
        "e_": 2.5,
    }


@pytest.mark.parametrize("address", ["models:/a", "models:/a@", "models:/a/x", "runs:/1/a", "models:/a/1/2", "a@b"])
def test_other_addresses_are_no_versions(address: str, away: Store) -> None:
    with pytest.raises(TrackingError) as error:
        away.find(address)
    wanted = f"{address}: not the address of a version; it is models:/NAME@ALIAS or models:/NAME/NUMBER"
    assert str(error.value) == wanted


def test_runs_are_those_of_a_key_the_newest_first(store: Store) -> None:
    first = store.create_run("one", TAGS)
    time.sleep(0.01)
    second = store.create_run("two", {**TAGS, "git.commit": "9"})
    for name in tracking.KEY_TAGS:
        store.create_run("other", {**TAGS, name: "other"})
    assert [found.id for found in store.runs(TAGS)] == [second.id, first.id]
    info = store.client.get_run(first.id)
    assert info.info.run_name == "one" and info.data.tags["mlflow.source.type"] == "JOB"
    assert first.tags.items() >= TAGS.items() and first.params == {}
    assert first.latest == info.info.start_time
    experiment = store.client.get_experiment_by_name("streets")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.artifact_location == (Path.cwd() / "mlartifacts").as_uri()


def test_an_experiment_made_by_hand_gets_the_tag_that_it_lacks_and_keeps_a_persons_own(store: Store) -> None:
    bare = store.client.create_experiment("bare")
    own = store.client.create_experiment("own", tags={"mlflow.experimentKind": "chosen"})
    assert Store("bare").experiment_id == bare and Store("own").experiment_id == own
    kinds = [store.client.get_experiment(e).tags["mlflow.experimentKind"] for e in (bare, own)]
    assert kinds == ["custom_model_development", "chosen"]
    assert not hasattr(Store(None), "experiment_id")
    gone = store.client.create_experiment("gone")
    store.client.delete_experiment(gone)
    with pytest.raises(TrackingError) as error:
        Store("gone")
    assert str(error.value) == (
        f"experiment 'gone' was deleted; restore it with `mlflow experiments restore --experiment-id {gone}` or set "
        "another register.experiment"
    )


def test_what_a_run_holds_is_not_logged_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "BATCH", 2)
    sent: list[Any] = []
    real = store.client.log_batch

    def log_batch(*args: Any, **named: Any) -> Any:
        sent.append(named)
        return real(*args, **named)

    monkeypatch.setattr(store.client, "log_batch", log_batch)
    made = store.create_run("logs", {})
    begun = made.latest
    made.log_steps({1: {"a": 1.0, "b": 2.0}, 2: {"a": 3.0}})
    assert [len(part["metrics"]) for part in sent] == [2, 1]
    made.log_steps({1: {"a": 9.0, "b": 9.0}, 3: {"a": 4.0}})
    again = store._run(store.client.get_run(made.id))
    again.log_steps({2: {"a": 9.0}})
    assert points(made, "a") == [(1, 1.0), (2, 3.0), (3, 4.0)] and points(made, "b") == [(1, 2.0)]
    assert {p.timestamp for p in store.client.get_metric_history(made.id, "a")} == {begun}
    before = time.time_ns() // 1_000_000
    made.log_steps({4: {"a": 5.0}}, live=True)
    (live,) = (p.timestamp for p in store.client.get_metric_history(made.id, "a") if p.step == 4)
    assert before <= live <= before + 60_000
    # Another process takes the newest point for its own time.
    again.reread()
    assert again.history("a")[4] == 5.0 and again.latest == live
    sent.clear()
    made.log_params({"x": 1, "y": "b", "z": None})
    made.log_params({"x": 2, "w": 3})
    again.log_params({"x": 1})
    assert [len(part["params"]) for part in sent] == [2, 1, 1, 1]
    assert store.client.get_run(made.id).data.params == {"x": "1", "y": "b", "z": "None", "w": "3"}
    assert made.params == {"x": "1", "y": "b", "z": "None", "w": "3"}
    sent.clear()
    made.set_tags({"p": "1", "q": "2"})
    made.set_tags({"p": "1", "q": "2"})
    made.set_tags({"p": "1", "q": "3"})
    assert [[tag.key for tag in part["tags"]] for part in sent] == [["p", "q"], ["q"]]
    assert store.client.get_run(made.id).data.tags["q"] == made.tags["q"] == "3"


def test_results_are_those_of_the_last_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.create_run("results", {})
    monkeypatch.setattr(tracking, "BATCH", 1)
    made.log_results({"miou": 0.5, "ece": 0.1})
    made.log_results({"miou": 0.5, "ece": 0.1})
    assert [len(points(made, name)) for name in ("miou", "ece")] == [1, 1]
    (first,) = store.client.get_metric_history(made.id, "miou")
    assert (first.timestamp, first.step) == (made.latest, 0)
    made.log_results({"miou": 0.4, "ece": 0.1})
    assert store.client.get_run(made.id).data.metrics == {"miou": 0.4, "ece": 0.1}
    assert len(points(made, "ece")) == 1


def test_files_texts_and_data_of_a_run(store: Store, tmp_path: Path) -> None:
    made = store.create_run("files", {})
    (tmp_path / "a.txt").write_text("one")
    made.log_files({tmp_path / "a.txt": "deep/er"})
    (tmp_path / "b.txt").write_text("two")
    made.log_files({tmp_path / "b.txt": ""})
    made.log_text("three", "deep/c.txt")
    for folder, names, there in (
        ("", ["b.txt"], True), ("deep", ["c.txt"], True), ("deep/er", ["a.txt"], True),
        ("deep/er", ["a.txt", "c.txt"], False), ("", ["a.txt"], False), ("deep", [], True),
    ):  # fmt: skip
        assert store.has_files(made.id, folder, names) is there
    (tmp_path / "to").mkdir()
    assert store.download_file(made.id, "deep/c.txt", tmp_path / "to").read_text() == "three"
    assert list((tmp_path / "to").rglob("c.txt"))
    assert (store.download(f"runs:/{made.id}/deep", tmp_path / "to") / "er" / "a.txt").read_text() == "one"
    with pytest.raises(TrackingError):
        store.download_file(made.id, "missing", tmp_path / "to")
    made.log_dataset("camvid", "12.dir", '{"path": "x"}')
    (used,) = store.client.get_run(made.id).inputs.dataset_inputs
    data = used.dataset
    assert (data.name, data.digest, data.source_type, data.source) == ("camvid", "12.dir", "dvc", '{"path": "x"}')


def test_a_run_ends_once_and_may_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.create_run("states", {})
    calls: list[Any] = []

    def counted(name: str, real: Callable[..., Any], *args: Any) -> Any:
        calls.append(name)
        return real(*args)

    for name in ("update_run", "set_terminated"):
        monkeypatch.setattr(store.client, name, partial(counted, name, getattr(store.client, name)))
    for status in ("RUNNING", "FINISHED", "FINISHED", "RUNNING", "FAILED", "KILLED"):
        made.set_status(status)
        assert store.client.get_run(made.id).info.status == status
    assert calls == ["set_terminated", "update_run", "set_terminated", "set_terminated"]


def test_versions_aliases_and_their_descriptions(store: Store) -> None:
    assert store.registered("nets") is None and store.alias("nets", "champion") is None
    made = store.create_run("versions", TAGS)
    assert store.only_version("nets", made, "sha") is None and store.version("nets", made, "sha") is None
    models = [store.client.create_logged_model(store.experiment_id, "m", source_run_id=made.id) for _ in range(2)]
    addresses = [f"models:/{model.model_id}" for model in models]
    one = store.create_version("nets", made, addresses[0], tags={MODEL_TAG: "sha", "k": "v"})
    assert (one.version, one.run_id, one.source, one.tags["k"]) in (
        ("1", made.id, addresses[0], "v"),
        (1, made.id, addresses[0], "v"),
    )
    assert [
        m.model_id for m in store.client.search_logged_models([store.experiment_id], f"source_run_id = '{made.id}'")
    ] == [models[0].model_id]
    other = store.create_version("nets", made, addresses[0], tags={MODEL_TAG: "other"})
    found = [store.version("nets", made, sha) for sha in ("sha", "other", "none")]
    assert [v and str(v.version) for v in found] == ["1", "2", None]
    store.set_alias("nets", "champion", "1")
    store.set_alias("nets", "champion", "1")
    assert store.alias("nets", "champion") == "1" and store.alias("nets", "challenger") is None
    assert str(store.find("models:/nets@champion").version) == "1" and str(store.find("models:/nets/2").version) == "2"
    store.set_alias("nets", "champion", "2")
    assert store.alias("nets", "champion") == "2"
    store.set_alias("nets", "champion", None)
    store.set_alias("nets", "champion", None)
    nets = store.registered("nets")
    assert store.alias("nets", "champion") is None and nets is not None and nets.name == "nets"
    with pytest.raises(TrackingError):
        store.find("models:/nets@champion")
    store.update_version(other, {"gate": "passed"}, "a model")
    again = store.find("models:/nets/2")
    assert (again.tags["gate"], again.tags[MODEL_TAG], again.description) == ("passed", "other", "a model")
    broken = SimpleNamespace(**{k: getattr(again, k) for k in ("name", "version", "tags", "description")})
    client, store.client = store.client, None  # type: ignore[assignment]
    try:
        store.update_version(broken, {"gate": "passed"}, "a model")  # type: ignore[arg-type]
    finally:
        store.client = client


def test_of_two_that_create_a_run_at_once_each_yields_until_one_is_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    tags = {**TAGS, "params.hash": "race"}
    made = store.only_run("race", tags, lambda: store.runs(tags))
    assert SETTLING not in made.tags and not slept
    assert SETTLING not in store.client.get_run(made.id).data.tags
    assert store.only_run("race", tags, lambda: store.runs(tags)).id == made.id
    # One that is about to be deleted is left alone for a while, and taken over when nobody settles it.
    tags["params.hash"] = "left"
    left = store.create_run("left", {**tags, SETTLING: "true"})
    assert store.only_run("left", tags, lambda: store.runs(tags)).id == left.id
    assert len(slept) == tracking.TRIES and all(0.5 <= seconds <= 2 for seconds in slept)
    assert SETTLING not in left.store.client.get_run(left.id).data.tags


def test_a_run_of_other_weights_or_another_history_is_no_run_of_these(store: Store) -> None:
    tags = {**TAGS, "params.hash": "weights"}
    live = store.create_run("live", tags)
    live.log_steps({1: {"loss": 2.0}})
    assert store.run_of("a", tags, "sha", {1: {"loss": 2.0}, 2: {"loss": 1.0}}).id == live.id
    another = store.run_of("b", tags, "sha", {1: {"loss": 1.5}})
    assert another.id != live.id and store.client.get_run(another.id).info.run_name == "b"
    live.set_tags({MODEL_TAG: "sha"})
    assert store.run_of("c", tags, "sha", {1: {"loss": 7.0}}).id == live.id
    another.set_tags({MODEL_TAG: "different"})
    third = store.run_of("d", tags, "new", {})
    assert third.id not in (live.id, another.id)
