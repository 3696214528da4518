"""Mapillary Vistas: streets all over the world, 65 classes of version 1.2 or 123 of version 2.0.

Neuhold, Ollmann, Rota Bulò, Kontschieder, "The Mapillary Vistas Dataset for Semantic Understanding of Street Scenes"
(ICCV 2017). Ids: places in `labels` of the archive's `config_v1.2.json` or `config_v2.0.json`, which is read where it
is there; what it says is not evaluated (Unlabeled) is void. Instances: `demo.py` of the archive.

    {training,validation}/images/X.jpg
    {training,validation}/v1.2/labels/X.png          palette PNG of ids; version 1.1 has `labels/` alone
    {training,validation}/v1.2/instances/X.png       16 bits, id * 256 + number
    {training,validation}/v2.0/…

Where both versions are there, 1.2 is read; `data.format: vistas_v2` reads 2.0. `testing` has no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.files import read_json

SPLITS = {"training": "train", "validation": "val"}
VERSIONS = {"v1.2": "vistas12", "v2.0": "vistas20", ".": "vistas12"}


def detect(root: Path, versions: tuple[str, ...] = tuple(VERSIONS)) -> Fit | None:
    """Tell how a folder fits one of these versions."""
    if (version := _version(root, versions)) is None:
        return None
    there = first(root, "training/images/*.jpg") or first(root, "validation/images/*.jpg")
    return Fit(f"training/{version}/labels/", "" if there else "{training,validation}/images/*.jpg")


def _version(root: Path, versions: tuple[str, ...]) -> str | None:
    # Folders of version 1.1 are called as anybody's might be; its archive has a description beside them.
    named = [v for v in versions if v != "." or first(root, "config*.json")]
    return next((v for v in named if any(first(root, f"{s}/{v}/labels/*.png") for s in SPLITS)), None)


def reading(root: Path, job: Job, versions: tuple[str, ...] = tuple(VERSIONS)) -> Reading:
    """Return the samples of the first version that is there."""
    version = _version(root, versions) or versions[0]
    table, void, things = _table(root, version)

    def samples() -> Iterator[Raw]:
        for folder, split in SPLITS.items():
            truth = root / folder / version
            for image, label in paired(image_files(root / folder / "images"), named_alike(truth / "labels"), job):
                numbers = truth / "instances" / label.name
                targets: dict[str, Decoder] = {}
                if numbers.is_file() and things:
                    targets["instances"] = partial(_objects, numbers, things)
                yield Raw(image.stem, image, by_id(label, table.ids(*void)), split, targets=targets)

    return Reading(table.classes, samples(), "vistas")


def _table(root: Path, version: str) -> tuple[Table, list[int], list[int]]:
    """Return the classes, the ids that are void, and those whose objects are told apart."""
    names = (f"config_{version}.json", "config.json")
    config = next((root / name for name in names if (root / name).is_file()), None)
    if config is None:
        table = Table.official(VERSIONS[version])
        return table, [len(table.rows)], []
    try:
        labels: list[dict[str, Any]] = read_json(config)["labels"]
        told = [(i, bool(v.get("evaluate", True)), bool(v.get("instances"))) for i, v in enumerate(labels)]
        rows = [(i, ClassInfo(labels[i]["readable"], tuple(labels[i]["color"][:3]))) for i, counts, _ in told if counts]
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{config}: is not the list of classes of Mapillary Vistas ({error}); restore it") from None
    return Table(tuple(rows)), [i for i, counts, _ in told if not counts], [i for i, _, thing in told if thing]


def _objects(path: Path, things: list[int]) -> np.ndarray:
    values = values_of(path)
    return instances_of(np.where(np.isin(values >> 8, things), values + 1, 0))


LAYOUT = Layout(
    "vistas",
    "Mapillary Vistas",
    home="https://www.mapillary.com/dataset/vistas",
    licence="CC BY-NC-SA 4.0 (research edition)",
    looks_for="{training,validation}/v1.2/labels/ (v2.0/labels/, labels/) beside images/",
    read=reading,
    detect=detect,
    obtain="register on its page",
    targets=("instances",),
    classes="65 or 123",
)
