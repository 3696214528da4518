"""The champion's alias and its trail, in a real MLflow registry."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from components import promotion
from components.errors import StepError
from components.promotion import Move, champions, notice, promote, rollback, trail
from components.tracking import Store

NAME = "streets"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory):
    """A store whose tables are there, as `sqlite:///…`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("registry")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
        yield Store(None)


@pytest.fixture
def store(registry: Store):
    """A registered model with versions 1 and 2 and 4 that passed the gate, and 3 that did not."""
    registry.client.create_registered_model(NAME)
    for reason in ("passed", "passed", "worse than the champion", "passed"):
        registry.client.create_model_version(NAME, "file:///nowhere", tags={"gate": reason})
    yield registry
    registry.client.delete_registered_model(NAME)


def champion(store: Store) -> str | None:
    return store.alias(NAME, "champion")


def test_a_promotion_moves_the_alias_and_says_who_and_why(store: Store) -> None:
    promote(store, NAME, "1", why="first one", who="ada")
    promote(store, NAME, "2", why="sees poles")
    assert champion(store) == "2"
    first, second = trail(store, NAME)
    assert (first.who, first.source, first.target, first.why, first.gate) == ("ada", None, "1", "first one", "passed")
    assert (second.who, second.source, second.target) == (promotion.whoami(), "1", "2")
    assert second.when.endswith("+00:00")
    assert promote(store, NAME, "2", why="again") is None
    assert len(trail(store, NAME)) == 2


def test_what_did_not_pass_the_gate_is_promoted_by_force_alone_and_the_trail_says_so(store: Store) -> None:
    with pytest.raises(StepError, match=r"version 3 has not passed the gate \(worse than the champion\).* --force"):
        promote(store, NAME, "3", why="hurry")
    assert champion(store) is None and trail(store, NAME) == []
    move = promote(store, NAME, "3", why="hurry", force=True)
    assert move and move.forced and move.skipped_gate and champion(store) == "3"
    move = promote(store, NAME, "4", why="proper", force=True)
    assert move and not move.forced


def test_rolling_back_goes_back_step_by_step_and_not_in_circles(store: Store) -> None:
    for version in ("1", "2", "4"):
        promote(store, NAME, version, why="better")
    assert rollback(store, NAME, why="halos").target == "2"
    assert rollback(store, NAME, why="still halos").target == "1"
    with pytest.raises(StepError, match="streets has no previous champion to go back to"):
        rollback(store, NAME, why="more")
    promote(store, NAME, "4", why="mended")
    assert rollback(store, NAME, why="not mended").target == "1"
    assert champion(store) == "1"
    assert [move.kind for move in trail(store, NAME)][3:] == ["rollback", "rollback", "promote", "rollback"]


def test_a_rollback_passes_over_versions_that_were_deleted(store: Store) -> None:
    for version in ("1", "2", "4"):
        promote(store, NAME, version, why="better")
    store.client.delete_model_version(NAME, "2")
    assert rollback(store, NAME, why="halos").target == "1"


def test_a_rollback_keeps_what_the_gate_said_when_the_version_was_promoted(store: Store) -> None:
    promote(store, NAME, "1", why="first")
    promote(store, NAME, "2", why="better")
    store.client.set_model_version_tag(NAME, "1", "gate", "worse than the champion (version 2)")
    assert not rollback(store, NAME, why="halos").skipped_gate


def test_an_alias_that_was_set_elsewhere_is_noticed_once(store: Store) -> None:
    promote(store, NAME, "1", why="first")
    assert notice(store, NAME) is None
    store.client.set_registered_model_alias(NAME, "champion", "3")
    move = notice(store, NAME)
    assert move and (move.kind, move.who, move.source, move.target, move.gate) == (
        "elsewhere", "unknown", "1", "3", "worse than the champion",
    )  # fmt: skip
    assert notice(store, NAME) is None
    assert rollback(store, NAME, why="that was not agreed").target == "1"


def test_what_was_set_elsewhere_is_in_the_trail_before_the_next_move(store: Store) -> None:
    store.client.set_registered_model_alias(NAME, "champion", "1")
    promote(store, NAME, "2", why="better")
    store.client.delete_registered_model_alias(NAME, "champion")
    assert rollback(store, NAME, why="the alias was removed").target == "2"
    moves = [(move.kind, move.source, move.target) for move in trail(store, NAME)]
    assert moves == [
        ("elsewhere", None, "1"), ("promote", "1", "2"), ("elsewhere", "2", None), ("rollback", None, "2"),
    ]  # fmt: skip


def test_writers_at_the_same_moment_lose_no_move_and_agree_on_the_champion(store: Store) -> None:
    wanted, refused = ["1", "2", "4", "1", "2", "4"], []
    start = threading.Barrier(len(wanted))

    def write(number: int, version: str) -> None:
        mine = Store(None)
        start.wait()
        try:
            promote(mine, NAME, version, why=f"writer {number}", who=f"writer {number}")
        except StepError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=item) for item in enumerate(wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moves = trail(store, NAME)
    assert champion(store) == moves[-1].target
    assert all("at the same moment, and that stands" in sentence for sentence in refused)
    # Who found its version in place already had nothing to write.
    written = [move.why for move in moves if move.kind == "promote"]
    assert len(set(written)) == len(written) >= 3
    assert notice(store, NAME) is None


def test_a_promotion_that_died_before_its_entry_looks_like_one_made_elsewhere(store: Store, monkeypatch) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(promotion, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(store, NAME, "1", why="first")
    assert champion(store) == "1" and trail(store, NAME) == []
    move = notice(store, NAME)
    assert move and move.target == "1"


@pytest.mark.parametrize("why", ["", "  \n", "x" * 1001])
def test_a_reason_is_needed(why: str, store: Store) -> None:
    with pytest.raises(StepError, match="--why: say in 1 to 1000 characters why"):
        promote(store, NAME, "1", why=why)


def test_the_user_of_mlflow_signs_where_one_is_set(store: Store, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    move = promote(store, NAME, "1", why="first")
    assert move and move.who == "ada"


@pytest.mark.parametrize(
    ("moves", "stack"),
    [
        ("p1 p2 p4", "1 2 4"),
        ("p1 p2 r1", "1"),
        ("p1 p2 p1 p4 r1", "1 2 1"),
        ("p1 p2 p4 r2 r1 p4", "1 4"),
    ],
)
def test_the_way_back_forgets_what_was_taken_back(moves: str, stack: str) -> None:
    kinds: dict[str, promotion.Kind] = {"p": "promote", "r": "rollback"}
    trail_ = [Move(kinds[m[0]], "ada", "", None, m[1], "", "passed") for m in moves.split()]
    assert champions(trail_) == stack.split()


def test_a_store_that_is_not_there_is_named(tmp_path: Path, monkeypatch) -> None:
    from components.tracking import TrackingError, existing_store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(TrackingError, match=r"mlflow\.db: no such store; `register` writes it"):
        existing_store()
    assert list(tmp_path.iterdir()) == []
