"""What a dataset folder must be before anything is trained on it: one list of rules, whoever asks.

`tables` arranges what `scan` saw, with a row for each sample, stray file, class, split and sequence; a `Rule` is one
condition on one table. `judge` applies them here, without pandas; the pipeline's validation hands the same rules to
great-expectations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmodels.data.folder import DatasetError, DatasetInfo
from segmodels.data.validation.rules import Limits, Rule, Severity, known_severity, rules
from segmodels.data.validation.scan import scan, strays
from segmodels.data.validation.table import Table
from segmodels.data.validation.tables import tables

SAID, LISTED, PICTURED = 3, 20, 8


@dataclass(frozen=True)
class Outcome:
    """What came of a rule: an entry of `details` for each offender, and the files of the first ones, `pictured`."""

    key: str
    name: str
    severity: Severity
    checked: int
    details: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pictured: tuple[tuple[str, ...], ...] = ()

    @property
    def passed(self) -> bool:
        return not self.details

    @property
    def message(self) -> str:
        """The first offenders in one sentence."""
        more = len(self.details) - SAID
        return "; ".join(self.details[:SAID]) + (f"; and {more} more" if more > 0 else "")

    @classmethod
    def of(cls, rule: Rule, rows: Table, broken: Sequence[int]) -> Outcome:
        """Return the outcome of a rule that these rows do not meet."""
        bad = [rows[i] for i in broken]
        files = dict.fromkeys(file for row in bad for file in rule.files(row))
        details = tuple(rule.describe(row) for row in bad)
        pictured = tuple(tuple(rule.files(row)) for row in bad[:PICTURED])
        return cls(rule.key, rule.name, rule.severity, len(rows), details, tuple(files), pictured)


def check(
    root: Path,
    limits: Limits | None = None,
    *,
    needs: Sequence[str] = ("labels",),
    severity: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cached: bool = True,
) -> list[str]:
    """Judge a dataset folder, of which a task needs these targets; give its warnings.

    Args:
        root: The dataset folder.
        limits: What is still good.
        needs: Targets that the task learns from.
        severity: Key of a rule -> `critical`, `warning` or `ignore`, in place of its own.
        progress: Called with the samples that are read, and with all of them.
        cached: Read only what has changed since the last time.

    Raises:
        DatasetError: It has errors; the message lists the first twenty.
    """
    known_severity(severity or {})
    info = DatasetInfo.read(root)
    outcomes = judge(
        tables(scan(root, info, needs, progress, cached=cached), strays(root), info), info, limits or Limits(), severity
    )
    return warnings(outcomes, root)


def warnings(outcomes: Sequence[Outcome], root: Path) -> list[str]:
    """Return what the rules warn of.

    Raises:
        DatasetError: There are errors; the message lists the first twenty.
    """
    errors = [detail for o in outcomes if o.severity == "critical" for detail in o.details]
    if errors:
        raise DatasetError(complaint(errors, f"{root}: the data has {len(errors)} errors:"))
    return [o.message for o in outcomes if not o.passed]


def complaint(details: Sequence[str], heading: str) -> str:
    """Return one sentence for one error, a list under a heading for several."""
    if len(details) == 1:
        return details[0]
    rest = f"\n  … and {len(details) - LISTED} more" if len(details) > LISTED else ""
    return f"{heading}\n  " + "\n  ".join(details[:LISTED]) + rest


def judge(
    by_table: Mapping[str, Table], info: DatasetInfo, limits: Limits, severity: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Apply every rule to the tables and return its outcome, in order."""
    known = rules(info, limits, severity)
    return [Outcome.of(r, by_table[r.table], r.broken(by_table[r.table])) for r in known]
