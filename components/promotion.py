"""The alias `champion` of a registered model, and the trail of its moves.

Whoever sets the alias promotes; the trail says who did it, when, from which version to which, and why. Each move is a
tag of its own on the registered model, so that two writers never overwrite each other's; moves are ordered by a number
that counts up, not by clocks, and by a random suffix where two writers took the same number. The alias is set first and
the move is written after it: what dies in between looks like a promotion made elsewhere, which `notice` records.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from components.errors import StepError
from components.tracking import Store

CHAMPION, CHALLENGER = "champion", "challenger"
GATE_TAG, AGAINST_TAG, FOUND_TAG = "gate", "gate.champion", "gate.found"
PASSED = "passed"
NONE = "none"
PREFIX = "promotion."
LONGEST = 1000  # characters of a reason: a tag of a registered model takes 5000
ELSEWHERE = "unknown"
NOTICED = "set elsewhere (the MLflow UI or another client; MLflow does not tell who); noticed then"
Kind = Literal["promote", "rollback", "elsewhere"]


@dataclass(frozen=True)
class Move:
    """One move of the alias.

    Attributes:
        kind: `promote`, `rollback`, or `elsewhere`: not made by these functions.
        who: Who moved it, by their own account.
        when: UTC, ISO 8601; of a move elsewhere, when it was noticed.
        source: The version it came from; None where there was no champion.
        target: The version it went to; None where the alias was removed.
        why: The reason given.
        gate: The version's gate then: `passed`, or why not.
        forced: It was moved although the gate had not passed.
    """

    kind: Kind
    who: str
    when: str
    source: str | None
    target: str | None
    why: str
    gate: str
    forced: bool = False

    @property
    def skipped_gate(self) -> bool:
        return self.target is not None and self.gate != PASSED


def trail(store: Store, name: str) -> list[Move]:
    """Return all moves of a registered model's champion, the first one first."""
    model = store.registered(name)
    moves = {}
    for tag, value in (model.tags if model else {}).items():
        parts = re.fullmatch(rf"{re.escape(PREFIX)}(\d+)\.([0-9a-f]+)", tag)
        if parts:
            moves[int(parts[1]), parts[2]] = Move(**json.loads(value))
    return [moves[key] for key in sorted(moves)]


def notice(store: Store, name: str) -> Move | None:
    """Record a move that was made elsewhere: the alias is not where the trail ends.

    Returns:
        The move, or None where alias and trail agree.
    """
    moves = trail(store, name)
    last = moves[-1].target if moves else None
    now = store.alias(name, CHAMPION)
    if now == last:
        return None
    move = Move("elsewhere", ELSEWHERE, _now(), last, now, NOTICED, _gate(store, name, now))
    _write(store, name, move)
    return move


def promote(
    store: Store, name: str, version: str, *, why: str, who: str | None = None, force: bool = False
) -> Move | None:
    """Make a version the champion.

    Args:
        store: Where it is registered.
        name: The registered model.
        version: Its number.
        why: The reason.
        who: Who does it; the user of this process by default.
        force: Also where the gate has not passed.

    Returns:
        The move, or None where the version is the champion already.

    Raises:
        StepError: There is no such version, the gate has not passed it, or somebody else was faster.
    """
    _check_reason(why)
    notice(store, name)
    now = store.alias(name, CHAMPION)
    if now == version:
        return None
    gate = _gate(store, name, version)
    if gate != PASSED and not force:
        raise StepError(
            f"{name} version {version} has not passed the gate ({gate}); promote it nevertheless with --force"
        )
    move = Move("promote", who or whoami(), _now(), now, version, why.strip(), gate, forced=gate != PASSED)
    _move(store, name, move)
    if store.alias(name, CHALLENGER) == version:  # it challenges nobody any more
        store.set_alias(name, CHALLENGER, None)
    return move


def rollback(store: Store, name: str, *, why: str, who: str | None = None) -> Move:
    """Make the previous champion the champion again; called twice, it goes back twice.

    Raises:
        StepError: There is no previous champion, or somebody else was faster.
    """
    _check_reason(why)
    notice(store, name)
    moves = trail(store, name)
    target = _previous(store, name, moves)
    if target is None:
        raise StepError(f"{name} has no previous champion to go back to; `python -m pipeline history {name}` lists all")
    gate = next(move.gate for move in reversed(moves) if move.target == target)
    move = Move("rollback", who or whoami(), _now(), store.alias(name, CHAMPION), target, why.strip(), gate)
    _move(store, name, move)
    return move


def champions(moves: Sequence[Move]) -> list[str | None]:
    """Return the champions that a rollback goes back through, the present one last."""
    stack: list[str | None] = []
    for move in moves:
        if move.kind == "rollback" and move.target in stack[:-1]:
            stack = stack[: len(stack) - 1 - stack[-2::-1].index(move.target)]
        else:
            stack.append(move.target)
    return stack


def whoami() -> str:
    """MLflow's user where one is set, else the user of this process and its machine."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or f"{getpass.getuser()}@{socket.gethostname()}"


def _previous(store: Store, name: str, moves: Sequence[Move]) -> str | None:
    """Return the newest earlier champion whose version still exists."""
    stack = champions(moves)
    with store.calling():
        left = {str(v.version) for v in store.client.search_model_versions(f"name = '{name}'")}
    return next((v for v in reversed(stack[:-1]) if v is not None and v in left and v != stack[-1]), None)


def _move(store: Store, name: str, move: Move) -> None:
    """Set the alias and write the move; of two writers at once, both leave the alias where the trail ends.

    Raises:
        StepError: The other writer's move came last.
    """
    store.set_alias(name, CHAMPION, move.target)
    _write(store, name, move)
    while True:
        last = trail(store, name)[-1]
        if store.alias(name, CHAMPION) == last.target:
            break
        store.set_alias(name, CHAMPION, last.target)
    if last.target != move.target:
        raise StepError(
            f"{name}: {last.who} moved the champion to version {last.target} at the same moment, and that stands; look "
            f"at `python -m pipeline history {name}` and promote again if it is wrong"
        )


def _write(store: Store, name: str, move: Move) -> None:
    model = store.registered(name)
    numbers = [int(tag.split(".")[1]) for tag in (model.tags if model else {}) if tag.startswith(PREFIX)]
    tag = f"{PREFIX}{max(numbers, default=0) + 1:06}.{secrets.token_hex(4)}"
    with store.calling():
        store.client.set_registered_model_tag(name, tag, json.dumps(asdict(move)))


def _gate(store: Store, name: str, version: str | None) -> str:
    """Return what the gate said of a version: `passed`, a reason, or that it never saw it."""
    if version is None:
        return NONE
    with store.calling():
        return str(store.client.get_model_version(name, version).tags.get(GATE_TAG, "never went through the gate"))


def _check_reason(why: str) -> None:
    if not why.strip() or len(why) > LONGEST:
        raise StepError(f"--why: say in 1 to {LONGEST} characters why the champion is moved")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
