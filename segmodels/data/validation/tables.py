"""What a scan of a dataset folder says, arranged as the rules see it: one row for each thing that they judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segmodels.data.folder import SPLITS, DatasetInfo
from segmodels.data.validation import labels
from segmodels.data.validation.near_duplicates import near
from segmodels.data.validation.scan import Scanned
from segmodels.data.validation.table import Row, Table

# Grey rows at the bottom of an image, and their share of it, that no picture ends with by chance.
_CUT_ROWS, _CUT_SHARE = 8, 0.02
# Images with such rows that are no accident but the way of the dataset.
_PADDED = 0.05


def tables(scanned: Scanned, lost: Sequence[Row], info: DatasetInfo) -> dict[str, Table]:
    """Return the tables `samples`, `strays`, `classes`, `splits` and `sequences`.

    Args:
        scanned: What `scan` gives.
        lost: What `strays` gives.
        info: The dataset's description.
    """
    return {
        "samples": _samples(scanned, info),
        "strays": Table.of(lost, ("path", "why")),
        "classes": _classes(scanned, info),
        "splits": _splits(scanned, info),
        "sequences": _sequences(info),
    }


def _samples(scanned: Scanned, info: DatasetInfo) -> Table:
    had = scanned.columns
    images, several = had["image"], labels.several_classes(scanned)
    file, same = _twins(had["image_sha256"], images), _twins(had["pixels_sha256"], images)
    twin = [one or other for one, other in zip(file, same, strict=True)]
    twins = _twins([h if many else None for h, many in zip(had["label_pixels"], several, strict=True)], had["label"])
    nearest = near(had["fingerprint"], had["split"], SPLITS)
    sizes = [_size(*size) for size in zip(had["width"], had["height"], strict=True)]
    label_sizes = [_size(*size) for size in zip(had["label_width"], had["label_height"], strict=True)]
    turned = [_stored(*row) for row in zip(had["orientation"], sizes, label_sizes, strict=True)]
    swapped = labels.swapped(scanned)
    names = info.class_names
    return Table(
        {
            **had,
            "expected_label": [f"{s}/labels/{i}.png" for s, i in zip(had["split"], had["id"], strict=True)],
            "image_size": sizes,
            "label_size": label_sizes,
            "settled_label_size": [None if t else s for t, s in zip(turned, label_sizes, strict=True)],
            "turned": turned,
            "short_side": [
                None if w is None else min(w, h) for w, h in zip(had["width"], had["height"], strict=True)
            ],
            "same_file": file,
            "same_pixels": [None if one else other for one, other in zip(file, same, strict=True)],
            "twin": twin,
            "label_twin": [
                # What is almost the same image has the same label, and is named for that.
                None if one or (at is not None and other == had["label"][at]) else other
                for one, at, other in zip(twin, nearest, twins, strict=True)
            ],
            "near_twin": [
                None if one or at is None else images[at] for one, at in zip(twin, nearest, strict=True)
            ],
            "misfit": labels.misfits(scanned),
            "swapped": [pair and f"{names[pair[0]]!r} and {names[pair[1]]!r}" for pair in swapped],
            "only_class": [None if only is None else names[only] for only in labels.lonely_classes(scanned)],
            "cut_rows": _cut(scanned),
        }
    )  # fmt: skip


def _twins(hashes: Sequence[str | None], shown: Sequence[str]) -> list[str | None]:
    """For each row what is shown of the row before it with the same hash; None where there is none."""
    last: dict[str, str] = {}
    twins: list[str | None] = []
    for digest, name in zip(hashes, shown, strict=True):
        twins.append(last.get(digest) if digest else None)
        if digest:
            last[digest] = name
    return twins


def _size(width: int | None, height: int | None) -> str | None:
    return None if width is None else f"{width}x{height}"


def _stored(orientation: int | None, image: str | None, label: str | None) -> str | None:
    """Return the size of a label that lies as the image's pixels are stored, and not as the image is shown."""
    if image is None or label is None or label == image or orientation not in (5, 6, 7, 8):
        return None
    width, height = image.split("x")
    return label if label == f"{height}x{width}" else None


def _cut(scanned: Scanned) -> list[int | None]:
    rows = [
        grey if grey and height > grey >= max(_CUT_ROWS, _CUT_SHARE * height) else None
        for grey, height in zip(scanned.columns["grey_rows"], scanned.columns["height"], strict=True)
    ]
    cut = sum(row is not None for row in rows)
    return rows if cut <= max(1, _PADDED * len(rows)) else [None] * len(rows)


def _classes(scanned: Scanned, info: DatasetInfo) -> Table:
    """Return a row per class: `class`, `id`, and `<split>_pixels` and `<split>_fraction` (of what is not void)."""
    columns: dict[str, list[Any]] = {"class": info.class_names, "id": list(range(info.num_classes))}
    for split in SPLITS:
        mine = scanned.of_split(split)
        pixels = np.maximum(scanned.counts[mine], 0).sum(0)
        # A split that is not there is asked nothing.
        columns[f"{split}_pixels"] = pixels.tolist() if len(mine) else [None] * info.num_classes
        columns[f"{split}_fraction"] = [count / int(pixels.sum()) if count else None for count in pixels.tolist()]
    return Table(columns)


def _splits(scanned: Scanned, info: DatasetInfo) -> Table:
    had = scanned.columns
    shares = {split: np.maximum(scanned.counts[scanned.of_split(split)], 0).sum(0) for split in SPLITS}
    lights = {split: _numbers(had["brightness"], scanned.of_split(split)) for split in SPLITS}
    train_size = _side(scanned, "train")
    rows = []
    for split in SPLITS:
        mine = scanned.of_split(split)
        sizes = {(had["width"][i], had["height"][i]) for i in mine if had["width"][i] is not None}
        ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        held, side = np.flatnonzero(shares[split]), _side(scanned, split)
        other = split != "train" and len(mine) > 0
        rows.append(
            {
                "split": split,
                "samples": len(mine) or None,
                "needed_samples": None if split == "test" else len(mine),
                "declared": info.splits.get(split),
                "sizes": len(ordered) or None,
                "smallest": _size(*ordered[0]) if ordered else None,
                "largest": _size(*ordered[-1]) if ordered else None,
                "classes_held": len(held) if split == "train" and len(held) else None,
                "only_class": info.class_names[held[0]] if len(held) else None,
                "class_drift": _divergence(shares["train"], shares[split]) if other else None,
                "light_drift": _apart(lights["train"], lights[split]) if other else None,
                "train_light": float(lights["train"].mean()) if len(lights["train"]) else None,
                "light": float(lights[split].mean()) if len(lights[split]) else None,
                "size_drift": max(side, train_size) / min(side, train_size) if other and side and train_size else None,
                "side": side,
                "train_side": train_size,
            }
        )
    return Table.of(rows)


def _numbers(values: Sequence[Any], rows: np.ndarray) -> np.ndarray:
    return np.array([values[i] for i in rows if values[i] is not None], float)


def _side(scanned: Scanned, split: str) -> float | None:
    """Return the side of a square with as many pixels as half of the split's images have at least."""
    mine = scanned.of_split(split)
    areas = _numbers(scanned.columns["width"], mine) * _numbers(scanned.columns["height"], mine)
    return float(np.sqrt(np.median(areas))) if len(areas) else None


def _divergence(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the Jensen-Shannon divergence of two distributions in bits, 0..1; None where one of them is empty."""
    if not first.sum() or not second.sum():
        return None
    one, other = first / first.sum(), second / second.sum()
    mixed = (one + other) / 2
    parts = [np.sum(p[p > 0] * np.log2(p[p > 0] / mixed[p > 0])) for p in (one, other)]
    return float(sum(parts) / 2)


def _apart(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return how far two means lie apart, in deviations of both; None where there are too few for one."""
    if min(len(first), len(second)) < 10:
        return None
    spread = np.sqrt((first.var() + second.var()) / 2)
    return float(abs(first.mean() - second.mean()) / max(float(spread), 1.0))


def _sequences(info: DatasetInfo) -> Table:
    held: dict[str, list[str]] = {}
    for split, named in info.sequences.items():
        for name in named:
            held.setdefault(name, []).append(split)
    shared = [", ".join(sorted(splits, key=SPLITS.index)) if len(splits) > 1 else None for splits in held.values()]
    return Table({"sequence": list(held), "splits": shared})
