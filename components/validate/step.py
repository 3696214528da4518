"""`validate`: judges the dataset folder before anything is trained on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.disk import disk_errors
from components.errors import StepError
from components.lineage import folder_md5
from components.lock import only_one
from components.params import Params, Validate
from segmodels.data.folder import SPLITS, DatasetInfo
from segmodels.data.frequencies import ClassCounts
from segmodels.data.validation import checks
from segmodels.data.validation.rules import Limits
from segmodels.data.validation.scan import scan, strays
from segmodels.data.validation.table import Table
from segmodels.data.validation.tables import tables as arranged
from segmodels.files import replaced
from segmodels.tasks import task_info

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ValidationResult:
    """The folder with `manifest.parquet`, `validation.json` and `validation.html`, and the samples per split."""

    out: Path
    splits: dict[str, int]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        lines = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, f"the data is valid ({counts}); {self.out / 'validation.html'}"])


def run(params: Params, *, data: Path, out: Path) -> ValidationResult:
    """Write the manifest and the report to `out`, then stop where the data has errors.

    Args:
        params: `validate` has the limits.
        data: The dataset folder.
        out: The folder of the results.

    Raises:
        StepError: The data has errors; the message lists the offending files, `validation.json` all of them.
        DatasetError: `data` is no dataset folder.
    """
    from components.validate import manifest as manifests
    from components.validate import page, suite

    info = DatasetInfo.read(data)
    with only_one(out), disk_errors(out):
        rows = scan(data, info, task_info(params.task).needs, cached=True)
        manifest = manifests.build(rows)
        tables = arranged(rows, strays(data), info)
        outcomes = suite.judge(tables, info, _limits(params.validate_), params.validate_.severity)
        report = _report(outcomes, manifest, tables["classes"], info) | {"data_md5": folder_md5(data)}
        with replaced(out) as part:
            part.mkdir()
            manifest.to_parquet(part / "manifest.parquet", index=False)
            (part / "validation.json").write_text(json.dumps(report, indent=2) + "\n")
            html = page.render(info, report, outcomes, manifest, data, overlays=params.validate_.overlays)
            (part / "validation.html").write_text(html)
    if not report["passed"]:
        raise StepError(_complaint([o for o in outcomes if o.severity == "critical" and not o.passed], out))
    return ValidationResult(out, report["splits"], tuple(w["message"] for w in report["warnings"]))


def _limits(settings: Validate) -> Limits:
    return Limits(settings.max_void_fraction, settings.rare_class_fraction, settings.min_side)


def _report(
    outcomes: list[checks.Outcome], manifest: pd.DataFrame, classes: Table, info: DatasetInfo
) -> dict[str, Any]:
    """Return the content of `validation.json`."""
    failed = [o for o in outcomes if not o.passed]
    splits = [split for split in SPLITS if (manifest["split"] == split).any()]
    void = {split: manifest.loc[manifest["split"] == split, "void_fraction"].mean() for split in splits}
    fractions = {split: [row[f"{split}_fraction"] or 0.0 for row in classes] for split in splits}
    return {
        "passed": not any(o.severity == "critical" for o in failed),
        "errors": [_entry(o) for o in failed if o.severity == "critical"],
        "warnings": [_entry(o) for o in failed if o.severity == "warning"],
        "splits": {split: int((manifest["split"] == split).sum()) for split in splits},
        "class_frequency": {split: dict(zip(info.class_names, fractions[split], strict=True)) for split in splits},
        "void_fraction": {split: _number(value) for split, value in void.items()},
        "class_counts": {split: asdict(_counts(manifest, split, info.num_classes)) for split in splits},
    }


def _counts(manifest: pd.DataFrame, split: str, classes: int) -> ClassCounts:
    rows = manifest.loc[manifest["split"] == split, [f"class_{i}" for i in range(classes)]].fillna(0)
    return ClassCounts.of(rows.to_numpy("int64"), classes)


def _number(value: Any) -> float:
    """Return a plain float; 0 for what pandas has no value for."""
    import pandas as pd

    return 0.0 if pd.isna(value) else float(value)


def _entry(outcome: checks.Outcome) -> dict[str, Any]:
    return {
        "check": outcome.name,
        "message": outcome.message,
        "files": list(outcome.files),
        "details": list(outcome.details),
    }


def _complaint(errors: list[checks.Outcome], out: Path) -> str:
    details = [detail for error in errors for detail in error.details]
    if len(details) == 1:
        return f"{details[0]} (report: {out / 'validation.html'})"
    return checks.complaint(details, f"the data has {len(details)} errors, all of them in {out / 'validation.json'}:")
