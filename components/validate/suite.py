"""What the data must be: a great-expectations suite over the manifest.

The manifest is seen as four tables, with a row for each sample, stray file, class and split. A check is one
expectation on one table; a critical one stops the pipeline, a warning goes on to the model's card.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from components.params import Validate
from segmodels.data.dataset import SPLITS, DatasetInfo

SMALL_SPLIT = 10
SAID = 3
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One expectation.

    Attributes:
        name: What holds when it is met, in words.
        table: `samples`, `strays`, `classes` or `splits`.
        severity: `critical` or `warning`.
        expectation: The great-expectations object.
        describe: A sentence about a row that does not meet it.
        files: The files that such a row blames.
    """

    name: str
    table: str
    severity: Literal["critical", "warning"]
    expectation: Any
    describe: Callable[[Row], str]
    files: Callable[[Row], list[str]] = lambda row: []


@dataclass(frozen=True)
class Outcome:
    """What came of a check: an entry of `details` for each offender."""

    name: str
    severity: Literal["critical", "warning"]
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


def judge(tables: Mapping[str, pd.DataFrame], info: DatasetInfo, limits: Validate) -> list[Outcome]:
    """Runs every check and returns its outcome, in order.

    Args:
        tables: As `tables` makes them.
        info: The dataset's description.
        limits: `validate` of the parameters.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # it would send usage statistics
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("manifest")
    known = checks(info, limits)
    outcomes = {}
    for table, frame in tables.items():
        mine = [check for check in known if check.table == table]
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=[c.expectation for c in mine]))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
        result = definition.run(batch_parameters={"dataframe": frame}, result_format=wanted)
        by_name = {entry.expectation_config.meta["check"]: entry for entry in result.results}
        for check in mine:
            outcomes[check.name] = _outcome(check, by_name[check.name], frame)
    return [outcomes[check.name] for check in known]


def _outcome(check: Check, result: Any, frame: pd.DataFrame) -> Outcome:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"{check.name}: {result.exception_info['exception_message']}")
    if result.success:
        return Outcome(check.name, check.severity, len(frame))
    indices = sorted({int(entry["row"]) for entry in result.result["unexpected_index_list"]})
    rows: list[Row] = [dict(zip(frame.columns, frame.iloc[i], strict=True)) for i in indices]
    files = dict.fromkeys(file for row in rows for file in check.files(row))
    return Outcome(check.name, check.severity, len(frame), tuple(check.describe(row) for row in rows), tuple(files))


def checks(info: DatasetInfo, limits: Validate) -> list[Check]:
    """Every check of a dataset, errors before warnings."""
    return [*_errors(info, limits), *_warnings(limits)]


def _check(
    severity: Literal["critical", "warning"],
    name: str,
    table: str,
    expectation: Any,
    describe: Callable[[Row], str],
    files: Callable[[Row], list[str]] = lambda row: [],
    **wanted: Any,
) -> Check:
    made = expectation(severity=severity, meta={"check": name}, **wanted)
    return Check(name, table, severity, made, describe, files)


def _image(row: Row) -> list[str]:
    return [row["image"]]


def _label(row: Row) -> list[str]:
    return [row["label"]]


def _twin(row: Row) -> list[str]:
    return [row["image"], row["twin"]]


def _absent(split: str, row: Row) -> str:
    return f"class {row['class']!r} has no pixel in {split}; its IoU there is undefined"


def _errors(info: DatasetInfo, limits: Validate) -> list[Check]:
    from great_expectations import expectations as gxe

    check = partial(_check, "critical")
    null, known, between = (
        gxe.ExpectColumnValuesToBeNull,
        gxe.ExpectColumnValuesToNotBeNull,
        gxe.ExpectColumnValuesToBeBetween,
    )
    last = info.num_classes - 1
    return [
        check(
            "train and val have samples", "splits", between,
            lambda r: f"{r['split']}: has no samples; training and choosing a model need both train and val",
            column="needed_samples", min_value=1,
        ),
        check(
            "every image has its label", "samples", known,
            lambda r: f"{r['image']}: has no label; {r['expected_label']} is missing: add it, or remove the image",
            _image, column="label",
        ),
        check(
            "every image is readable and whole", "samples", null, lambda r: r["image_error"], _image,
            column="image_error",
        ),
        check(
            "every label is readable, whole and single-channel", "samples", null, lambda r: r["label_error"], _label,
            column="label_error",
        ),
        check(
            "image and label have the same size", "samples", gxe.ExpectColumnPairValuesToBeEqual,
            lambda r: f"{r['label']}: is {r['label_size']}, but its image is {r['image_size']}; save them in one size",
            _label, column_A="image_size", column_B="label_size", ignore_row_if="either_value_is_missing",
        ),
        check(
            f"labels hold only 0..{last} and 255", "samples", null,
            lambda r: f"{r['label']}: {_ids(r['bad_ids'])} outside 0..{last} (ignore is 255)", _label, column="bad_ids",
        ),
        check(
            "every class is present in train", "classes", between,
            lambda r: f"class {r['class']!r} ({r['id']}) has no pixel in train; label some, or take the class out",
            column="train_pixels", min_value=1,
        ),
        check(
            "no id stands twice in a split", "samples", gxe.ExpectCompoundColumnsToBeUnique,
            lambda r: f"{r['image']}: another image of {r['split']} has the same id {r['id']!r}; rename one of them",
            _image, column_list=["split", "id"],
        ),
        check(
            "no image file stands twice", "samples", null,
            lambda r: f"{r['image']}: is the same file as {r['twin']}; remove one of them", _twin, column="same_file",
        ),
        check(
            "no image stands twice in another file", "samples", null,
            lambda r: f"{r['image']}: has the same pixels as {r['twin']}; remove one of them", _twin,
            column="same_pixels",
        ),
        check(
            f"no label is more than {limits.max_void_fraction:.0%} void", "samples", between,
            lambda r: f"{r['label']}: {r['void_fraction']:.1%} of it is void (255); label it, or remove the sample",
            _label, column="void_fraction", max_value=limits.max_void_fraction,
        ),
        check(
            f"no image has a side below {limits.min_side}", "samples", between,
            lambda r: f"{r['image']}: {r['image_size']} is too small; sides below {limits.min_side} cannot be used",
            _image, column="short_side", min_value=limits.min_side,
        ),
    ]  # fmt: skip


def _warnings(limits: Validate) -> list[Check]:
    from great_expectations import expectations as gxe

    check = partial(_check, "warning")
    between = gxe.ExpectColumnValuesToBeBetween
    return [
        check(
            "every class is present in val", "classes", between, partial(_absent, "val"), column="val_pixels",
            min_value=1,
        ),
        check(
            "every class is present in test", "classes", between, partial(_absent, "test"), column="test_pixels",
            min_value=1,
        ),
        check(
            "no class is rare in train", "classes", between,
            lambda r: f"class {r['class']!r} is {r['train_fraction']:.3%} of train; consider class weights",
            column="train_fraction", min_value=limits.rare_class_fraction,
        ),
        check(
            f"no split has fewer than {SMALL_SPLIT} samples", "splits", between,
            lambda r: f"{r['split']}: has only {r['samples']} of at least {SMALL_SPLIT} samples; "
            "figures measured on it vary by chance",
            column="samples", min_value=SMALL_SPLIT,
        ),
        check(
            "splits are as dataset.json counts them", "splits", gxe.ExpectColumnPairValuesToBeEqual,
            lambda r: f"{r['split']}: has {r['samples']} samples, but dataset.json says {r['declared']}",
            column_A="samples", column_B="declared", ignore_row_if="either_value_is_missing",
        ),
        check(
            "all images of a split have one size", "splits", between,
            lambda r: f"{r['split']}: images come in {r['sizes']} sizes, {r['smallest']} to {r['largest']}; "
            "set train.augment.crop",
            column="sizes", max_value=1,
        ),
        check(
            "no two images share one label map", "samples", gxe.ExpectColumnValuesToBeNull,
            lambda r: f"{r['label']}: is the same label as {r['label_twin']}, under another image",
            _label, column="label_twin",
        ),
        check(
            "every file belongs to a sample", "strays", gxe.ExpectColumnValuesToBeNull,
            lambda r: f"{r['path']}: {r['why']}", lambda r: [r["path"]], column="why",
        ),
    ]  # fmt: skip


def tables(manifest: pd.DataFrame, strays: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """The manifest as the checks see it."""
    frames = {
        "samples": _samples(manifest),
        "strays": strays,
        "classes": class_table(manifest, info),
        "splits": _splits(manifest, info),
    }
    return {name: frame.reset_index(drop=True).assign(row=range(len(frame))) for name, frame in frames.items()}


def class_table(manifest: pd.DataFrame, info: DatasetInfo) -> pd.DataFrame:
    """A row per class: `class`, `id`, and `<split>_pixels` and `<split>_fraction` (of what is not void)."""
    columns: dict[str, Any] = {"class": info.class_names, "id": range(info.num_classes)}
    for split in SPLITS:
        mine = manifest[manifest["split"] == split]
        pixels = [int(mine[f"class_{i}"].sum()) for i in range(info.num_classes)]
        # A split that is not there is asked nothing.
        columns[f"{split}_pixels"] = pixels if len(mine) else [None] * len(pixels)
        columns[f"{split}_fraction"] = [count / sum(pixels) if count else None for count in pixels]
    return pd.DataFrame(columns)


def _samples(manifest: pd.DataFrame) -> pd.DataFrame:
    frame = manifest.copy()
    frame["expected_label"] = frame["split"] + "/labels/" + frame["id"] + ".png"
    frame["image_size"] = _size(frame, "width", "height")
    frame["label_size"] = _size(frame, "label_width", "label_height")
    frame["short_side"] = frame[["width", "height"]].min(axis=1)
    same_file, same_pixels = _twins(frame, "image_sha256"), _twins(frame, "pixels_sha256")
    frame["same_file"] = same_file
    frame["same_pixels"] = same_pixels.where(same_file.isna(), None)
    frame["twin"] = same_file.where(same_file.notna(), same_pixels)
    frame["label_twin"] = _twins(frame[_has_several_classes(frame)], "label_sha256").reindex(frame.index)
    frame["label_twin"] = frame["label_twin"].where(frame["twin"].isna() & frame["label_twin"].notna(), None)
    return frame


def _twins(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    """For each row the image (or label) of the row before it with the same hash; None where there is none."""
    shown = frame["label" if column == "label_sha256" else "image"]
    twins: pd.Series[Any] = pd.Series(None, index=frame.index, dtype="object")
    for _, same in frame[frame.duplicated(column, keep=False)].groupby(column, sort=False):
        for first, second in pairwise(same.index):
            twins[second] = shown[first]
    return twins


def _has_several_classes(frame: pd.DataFrame) -> pd.Series[Any]:
    counts = frame[[c for c in frame.columns if c.startswith("class_")]]
    return counts.gt(0).sum(axis=1) > 1


def _size(frame: pd.DataFrame, width: str, height: str) -> pd.Series[Any]:
    sizes = [None if pd.isna(w) else f"{w}x{h}" for w, h in zip(frame[width], frame[height], strict=True)]
    return pd.Series(sizes, index=frame.index, dtype="object")


def _splits(manifest: pd.DataFrame, info: DatasetInfo) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        mine = manifest[manifest["split"] == split]
        sizes = sorted(
            set(zip(mine["width"].dropna(), mine["height"].dropna(), strict=True)), key=lambda s: s[0] * s[1]
        )
        rows.append(
            {
                "split": split,
                "samples": len(mine) or None,
                "needed_samples": None if split == "test" else len(mine),
                "declared": info.splits.get(split),
                "sizes": len(sizes) or None,
                "smallest": "x".join(map(str, sizes[0])) if sizes else None,
                "largest": "x".join(map(str, sizes[-1])) if sizes else None,
            }
        )
    whole = dict.fromkeys(("samples", "needed_samples", "declared", "sizes"), "Int64")
    return pd.DataFrame(rows).astype(whole)


def _ids(bad: str) -> str:
    return f"labels {bad} are" if "," in bad else f"label {bad} is"
