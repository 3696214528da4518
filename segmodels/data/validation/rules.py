"""The rules of a dataset folder: what each asks, how grave it is, and what is said where it is not met."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from segmodels.data.folder import ClassInfo, DatasetError, DatasetInfo
from segmodels.data.validation.table import Row, Table
from segmodels.errors import nearest, shown

SMALL_SPLIT = 10
# Labels of CamVid have 0.3 % at most, those of `streets` 0.5 %.
SALT = 0.02
# CamVid's official splits: 0.04 and 1.04; `streets`: 0.005 and 0.47.
CLASS_DRIFT, LIGHT_DRIFT, SIZE_DRIFT = 0.1, 1.5, 2.0
# What is asked of labels, which a dataset without classes has not.
OF_LABELS = frozenset(
    {"missing_label", "unreadable_label", "size_mismatch", "turned_image", "unknown_ids", "class_not_in_train"}
    | {"mostly_void", "class_not_in_val", "class_not_in_test", "rare_class", "same_label", "foreign_label"}
    | {"swapped_classes", "salt_noise", "single_class", "one_class", "class_drift"}
)
Severity = Literal["critical", "warning"]
Wanted = Literal["critical", "warning", "ignore"]


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
        key: Its name in settings and reports.
        name: What holds when it is met, in words.
        table: `samples`, `strays`, `classes`, `splits` or `sequences`.
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

    key: str
    name: str
    table: str
    severity: Severity
    holds: Literal["absent", "present", "between", "equal", "unique"]
    columns: tuple[str, ...]
    describe: Callable[[Row], str]
    files: Callable[[Row], list[str]] = lambda row: []
    least: float | None = None
    most: float | None = None

    def broken(self, table: Table) -> list[int]:
        """Return the indices of the rows that do not meet it."""
        looked_at = list(zip(*(table.columns[name] for name in self.columns), strict=True))
        if self.holds == "unique":
            held = Counter(looked_at)
            return [i for i, values in enumerate(looked_at) if held[values] > 1]
        return [i for i, values in enumerate(looked_at) if not self._met(values)]

    def _met(self, values: Sequence[Any]) -> bool:
        if self.holds == "present":
            return values[0] is not None
        if self.holds == "absent":
            return values[0] is None
        if any(value is None for value in values):
            return True
        if self.holds == "equal":
            return bool(values[0] == values[1])
        return (self.least is None or values[0] >= self.least) and (self.most is None or values[0] <= self.most)


def rules(info: DatasetInfo, limits: Limits, severity: Mapping[str, str] | None = None) -> list[Rule]:
    """Return the rules of a dataset, errors before warnings.

    Args:
        info: The dataset's description.
        limits: What is still good.
        severity: Key of a rule -> `critical`, `warning` or `ignore`, in place of its own; what is ignored is no rule.

    Raises:
        DatasetError: No rule has such a key, or it is none of the three.
    """
    wanted = known_severity(severity or {})
    every = [*_errors(info, limits), *_warnings(limits)]
    if not info.num_classes:  # images for depth alone, say
        every = [rule for rule in every if rule.key not in OF_LABELS]
    kept = [replace(r, severity=wanted.get(r.key, r.severity)) for r in every if wanted.get(r.key) != "ignore"]
    return sorted(kept, key=lambda r: r.severity == "warning")


def known_severity(given: Mapping[str, str]) -> dict[str, Any]:
    """Return severities whose rules exist: as they are.

    Raises:
        DatasetError: No rule has such a key, or a severity is none.
    """
    keys = [rule.key for rule in every_rule()]
    for key, value in given.items():
        if key not in keys:
            raise DatasetError(f"severity: no rule is called {shown(key)}{nearest(key, keys)}")
        if value not in get_args(Wanted):
            raise DatasetError(f"severity: {key} is {shown(value)}; say {', '.join(get_args(Wanted))}")
    return dict(given)


def every_rule() -> list[Rule]:
    """Return all rules with their own severities, as of any dataset."""
    info = DatasetInfo("any", (ClassInfo("any", (0, 0, 0)),))
    return [*_errors(info, Limits()), *_warnings(Limits())]


def markdown() -> str:
    """Return the rules as the table of docs/validation.md."""
    lines = ["| rule | severity | what holds when it is met |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{r.key}` | {r.severity} | {_words(r)} |" for r in every_rule())])


def _words(rule: Rule) -> str:
    return "labels hold only ids of classes, and 255" if rule.key == "unknown_ids" else rule.name


def _rule(
    severity: Severity,
    key: str,
    name: str,
    table: str,
    holds: Any,
    column: str | tuple[str, ...],
    describe: Callable[[Row], str],
    files: Callable[[Row], list[str]] = lambda row: [],
    **bounds: float,
) -> Rule:
    looked_at = (column,) if isinstance(column, str) else column
    return Rule(key, name, table, severity, holds, looked_at, describe, files, **bounds)


def _image(row: Row) -> list[str]:
    return [row["image"]]


def _label(row: Row) -> list[str]:
    return [row["label"]]


def _twin(row: Row) -> list[str]:
    return [row["image"], row["twin"]]


def _pair(row: Row) -> list[str]:
    return [row["label"]] if row["label"] else [row["image"]]


def _absent(split: str, row: Row) -> str:
    return f"class {row['class']!r} has no pixel in {split}; its IoU there is undefined"


def _ids(bad: str) -> str:
    return f"labels {bad} are" if "," in bad else f"label {bad} is"


def _spread(bad: str) -> str:
    """Say of ids that are spread evenly over 0..255 what they probably are."""
    step = math.gcd(*map(int, bad.split(", ")))
    return f"; all are multiples of {step}, as in masks that are made to be looked at" if step >= 10 else ""


def _errors(info: DatasetInfo, limits: Limits) -> list[Rule]:
    rule = partial(_rule, "critical")
    last = info.num_classes - 1
    return [
        rule(
            "empty_split", "train and val have samples", "splits", "between", "needed_samples",
            lambda r: f"{r['split']}: has no samples; training and choosing a model need both train and val, at least "
            "one labelled image for each",
            least=1,
        ),
        rule(
            "missing_label", "every image has its label", "samples", "present", "label",
            lambda r: f"{r['image']}: has no label; {r['expected_label']} is missing: add it, or remove the image",
            _image,
        ),
        rule(
            "unreadable_image", "every image is readable and whole", "samples", "absent", "image_error",
            lambda r: r["image_error"], _image
        ),
        rule(
            "unreadable_label", "every label is readable, whole and single-channel", "samples", "absent", "label_error",
            lambda r: r["label_error"], _label,
        ),
        rule(
            "bad_target", "every further target is readable and fits its image", "samples", "absent", "target_error",
            lambda r: r["target_error"], _image,
        ),
        rule(
            "size_mismatch", "image and label have the same size", "samples", "equal",
            ("image_size", "settled_label_size"),
            lambda r: f"{r['label']}: is {r['label_size']}, but its image is {r['image_size']}; save them in one size",
            _label,
        ),
        rule(
            "turned_image", "labels lie as their image is shown", "samples", "absent", "turned",
            lambda r: f"{r['label']}: is {r['turned']} as its image is stored, but the image is shown turned, "
            f"{r['image_size']} (EXIF orientation {r['orientation']}); turn the label, too, or convert with `segmodels "
            "dataset convert --orientation stored`",
            _label,
        ),
        rule(
            "unknown_ids", f"labels hold only 0..{last} and 255", "samples", "absent", "bad_ids",
            lambda r: f"{r['label']}: {_ids(r['bad_ids'])} outside 0..{last} (ignore is 255){_spread(r['bad_ids'])}",
            _label,
        ),
        rule(
            "class_not_in_train", "every class is present in train", "classes", "between", "train_pixels",
            lambda r: f"class {r['class']!r} ({r['id']}) has no pixel in train; label some, or take the class out",
            least=1,
        ),
        rule(
            "same_id", "no id stands twice in a split", "samples", "unique", ("split", "id"),
            lambda r: f"{r['image']}: another image of {r['split']} has the same id {r['id']!r}; rename one of them",
            _image,
        ),
        rule(
            "same_file", "no image file stands twice", "samples", "absent", "same_file",
            lambda r: f"{r['image']}: is the same file as {r['twin']}; remove one of them", _twin,
        ),
        rule(
            "same_pixels", "no image stands twice in another file", "samples", "absent", "same_pixels",
            lambda r: f"{r['image']}: has the same pixels as {r['twin']}; remove one of them", _twin,
        ),
        rule(
            "mostly_void", f"no label is more than {limits.max_void_fraction:.0%} void", "samples", "between",
            "void_fraction",
            lambda r: f"{r['label']}: {r['void_fraction']:.1%} of it is void (255); label it, or remove the sample",
            _label, most=limits.max_void_fraction,
        ),
        rule(
            "small_image", f"no image has a side below {limits.min_side}", "samples", "between", "short_side",
            lambda r: f"{r['image']}: {r['image_size']} is too small; sides below {limits.min_side} cannot be used",
            _image, least=limits.min_side,
        ),
    ]  # fmt: skip


def _warnings(limits: Limits) -> list[Rule]:
    rule = partial(_rule, "warning")
    return [
        rule(
            "class_not_in_val", "every class is present in val", "classes", "between", "val_pixels",
            partial(_absent, "val"), least=1
        ),
        rule(
            "class_not_in_test", "every class is present in test", "classes", "between", "test_pixels",
            partial(_absent, "test"), least=1
        ),
        rule(
            "rare_class", "no class is rare in train", "classes", "between", "train_fraction",
            lambda r: f"class {r['class']!r} is {r['train_fraction']:.3%} of train; consider class weights",
            least=limits.rare_class_fraction,
        ),
        rule(
            "small_split", f"no split has fewer than {SMALL_SPLIT} samples", "splits", "between", "samples",
            lambda r: f"{r['split']}: has only {r['samples']} of at least {SMALL_SPLIT} samples; "
            "figures measured on it vary by chance",
            least=SMALL_SPLIT,
        ),
        rule(
            "declared_counts", "splits are as dataset.json counts them", "splits", "equal", ("samples", "declared"),
            lambda r: f"{r['split']}: has {r['samples']} samples, but dataset.json says {r['declared']}",
        ),
        rule(
            "several_sizes", "all images of a split have one size", "splits", "between", "sizes",
            lambda r: f"{r['split']}: images come in {r['sizes']} sizes, {r['smallest']} to {r['largest']}; training "
            "crops them, by train.augment.crop or as it chooses from the data",
            most=1,
        ),
        rule(
            "same_label", "no two images share one label map", "samples", "absent", "label_twin",
            lambda r: f"{r['label']}: is the same label as {r['label_twin']}, under another image",
            lambda r: [r["label"], r["label_twin"]],
        ),
        rule(
            "near_duplicate", "no image is almost one of another split", "samples", "absent", "near_twin",
            lambda r: f"{r['image']}: is almost {r['near_twin']} (encoded again, resized, mirrored, or a neighbouring "
            "frame), so the figures of its split are too good; remove one of them",
            lambda r: [r["image"], r["near_twin"]],
        ),
        rule(
            "shared_sequence", "no sequence has frames in two splits", "sequences", "absent", "splits",
            lambda r: f"sequence {r['sequence']!r} has frames in {r['splits']}; models have seen its places; split by "
            "sequences where the data leaves the choice",
        ),
        rule(
            "foreign_label", "the borders of a label fit its image", "samples", "absent", "misfit",
            lambda r: f"{r['label']}: its borders fit the edges of its image no better than when they are moved aside; "
            "see whether it belongs to another image",
            _pair,
        ),
        rule(
            "swapped_classes", "classes lie where they do in other labels", "samples", "absent", "swapped",
            lambda r: f"{r['label']}: {r['swapped']} lie each where the other one does elsewhere; see whether they are "
            "swapped",
            _pair,
        ),
        rule(
            "salt_noise", f"no label is more than {SALT:.0%} salt", "samples", "between", "salt_fraction",
            lambda r: f"{r['label']}: {r['salt_fraction']:.1%} of its pixels have a class that no neighbour has; "
            "such noise comes from resizing or from lossy files",
            _pair, most=SALT,
        ),
        rule(
            "single_class", "no label alone has a single class", "samples", "absent", "only_class",
            lambda r: f"{r['label']}: has nothing but {r['only_class']!r}, where nearly all labels have several",
            _pair,
        ),
        rule(
            "one_class", "train has more than one class", "splits", "between", "classes_held",
            lambda r: f"{r['split']}: its labels hold nothing but {r['only_class']!r}; a model learns to say that "
            "always (in black-and-white masks 255 is void here: `segmodels dataset convert --value 255=NAME`)",
            least=2,
        ),
        rule(
            "cut_image", "no JPEG ends in grey", "samples", "absent", "cut_rows",
            lambda r: f"{r['image']}: its last {r['cut_rows']} rows are one even grey, as of a JPEG that was cut; "
            "replace or remove it",
            _pair,
        ),
        rule(
            "class_drift", "splits have the classes of train", "splits", "between", "class_drift",
            lambda r: f"{r['split']}: its classes are distributed unlike those of train (Jensen-Shannon divergence "
            f"{r['class_drift']:.2f}, at most {CLASS_DRIFT} is usual)",
            most=CLASS_DRIFT,
        ),
        rule(
            "light_drift", "splits are as bright as train", "splits", "between", "light_drift",
            lambda r: f"{r['split']}: its images are of brightness {r['light']:.0f} on average, those of train of "
            f"{r['train_light']:.0f} (of 255), {r['light_drift']:.1f} deviations apart",
            most=LIGHT_DRIFT,
        ),
        rule(
            "size_drift", "splits have the sizes of train", "splits", "between", "size_drift",
            lambda r: f"{r['split']}: its images have sides of {r['side']:.0f} pixels, those of train of "
            f"{r['train_side']:.0f} (medians)",
            most=SIZE_DRIFT,
        ),
        rule(
            "stray_file", "every file belongs to a sample", "strays", "absent", "why",
            lambda r: f"{r['path']}: {r['why']}", lambda r: [r["path"]],
        ),
    ]  # fmt: skip
