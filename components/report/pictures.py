"""The page's pictures: the same images through every model, and each model's best and worst."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.report.rows import Row
from segmodels.data.bands import Bands, view
from segmodels.data.folder import DatasetInfo, Sample, samples
from segmodels.data.images import open_image
from segmodels.data.targets import target
from segmodels.tasks.base import Part, Task

KINDS = ("best", "median", "worst")


def comparison(
    data: Path,
    info: DatasetInfo,
    task: Task,
    parts: Sequence[Part],
    rows: list[Row],
    evaluations: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """Return the same images through every model: image, truth, and each prediction with how good it is.

    Args:
        data: The dataset folder.
        info: Its description.
        task: What the models predict.
        parts: The parts of its predictions, which give the colours.
        rows: The models, the best first.
        evaluations: Key -> folder that `evaluate` wrote.

    Raises:
        DatasetError: The split is not there, or an image lacks a target.
    """
    name = task.info.needs[0]
    kind, stored, bands = target(name), info.targets.get(name, {}), Bands.of(info.image)
    split = str(rows[0].metrics["split"])
    known: dict[str, Sample] = {sample.id: sample for sample in samples(data, split, task.info.needs)}
    shared = [{p.stem for p in (evaluations[row.key] / "predictions").glob("*.png")} for row in rows]
    width = _tile_width(len(rows) + 2)
    strips = []
    for sample_id in sorted(set.intersection(*shared) & set(known)):
        sample = known[sample_id]
        truth = task.value(kind.read(sample.targets[name], stored))
        files = [evaluations[row.key] / "predictions" / f"{sample_id}.png" for row in rows]
        values = [task.value(kind.read(file, stored)) for file in files]
        pictures = [_map(drawn, width) for drawn in task.draw([truth, *values], parts)]
        tiles = [
            {"name": "image", "src": _photo(view(bands.read(sample.image)), width), "note": ""},
            {"name": "truth", "src": pictures[0], "note": ""},
        ]
        for row, value, picture in zip(rows, values, pictures[1:], strict=True):
            tiles.append({"name": row.key, "src": picture, "note": task.note(truth, value)})
        strips.append({"id": sample_id, "tiles": tiles})
    return strips


def gallery(evaluation: Path, models: int) -> list[dict[str, str]]:
    """Return the best, median and worst pictures of a model.

    Args:
        evaluation: The folder that `evaluate` wrote.
        models: How many models the page shows; the pictures are smaller where they are many.
    """
    width = max(480, min(1100, 13000 // models))
    pictures = []
    for kind in KINDS:
        for path in sorted((evaluation / "pictures").glob(f"{kind}-*.png")):
            with open_image(path) as picture:
                src = _photo(np.asarray(picture.convert("RGB")), width)
            pictures.append({"kind": kind, "id": path.stem.partition("-")[2], "src": src})
    return pictures


def _tile_width(tiles: int) -> int:
    """Return pixels of a picture in the comparison: fewer where there are many, so that the page stays small."""
    return max(160, min(360, 3600 // tiles))


def _photo(image: np.ndarray, width: int) -> str:
    picture = Image.fromarray(image)
    if picture.width > width:
        picture = picture.resize(
            (width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS
        )
    return _embed(picture, quality=80)


def _map(drawn: np.ndarray, width: int) -> str:
    picture = Image.fromarray(drawn)
    if picture.width > width:
        picture = picture.resize(
            (width, max(1, round(picture.height * width / picture.width))), Image.Resampling.NEAREST
        )
    return _embed(picture, lossless=True)


def _embed(picture: Image.Image, **settings: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", method=4, **settings)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
