"""What depth estimation computes: the logarithm of metres, learnt and measured by relative errors.

Figures are those of Eigen et al. (NIPS 2014, section 4.2), pooled over the pixels of all images: AbsRel, RMSE and the
shares of pixels whose ratio to the truth is below 1.25, its square and its cube. si-RMSE (Li et al., CVPR 2019) is the
root of the images' mean variance of the log error: how good depths are when each image's scale is free.

`max_depth` leaves pixels whose true depth is farther out of losses and figures, and lets predictions count as at most
so far, as KITTI's protocol does with 80 m (mrharicot/monodepth: utils/evaluate_kitti.py) and NYU's with 10 m
(cleinc/bts: pytorch/bts_eval.py). Predictions themselves stay as they are.
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
from segmodels.tasks.depth import INFO

if TYPE_CHECKING:
    from torch import Tensor, nn

    from segmodels.data.folder import ClassInfo
    from segmodels.data.frequencies import ClassCounts
    from segmodels.settings.schema import EvaluateSettings, TrainSettings

EDGES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # metres between the ranges by which errors are counted
# A PNG's 16 bits in steps that many benchmarks share (KITTI's depth devkit): metres are the value over 256.
STEPS = 256
NEAREST_LOG, FARTHEST_LOG = -7.0, 7.0  # about a millimetre, and a kilometre
WORST = 0.5  # the relative error that is drawn as wrong altogether


class Depth(Task):
    """Metres along the optical axis; 0 is unknown."""

    info = INFO

    def channels(self, classes: Sequence[ClassInfo]) -> int:
        return 1

    def parts(self, classes: Sequence[ClassInfo]) -> tuple[Part, ...]:
        names = [f"{low:g} to {high:g} m" for low, high in zip((0.0, *EDGES), EDGES, strict=False)]
        names.append(f"{EDGES[-1]:g} m and more")
        colors = pictures.colormap(np.linspace(0, 1, len(names)))
        return tuple(Part(name, (int(r), int(g), int(b))) for name, (r, g, b) in zip(names, colors, strict=True))

    def activate(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithm of metres."""
        return outputs["out"].float().clamp(NEAREST_LOG, FARTHEST_LOG)

    def restore(self, maps: Tensor, *, mirrored: bool, scale: float) -> Tensor:
        # What is shown twice as large looks half as far away.
        return super().restore(maps, mirrored=mirrored, scale=scale) + float(np.log(scale))

    def decide(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        return maps[:, 0].exp(), None

    def criterion(self, settings: TrainSettings, counts: ClassCounts | None) -> nn.Module:
        from segmodels.tasks.criteria import WeightedSum
        from segmodels.tasks.depth import losses

        terms = settings.loss or INFO.loss
        INFO.check_loss(terms)
        total = WeightedSum({name: (weight, losses.TERMS[name]()) for name, weight in terms.items()})
        return total if settings.max_depth is None else losses.UpTo(total, settings.max_depth)

    def plain_criterion(self, settings: TrainSettings) -> nn.Module:
        from segmodels.tasks.depth import losses

        plain = losses.SILog()
        return plain if settings.max_depth is None else losses.UpTo(plain, settings.max_depth)

    def summed(self, channels: int, settings: TrainSettings) -> Any:
        from segmodels.tasks.depth.summed import DepthErrors

        return DepthErrors(settings.max_depth)

    def count(
        self, prediction: Prediction, truth: Mapping[str, Tensor], parts: Sequence[Part], settings: EvaluateSettings
    ) -> Counts:
        """Return sums over the pixels of each range of true depth.

        `pixels`: int64 `[K]`. `relative`, `square`: summed relative and squared errors `[K]`. `close`: pixels less than
        1.25, its square and its cube times off, int64 `[3]`. `log`: the variance of the log error, of the image.
        """
        target, farthest = truth["depth"].numpy(), np.inf if settings.max_depth is None else settings.max_depth
        known = (target > 0) & (target <= farthest)
        there = target[known].astype(np.float64)
        given = np.minimum(prediction.value[known].astype(np.float64), farthest)
        which, predicted = np.digitize(there, EDGES), np.digitize(given, EDGES)
        count = len(parts)
        relative, square = np.abs(given - there) / there, (given - there) ** 2
        ratio = np.maximum(given / there, there / given)
        log = np.log(given) - np.log(there)
        each = {
            "pixels": np.bincount(which, minlength=count),
            "relative": np.bincount(which, weights=relative, minlength=count),
            "square": np.bincount(which, weights=square, minlength=count),
            "close": np.array([(ratio < 1.25**power).sum() for power in (1, 2, 3)]),
            "log": np.array(log.var() if len(log) else np.nan),
        }
        confusion = np.bincount(which * count + predicted, minlength=count**2).reshape(count, count)
        return Counts(each, confusion, -float(relative.mean()) if len(relative) else 0.0)

    def figures(self, measured: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = measured.counts
        pixels, relative, square = (weights @ counts[name] for name in ("pixels", "relative", "square"))
        total = pixels.sum(-1)
        close = over(weights @ counts["close"], total[:, None])
        log = counts["log"]
        has = np.isfinite(log)
        each = over(relative, pixels)
        return {
            "abs_rel": over(relative.sum(-1), total),
            "rmse": np.sqrt(over(square.sum(-1), total)),
            "si_rmse": np.sqrt(over(weights @ np.where(has, log, 0.0), weights @ has)),
            **{f"delta{power}": close[:, power - 1] for power in (1, 2, 3)},
            **{f"abs_rel/{name}": each[:, index] for index, name in enumerate(measured.parts)},
        }

    def table(self, measured: Tally, confusion: np.ndarray) -> tuple[list[str], list[list[Any]]]:
        pixels, relative, square = (measured.counts[name].sum(0) for name in ("pixels", "relative", "square"))
        errors, deviations = over(relative, pixels), np.sqrt(over(square, pixels))
        rows = zip(measured.parts, errors, deviations, pixels, strict=True)
        return (
            ["class", "abs_rel", "rmse", "pixels"],
            [[name, *[float(v) if np.isfinite(v) else "" for v in values], int(n)] for name, *values, n in rows],
        )

    def describe(self, prediction: Prediction, parts: Sequence[Part]) -> tuple[np.ndarray, float | None, np.ndarray]:
        flat = prediction.value.ravel()
        shares = np.bincount(np.digitize(flat, EDGES), minlength=len(parts)) / flat.size
        return shares, float(np.median(flat)), np.full(len(parts), np.nan)

    def draw(self, values: Sequence[np.ndarray], parts: Sequence[Part]) -> list[np.ndarray]:
        low, high = _range(values[0])
        return [_colors(value, low, high) for value in values]

    def key_picture(self, truth: np.ndarray, parts: Sequence[Part]) -> np.ndarray | None:
        low, high = _range(truth)
        middle = (low * high) ** 0.5
        return pictures.scale(truth.shape[0], [f"{value:.3g} m" for value in (low, middle, high)])

    def errors(self, truth: np.ndarray, value: np.ndarray) -> np.ndarray:
        known = truth > 0
        wrong = np.abs(value - truth) / np.where(known, truth, 1.0) / WORST
        return pictures.graded(np.where(known, wrong, np.nan))

    def note(self, truth: np.ndarray, value: np.ndarray) -> str:
        known = truth > 0
        error = (np.abs(value - truth)[known] / truth[known]).mean() if known.any() else np.nan
        return f"AbsRel {INFO.main.show(float(error))}"

    def overlay(self, image: np.ndarray, value: np.ndarray, palette: Palette, alpha: float) -> np.ndarray:
        return pictures.mixed(image, self.draw([value], ())[0], alpha)

    def write(self, value: np.ndarray, palette: Palette, path: Path) -> None:
        pictures.save(_image(value), path, "PNG", pnginfo=pictures.marked())

    def raster(self) -> dict[str, Any]:
        return {"dtype": "float32", "count": 1, "nodata": 0.0}

    def forms(self) -> Mapping[str, Form]:
        return {
            "depth": Form({"image/png": lambda a: pictures.png(_image(a.value))}),
            "overlay": pictures.overlay_form(self),
            "npy": Form({"application/x-npy": lambda a: pictures.npy(a.value)}),
        }

    def outputs(self) -> Mapping[str, Mapping[str, Any]]:
        shape = ["batch", "height", "width"]
        return {"depth": {"dtype": "float32", "shape": shape, "content": "metres along the optical axis"}}


def _range(value: np.ndarray) -> tuple[float, float]:
    """Return the nearest and the farthest depth of a scale, metres: nearly all of what is known."""
    known = value[np.isfinite(value) & (value > 0)]
    low, high = np.percentile(known, [1, 99]) if len(known) else (1.0, 10.0)
    return float(low), float(max(high, 1.05 * low))


def _colors(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return colours of depths on a logarithmic scale; what is unknown is black."""
    known = np.isfinite(value) & (value > 0)
    place = np.log(np.where(known, value, low) / low) / np.log(high / low)
    drawn = pictures.colormap(np.clip(place, 0, 1))
    return np.where(known[..., None], drawn, np.uint8(0))


def _image(value: np.ndarray) -> Image.Image:
    """Return depths as a picture of 16 bits, in steps of 1/256 m; 0 is unknown, the farthest is 255.99 m."""
    known = np.isfinite(value) & (value > 0)
    steps = np.clip(np.rint(np.where(known, value, 0.0) * np.float64(STEPS)), 1, 65535)
    return Image.fromarray(np.where(known, steps, 0).astype(np.uint16))


TASK = Depth()
