"""`python -m pipeline promote | rollback | history | audit`: who put which version into production, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components import promotion
from components.errors import StepError
from components.promotion import CHALLENGER, CHAMPION, Move
from components.tracking import Store, TrackingError, existing_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

COLUMNS = ("when (UTC)", "what", "from", "to", "who", "gate", "why")


def promote(name: str, version: str | None, *, why: str, force: bool) -> list[str]:
    """Make a version, or the challenger, the champion; give the lines to print.

    Raises:
        StepError: There is no such version, or the gate has not passed it and `force` is not set.
    """
    try:
        store = _store(name)
        number = version or store.alias(name, CHALLENGER)
        if number is None:
            raise StepError(f"{name} has no challenger; name a version: python -m pipeline promote {name} --version N")
        chosen = store.find(f"models:/{name}/{number}")
        move = promotion.promote(store, name, number, why=why, force=force)
    except TrackingError as error:
        raise StepError(str(error)) from None
    if move is None:
        return [f"version {number} is the champion of {name} already"]
    lines = [] if version else [_introduced(name, chosen)]
    lines.append(_told(name, move))
    against = chosen.tags.get(promotion.AGAINST_TAG, promotion.NONE)
    if move.source not in (None, against) and not move.forced:
        lines.append(
            f"note: the gate compared version {number} with "
            f"{'no champion' if against == promotion.NONE else f'version {against}'}, not with version {move.source}"
        )
    return lines


def rollback(name: str, *, why: str) -> list[str]:
    """Go back to the previous champion; give the lines to print.

    Raises:
        StepError: There is none.
    """
    try:
        return [_told(name, promotion.rollback(_store(name), name, why=why))]
    except TrackingError as error:
        raise StepError(str(error)) from None


def history(name: str) -> list[str]:
    """Return all moves of the champion, as the lines of a table."""
    try:
        moves = promotion.trail(_store(name), name)
    except TrackingError as error:
        raise StepError(str(error)) from None
    return _table(moves) if moves else [f"no version of {name} was ever promoted"]


def audit(names: Sequence[str]) -> tuple[list[str], bool]:
    """Look for promotions that skipped the gate or were made elsewhere, and records the latter.

    Args:
        names: Registered models; none looks at all.

    Returns:
        The lines to print, and whether every champion has passed the gate.
    """
    lines, good = [], True
    try:
        store = existing_store()
        with store.calling():
            known = [model.name for model in store.client.search_registered_models()]
        unknown = set(names) - set(known)
        if unknown:
            raise StepError(f"{min(unknown)}: no such registered model; there are {', '.join(known) or 'none'}")
        for name in names or known:
            said, passed = _audit(store, name)
            lines += said
            good = good and passed
    except TrackingError as error:
        raise StepError(str(error)) from None
    return lines or ["there is no registered model"], good


def _audit(store: Store, name: str) -> tuple[list[str], bool]:
    noticed = promotion.notice(store, name)
    moves = promotion.trail(store, name)
    if not moves:
        return [f"{name}: no champion, and there never was one"], True
    last, lines = moves[-1], []
    if noticed is not None:
        moved = f"moved to version {noticed.target}" if noticed.target else "removed"
        lines.append(
            f"{name}: the alias {CHAMPION} was {moved} elsewhere, by the MLflow UI or another client; MLflow does not "
            "tell who or when, so the trail now says when it was noticed"
        )
    lines += [f"{name}: earlier, {move.when}: {_skipped(move)}" for move in moves[:-1] if move.skipped_gate]
    if last.skipped_gate:
        lines.append(f"{name}: GATE SKIPPED: version {last.target} is the champion. {_skipped(last)}")
    elif last.target is None:
        lines.append(f"{name}: no champion; `python -m pipeline rollback {name} --why …` brings the last one back")
    else:
        lines.append(f"{name}: version {last.target} is the champion and has passed the gate")
    return lines, not last.skipped_gate


def _skipped(move: Move) -> str:
    forced = "forced" if move.forced else "promoted elsewhere" if move.kind == "elsewhere" else "taken back"
    return f"{move.who} ({forced}) set version {move.target}, of which the gate says: {move.gate}; reason: {move.why}"


def _introduced(name: str, version: ModelVersion) -> str:
    """Return which version the challenger is, and why it is."""
    key = version.tags.get("model.key", name)
    finding = version.tags.get(promotion.FOUND_TAG)
    against = version.tags.get(promotion.AGAINST_TAG, promotion.NONE)
    why = f"{finding} against version {against}" if finding else "the best above the floors while there was no champion"
    return f"{name}: the challenger is version {version.version} ({key}): {why}"


def _told(name: str, move: Move) -> str:
    back = "rolled back" if move.kind == "rollback" else "promoted"
    forced = f", though the gate said: {move.gate}" if move.skipped_gate else ""
    return f"{name}: {back} from {_version(move.source)} to {_version(move.target)} by {move.who}{forced}"


def _version(number: str | None) -> str:
    return f"version {number}" if number else "no champion"


def _table(moves: Sequence[Move]) -> list[str]:
    rows = [COLUMNS]
    for move in moves:
        when = move.when.replace("T", " ").removesuffix("+00:00")
        gate = move.gate if not move.skipped_gate else f"SKIPPED: {move.gate}"
        rows.append((when, move.kind, move.source or "-", move.target or "-", move.who, gate, move.why))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _store(name: str) -> Store:
    """Return the store, once it is known to have the registered model."""
    store = existing_store()
    if store.registered(name) is None:
        raise StepError(f"{name}: no such registered model; `register` makes it, with the name register.model_name")
    return store
