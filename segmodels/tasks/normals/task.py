"""What surface normals compute: unit vectors, learnt and measured by the angle to the truth.

Figures follow Fouhey et al. (ICCV 2013): only pixels with a normal, both vectors of unit length, the cosine clamped to
-1..1, the errors of all images pooled; mean, median and the shares under 11.25, 22.5 and 30 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segmodels.data.palette import Palette
from segmodels.tasks import pictures
from segmodels.tasks.base import Counts, Form, Part, Prediction, Tally, Task, over
from segmodels.tasks.normals import INFO

if TYPE_CHECKING:
    from torch import Tensor, nn

    from segmodels.data.folder import ClassInfo
    from segmodels.data.frequencies import ClassCounts
    from segmodels.settings.schema import EvaluateSettings, TrainSettings

UNDER = (11.25, 22.5, 30.0)  # degrees
BINS = 1800  # of angles, a tenth of a degree each: what the median is found in
WORST = 45.0  # the angle that is drawn as wrong altogether
# Axis and sign of the largest component: what predictions are counted by.
DIRECTIONS = ("right", "left", "down", "up", "the camera")


class Normals(Task):
    """Unit vectors in camera coordinates, x right, y down, z forward; zero is unknown."""

    info = INFO

    def channels(self, classes: Sequence[ClassInfo]) -> int:
        return 3

    def parts(self, classes: Sequence[ClassInfo]) -> tuple[Part, ...]:
        vectors = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]], np.float32)
        colors = _colors(vectors[None])[0]
        return tuple(
            Part(f"faces {name}", (int(r), int(g), int(b))) for name, (r, g, b) in zip(DIRECTIONS, colors, strict=True)
        )

    def activate(self, outputs: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional as F

        return F.normalize(outputs["out"].float(), dim=1)

    def restore(self, maps: Tensor, *, mirrored: bool, scale: float) -> Tensor:
        if not mirrored:
            return maps
        return maps.flip(-1) * maps.new_tensor([-1.0, 1.0, 1.0])[:, None, None]

    def decide(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        from torch.nn import functional as F

        # Means of unit vectors are shorter.
        return F.normalize(maps, dim=1).permute(0, 2, 3, 1), None

    def criterion(self, settings: TrainSettings, counts: ClassCounts | None) -> nn.Module:
        from segmodels.tasks.criteria import WeightedSum
        from segmodels.tasks.normals import losses

        terms = settings.loss or INFO.loss
        INFO.check_loss(terms)
        return WeightedSum({name: (weight, losses.TERMS[name]()) for name, weight in terms.items()})

    def plain_criterion(self, settings: TrainSettings) -> nn.Module:
        from segmodels.tasks.normals import losses

        return losses.Angular()

    def summed(self, channels: int, settings: TrainSettings) -> Any:
        from segmodels.tasks.normals.summed import AngularErrors

        return AngularErrors()

    def count(
        self, prediction: Prediction, truth: Mapping[str, Tensor], parts: Sequence[Part], settings: EvaluateSettings
    ) -> Counts:
        """Return the angles of an image.

        `pixels` and `degrees`: pixels and summed angles of each true direction, `[K]`. `under`: pixels under each
        threshold, int64 `[3]`. `angles`: pixels in each tenth of a degree, int32 `[1800]`.
        """
        target = truth["normals"].permute(1, 2, 0).numpy()
        known = np.any(target != 0, axis=-1)
        there, given = target[known].astype(np.float64), prediction.value[known].astype(np.float64)
        degrees = np.degrees(np.arccos(np.clip((there * given).sum(-1), -1, 1)))
        which, predicted, count = _direction(there), _direction(given), len(parts)
        place = np.minimum((degrees * (BINS / 180)).astype(np.int64), BINS - 1)
        each = {
            "pixels": np.bincount(which, minlength=count),
            "degrees": np.bincount(which, weights=degrees, minlength=count),
            "under": np.array([(degrees < limit).sum() for limit in UNDER]),
            "angles": np.bincount(place, minlength=BINS).astype(np.int32),
        }
        confusion = np.bincount(which * count + predicted, minlength=count**2).reshape(count, count)
        return Counts(each, confusion, -float(degrees.mean()) if len(degrees) else 0.0)

    def figures(self, measured: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = measured.counts
        pixels, degrees, under = (weights @ counts[name] for name in ("pixels", "degrees", "under"))
        total = pixels.sum(-1)
        each = over(degrees, pixels)
        shares = over(under, total[:, None])
        return {
            "mean_angle": over(degrees.sum(-1), total),
            "median_angle": median(weights @ counts["angles"]),
            **{key: shares[:, index] for index, key in enumerate(("under_11", "under_22", "under_30"))},
            **{f"mean_angle/{name}": each[:, index] for index, name in enumerate(measured.parts)},
        }

    def table(self, measured: Tally, confusion: np.ndarray) -> tuple[list[str], list[list[Any]]]:
        pixels, degrees = (measured.counts[name].sum(0) for name in ("pixels", "degrees"))
        rows = zip(measured.parts, over(degrees, pixels), pixels, strict=True)
        return (
            ["class", "mean_angle", "pixels"],
            [[name, float(angle) if np.isfinite(angle) else "", int(n)] for name, angle, n in rows],
        )

    def describe(self, prediction: Prediction, parts: Sequence[Part]) -> tuple[np.ndarray, float | None, np.ndarray]:
        flat = prediction.value.reshape(-1, 3)
        shares = np.bincount(_direction(flat), minlength=len(parts)) / len(flat)
        return shares, float(-flat[:, 2].mean(dtype=np.float64)), np.full(len(parts), np.nan)

    def draw(self, values: Sequence[np.ndarray], parts: Sequence[Part]) -> list[np.ndarray]:
        return [_colors(value) for value in values]

    def errors(self, truth: np.ndarray, value: np.ndarray) -> np.ndarray:
        known = np.any(truth != 0, axis=-1)
        degrees = np.degrees(np.arccos(np.clip((truth * value).sum(-1), -1, 1)))
        return pictures.graded(np.where(known, degrees / WORST, np.nan))

    def note(self, truth: np.ndarray, value: np.ndarray) -> str:
        known = np.any(truth != 0, axis=-1)
        degrees = np.degrees(np.arccos(np.clip((truth * value).sum(-1)[known], -1, 1)))
        return INFO.main.show(float(degrees.mean()) if len(degrees) else None)

    def overlay(self, image: np.ndarray, value: np.ndarray, palette: Palette, alpha: float) -> np.ndarray:
        return pictures.mixed(image, _colors(value), alpha)

    def write(self, value: np.ndarray, palette: Palette, path: Path) -> None:
        pictures.save(Image.fromarray(_colors(value)), path, "PNG", pnginfo=pictures.marked())

    def raster(self) -> dict[str, Any]:
        return {"dtype": "float32", "count": 3, "nodata": 0.0}

    def forms(self) -> Mapping[str, Form]:
        return {
            "normals": Form({"image/png": lambda a: pictures.png(Image.fromarray(_colors(a.value)))}),
            "overlay": pictures.overlay_form(self),
            "npy": Form({"application/x-npy": lambda a: pictures.npy(a.value)}),
        }

    def outputs(self) -> Mapping[str, Mapping[str, Any]]:
        shape = ["batch", "height", "width", 3]
        content = "unit vectors in camera coordinates: x right, y down, z forward"
        return {"normals": {"dtype": "float32", "shape": shape, "content": content}}


def median(angles: np.ndarray) -> np.ndarray:
    """Return the median angle in degrees, `[B]`, of pixels in tenths of a degree, `[B, 1800]`; NaN without pixels."""
    total = angles.cumsum(-1)
    half = total[:, -1:] / 2
    place = (total < half).sum(-1).clip(max=angles.shape[-1] - 1)
    rows = np.arange(len(angles))
    before = total[rows, place] - angles[rows, place]
    inside = np.divide(
        half[:, 0] - before, angles[rows, place], out=np.zeros(len(angles)), where=angles[rows, place] > 0
    )
    medians: np.ndarray = np.where(total[:, -1] > 0, (place + inside) * (180 / angles.shape[-1]), np.nan)
    return medians


def _direction(vectors: np.ndarray) -> np.ndarray:
    """Return the index in `DIRECTIONS` of vectors `[..., 3]`: that of their largest component."""
    axis = np.abs(vectors).argmax(-1)
    negative = np.take_along_axis(vectors, axis[..., None], -1)[..., 0] < 0
    return np.where(axis == 2, 4, 2 * axis + negative)


def _colors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as colours, uint8 `[..., 3]`: (n + 1) * 127.5; what is unknown is black."""
    known = np.any(vectors != 0, axis=-1, keepdims=True)
    colors: np.ndarray = np.where(known, np.rint((vectors + 1) * 127.5), 0).astype(np.uint8)
    return colors


TASK = Normals()
