"""Hugging Face's imagefolder with masks: `metadata.csv` or `.jsonl` names the files.

huggingface.co/docs/datasets, "Create an image dataset": a row has `file_name`, and further files in columns that end in
`file_name` (`mask_file_name`, `label_file_name`, …). How labels are coded is settled as for any folder of one's own.

    train/metadata.jsonl    {"file_name": "a.jpg", "mask_file_name": "masks/a.png"}
    metadata.csv            or one for all, with `train/a.jpg` in it
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.coco_json import located
from segmodels.data.formats.folder import Pair, read_pairs
from segmodels.data.formats.json_files import split_of
from segmodels.data.formats.layout import Fit, Job, Layout, Reading
from segmodels.files import read_text

KINDS = ("mask", "label", "annotation", "segmentation", "seg", "gt", "ground_truth")
COLUMNS = tuple(f"{kind}{ending}_file_name" for kind in KINDS for ending in ("", "s", "_image"))
NAMES = ("metadata.csv", "metadata.jsonl", "*/metadata.csv", "*/metadata.jsonl")


def _files(root: Path) -> Iterator[Path]:
    for name in NAMES:
        yield from sorted(root.glob(name))


def _rows(path: Path) -> list[dict[str, str]]:
    text = read_text(path, 1 << 28)
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DatasetError(f"{path}: has a line that is not JSON ({error})") from None


def _detect(root: Path) -> Fit | None:
    for path in _files(root):
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.readline()
        if "file_name" in head:
            column = next((c for c in COLUMNS if c in head), None)
            lacks = "" if column else "a column mask_file_name or label_file_name"
            return Fit(path.relative_to(root).as_posix() + (f" with {column}" if column else ""), lacks)
    return None


def _read(root: Path, job: Job) -> Reading:
    pairs = []
    for path in _files(root):
        for number, row in enumerate(_rows(path), 1):
            column = next((c for c in COLUMNS if row.get(c)), "")
            names = (str(row.get("file_name", "")), str(row.get(column, "")))
            image, label = (located(path.parent, name) if name else None for name in names)
            if image is None or label is None:
                missing = names[0] if image is None else names[1] or "the name of a mask"
                job.problems.append(f"{path}: row {number}: {missing} is not there; add it or take the row out")
                continue
            name = image.relative_to(root).with_suffix("").as_posix().replace("/", "_")
            pairs.append(Pair(split_of(image, root), name, image, label))
    return read_pairs(pairs, root, job)


LAYOUT = Layout(
    "huggingface",
    "Hugging Face imagefolder",
    home="https://huggingface.co/docs/datasets/image_dataset",
    licence="",
    looks_for="metadata.csv or metadata.jsonl with file_name and mask_file_name",
    read=_read,
    detect=_detect,
    splits="folders called train, validation, test; otherwise dealt",
    classes="of a list of classes, or of the labels",
    coded=True,
)
