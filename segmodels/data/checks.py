"""What a dataset folder must be before anything is trained on it: one list of rules, whoever asks.

`tables` arranges what `segmodels.data.scan` found as four tables, with a row for each sample, stray file, class and
split; a `Rule` is one condition on one table. `judge` applies them here, without pandas; the pipeline's validation
hands the same rules to great-expectations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from segmodels.data.folder import SPLITS, DatasetError, DatasetInfo
from segmodels.data.scan import Row, scan, strays

SMALL_SPLIT = 10
SAID, LISTED = 3, 20
Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Limits:
    """What is still good data.

    Attributes:
        max_void_fraction: A sample with more void is an error.
        rare_class_fraction: A class with a smaller share of the training pixels is a warning.
        min_side: Pixels of an image's shorter side; below it is an error.
    """

    max_void_fraction: float = 0.9
    rare_class_fraction: float = 0.001
    min_side: int = 32


@dataclass(frozen=True)
class Rule:
    """One condition on the rows of one table.

    Attributes:
        name: What holds when it is met, in words.
        table: `samples`, `strays`, `classes` or `splits`.
        severity: `critical` stops, `warning` goes on to the model's card.
        holds: `absent` and `present`: the column has no value, or one. `between`: it lies in `least` to `most`.
            `equal`: the two columns are. `unique`: no other row has the same columns. But for `present`, a missing
            value meets it.
        columns: What it looks at.
        describe: A sentence about a row that does not meet it.
        files: The files that such a row blames.
        least: Smallest value.
        most: Largest value.
    """

    name: str
    table: str
    severity: Severity
    holds: Literal["absent", "present", "between", "equal", "unique"]
    columns: tuple[str, ...]
    describe: Callable[[Row], str]
    files: Callable[[Row], list[str]] = lambda row: []
    least: float | None = None
    most: float | None = None

    def broken(self, rows: Sequence[Row]) -> list[int]:
        """Return the indices of the rows that do not meet it."""
        if self.holds == "unique":
            keys = [tuple(row[c] for c in self.columns) for row in rows]
            held: dict[tuple[Any, ...], int] = {}
            for key in keys:
                held[key] = held.get(key, 0) + 1
            return [i for i, key in enumerate(keys) if held[key] > 1]
        return [i for i, row in enumerate(rows) if not self._met([row[c] for c in self.columns])]

    def _met(self, values: list[Any]) -> bool:
        if self.holds == "present":
            return values[0] is not None
        if self.holds == "absent":
            return values[0] is None
        if any(value is None for value in values):
            return True
        if self.holds == "equal":
            return bool(values[0] == values[1])
        return (self.least is None or values[0] >= self.least) and (self.most is None or values[0] <= self.most)


@dataclass(frozen=True)
class Outcome:
    """What came of a rule: an entry of `details` for each offender."""

    name: str
    severity: Severity
    checked: int
    details: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.details

    @property
    def message(self) -> str:
        """The first offenders in one sentence."""
        more = len(self.details) - SAID
        return "; ".join(self.details[:SAID]) + (f"; and {more} more" if more > 0 else "")

    @classmethod
    def of(cls, rule: Rule, rows: Sequence[Row], broken: Sequence[int]) -> Outcome:
        """Return the outcome of a rule that these rows do not meet."""
        bad = [rows[i] for i in broken]
        files = dict.fromkeys(file for row in bad for file in rule.files(row))
        return cls(rule.name, rule.severity, len(rows), tuple(rule.describe(row) for row in bad), tuple(files))


def check(root: Path, limits: Limits | None = None, *, needs: Sequence[str] = ("labels",)) -> list[str]:
    """Judge a dataset folder, of which a task needs these targets; give its warnings.

    Raises:
        DatasetError: It has errors; the message lists the first twenty.
    """
    info = DatasetInfo.read(root)
    outcomes = judge(tables(scan(root, info, needs), strays(root), info), info, limits or Limits())
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


def judge(by_table: Mapping[str, Sequence[Row]], info: DatasetInfo, limits: Limits) -> list[Outcome]:
    """Apply every rule to the tables and return its outcome, in order."""
    return [Outcome.of(r, by_table[r.table], r.broken(by_table[r.table])) for r in rules(info, limits)]


def tables(rows: Sequence[Row], lost: Sequence[Row], info: DatasetInfo) -> dict[str, list[dict[str, Any]]]:
    """Return what `scan` and `strays` found, as the rules see it."""
    return {
        "samples": _samples(rows),
        "strays": [dict(row) for row in lost],
        "classes": _classes(rows, info),
        "splits": _splits(rows, info),
    }


def _classes(rows: Sequence[Row], info: DatasetInfo) -> list[dict[str, Any]]:
    """Return a row per class: `class`, `id`, and `<split>_pixels` and `<split>_fraction` (of what is not void)."""
    table: list[dict[str, Any]] = [{"class": name, "id": i} for i, name in enumerate(info.class_names)]
    for split in SPLITS:
        mine = [row for row in rows if row["split"] == split]
        pixels = [sum(row[f"class_{i}"] or 0 for row in mine) for i in range(info.num_classes)]
        for row, count in zip(table, pixels, strict=True):
            # A split that is not there is asked nothing.
            row[f"{split}_pixels"] = count if mine else None
            row[f"{split}_fraction"] = count / sum(pixels) if count else None
    return table


def _samples(rows: Sequence[Row]) -> list[dict[str, Any]]:
    files, pixels, labels = (
        _twins(rows, "image_sha256", "image"),
        _twins(rows, "pixels_sha256", "image"),
        _twins([row if _several_classes(row) else {} for row in rows], "label_sha256", "label"),
    )
    table = []
    for row, file, same, label in zip(rows, files, pixels, labels, strict=True):
        twin = file or same
        table.append(
            {
                **row,
                "expected_label": f"{row['split']}/labels/{row['id']}.png",
                "image_size": _size(row["width"], row["height"]),
                "label_size": _size(row["label_width"], row["label_height"]),
                "short_side": None if row["width"] is None else min(row["width"], row["height"]),
                "same_file": file,
                "same_pixels": None if file else same,
                "twin": twin,
                "label_twin": None if twin else label,
            }
        )
    return table


def _twins(rows: Sequence[Row], column: str, shown: str) -> list[str | None]:
    """For each row what is shown of the row before it with the same hash; None where there is none."""
    last: dict[str, str] = {}
    twins: list[str | None] = []
    for row in rows:
        digest = row.get(column)
        twins.append(last.get(digest) if digest else None)
        if digest:
            last[digest] = row[shown]
    return twins


def _several_classes(row: Row) -> bool:
    return sum(bool(value) for key, value in row.items() if key.startswith("class_")) > 1


def _size(width: int | None, height: int | None) -> str | None:
    return None if width is None else f"{width}x{height}"


def _splits(rows: Sequence[Row], info: DatasetInfo) -> list[dict[str, Any]]:
    table = []
    for split in SPLITS:
        mine = [row for row in rows if row["split"] == split]
        sizes = {(row["width"], row["height"]) for row in mine if row["width"] is not None}
        ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        table.append(
            {
                "split": split,
                "samples": len(mine) or None,
                "needed_samples": None if split == "test" else len(mine),
                "declared": info.splits.get(split),
                "sizes": len(ordered) or None,
                "smallest": _size(*ordered[0]) if ordered else None,
                "largest": _size(*ordered[-1]) if ordered else None,
            }
        )
    return table


# The rules


def rules(info: DatasetInfo, limits: Limits) -> list[Rule]:
    """Return every rule of a dataset, errors before warnings."""
    return [*_errors(info, limits), *_warnings(limits)]


def _rule(
    severity: Severity,
    name: str,
    table: str,
    holds: Any,
    column: str | tuple[str, ...],
    describe: Callable[[Row], str],
    files: Callable[[Row], list[str]] = lambda row: [],
    **bounds: float,
) -> Rule:
    looked_at = (column,) if isinstance(column, str) else column
    return Rule(name, table, severity, holds, looked_at, describe, files, **bounds)


def _image(row: Row) -> list[str]:
    return [row["image"]]


def _label(row: Row) -> list[str]:
    return [row["label"]]


def _twin(row: Row) -> list[str]:
    return [row["image"], row["twin"]]


def _absent(split: str, row: Row) -> str:
    return f"class {row['class']!r} has no pixel in {split}; its IoU there is undefined"


def _ids(bad: str) -> str:
    return f"labels {bad} are" if "," in bad else f"label {bad} is"


def _errors(info: DatasetInfo, limits: Limits) -> list[Rule]:
    rule = partial(_rule, "critical")
    last = info.num_classes - 1
    return [
        rule(
            "train and val have samples", "splits", "between", "needed_samples",
            lambda r: f"{r['split']}: has no samples; training and choosing a model need both train and val, at least "
            "one labelled image for each",
            least=1,
        ),
        rule(
            "every image has its label", "samples", "present", "label",
            lambda r: f"{r['image']}: has no label; {r['expected_label']} is missing: add it, or remove the image",
            _image,
        ),
        rule(
            "every image is readable and whole", "samples", "absent", "image_error", lambda r: r["image_error"], _image
        ),
        rule(
            "every label is readable, whole and single-channel", "samples", "absent", "label_error",
            lambda r: r["label_error"], _label,
        ),
        rule(
            "every further target is readable and fits its image", "samples", "absent", "target_error",
            lambda r: r["target_error"], _image,
        ),
        rule(
            "image and label have the same size", "samples", "equal", ("image_size", "label_size"),
            lambda r: f"{r['label']}: is {r['label_size']}, but its image is {r['image_size']}; save them in one size",
            _label,
        ),
        rule(
            f"labels hold only 0..{last} and 255", "samples", "absent", "bad_ids",
            lambda r: f"{r['label']}: {_ids(r['bad_ids'])} outside 0..{last} (ignore is 255)", _label,
        ),
        rule(
            "every class is present in train", "classes", "between", "train_pixels",
            lambda r: f"class {r['class']!r} ({r['id']}) has no pixel in train; label some, or take the class out",
            least=1,
        ),
        rule(
            "no id stands twice in a split", "samples", "unique", ("split", "id"),
            lambda r: f"{r['image']}: another image of {r['split']} has the same id {r['id']!r}; rename one of them",
            _image,
        ),
        rule(
            "no image file stands twice", "samples", "absent", "same_file",
            lambda r: f"{r['image']}: is the same file as {r['twin']}; remove one of them", _twin,
        ),
        rule(
            "no image stands twice in another file", "samples", "absent", "same_pixels",
            lambda r: f"{r['image']}: has the same pixels as {r['twin']}; remove one of them", _twin,
        ),
        rule(
            f"no label is more than {limits.max_void_fraction:.0%} void", "samples", "between", "void_fraction",
            lambda r: f"{r['label']}: {r['void_fraction']:.1%} of it is void (255); label it, or remove the sample",
            _label, most=limits.max_void_fraction,
        ),
        rule(
            f"no image has a side below {limits.min_side}", "samples", "between", "short_side",
            lambda r: f"{r['image']}: {r['image_size']} is too small; sides below {limits.min_side} cannot be used",
            _image, least=limits.min_side,
        ),
    ]  # fmt: skip


def _warnings(limits: Limits) -> list[Rule]:
    rule = partial(_rule, "warning")
    return [
        rule(
            "every class is present in val", "classes", "between", "val_pixels", partial(_absent, "val"), least=1
        ),
        rule(
            "every class is present in test", "classes", "between", "test_pixels", partial(_absent, "test"), least=1
        ),
        rule(
            "no class is rare in train", "classes", "between", "train_fraction",
            lambda r: f"class {r['class']!r} is {r['train_fraction']:.3%} of train; consider class weights",
            least=limits.rare_class_fraction,
        ),
        rule(
            f"no split has fewer than {SMALL_SPLIT} samples", "splits", "between", "samples",
            lambda r: f"{r['split']}: has only {r['samples']} of at least {SMALL_SPLIT} samples; "
            "figures measured on it vary by chance",
            least=SMALL_SPLIT,
        ),
        rule(
            "splits are as dataset.json counts them", "splits", "equal", ("samples", "declared"),
            lambda r: f"{r['split']}: has {r['samples']} samples, but dataset.json says {r['declared']}",
        ),
        rule(
            "all images of a split have one size", "splits", "between", "sizes",
            lambda r: f"{r['split']}: images come in {r['sizes']} sizes, {r['smallest']} to {r['largest']}; training "
            "crops them, by train.augment.crop or as it chooses from the data",
            most=1,
        ),
        rule(
            "no two images share one label map", "samples", "absent", "label_twin",
            lambda r: f"{r['label']}: is the same label as {r['label_twin']}, under another image", _label,
        ),
        rule(
            "every file belongs to a sample", "strays", "absent", "why",
            lambda r: f"{r['path']}: {r['why']}", lambda r: [r["path"]],
        ),
    ]  # fmt: skip
