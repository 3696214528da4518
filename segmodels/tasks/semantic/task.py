"""What semantic segmentation computes: classes of pixels, learnt by cross-entropy, measured by mIoU.

torch is imported where something is computed with it: reports draw without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, ClassInfo
from segmodels.data.palette import Palette
from segmodels.tasks.base import Answered, Counts, Form, Part, Prediction, Tally, Task
from segmodels.tasks.semantic import INFO, forms, pictures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from segmodels.data.frequencies import ClassCounts
    from segmodels.settings.schema import EvaluateSettings, TrainSettings


class Semantic(Task):
    """One class for each pixel, of at most 255; 255 is void."""

    info = INFO

    def channels(self, classes: Sequence[ClassInfo]) -> int:
        return len(classes)

    def parts(self, classes: Sequence[ClassInfo]) -> tuple[Part, ...]:
        return tuple(Part(one.name, one.color) for one in classes)

    def activate(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities."""
        return outputs["out"].float().softmax(1)

    def decide(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        return most_likely(maps)

    def decide_at_once(self, outputs: Mapping[str, Tensor], *, confident: bool) -> tuple[Tensor, Tensor | None]:
        """Return the classes of the largest logits, and where asked for their probability, without a softmax."""
        logits = outputs["out"]
        classes, best = most_likely(logits)
        if not confident:
            return classes, None
        return classes, (logits.float() - best.float()[:, None]).exp_().sum(1).reciprocal_()

    def criterion(self, settings: TrainSettings, counts: ClassCounts | None) -> nn.Module:
        from segmodels.tasks.semantic import losses

        INFO.check_loss(settings.loss)
        weight = losses.class_weights(counts, settings.class_weights) if counts is not None else None
        return losses.OnLabels(
            losses.build(
                settings.loss or INFO.loss,
                class_weight=weight,
                label_smoothing=settings.label_smoothing,
                reduction=settings.reduction,
            )
        )

    def plain_criterion(self, settings: TrainSettings) -> nn.Module:
        from segmodels.tasks.semantic import losses

        return losses.OnLabels(losses.CrossEntropy())

    def summed(self, channels: int, settings: TrainSettings) -> Any:
        from segmodels.tasks.semantic.summed import ConfusionMatrix

        return ConfusionMatrix(channels)

    def count(
        self, prediction: Prediction, truth: Mapping[str, Tensor], parts: Sequence[Part], settings: EvaluateSettings
    ) -> Counts:
        """Return the pixels of each class, its boundary's F1, and those of each bin of confidence.

        `hits`: pixels that were found, int64 `[C]`. `truth`: pixels of the truth, void left out. `predicted`: pixels
        predicted where the truth is not void. `boundary_f1`: `[C]`, NaN where neither has a boundary. `calibration`:
        pixels, summed confidence and correct pixels of each bin, `[3, bins]`.
        """
        import torch

        from segmodels.tasks.semantic.metrics import BoundaryF1, CalibrationError, confusion_matrix

        classes, labels = len(parts), truth["labels"]
        value = torch.from_numpy(prediction.value)
        boundary, calibration = BoundaryF1(classes, settings.boundary_px), CalibrationError()
        boundary.update(value, labels)
        assert prediction.confidence is not None
        calibration.update(torch.from_numpy(prediction.confidence), value, labels)
        matrix = confusion_matrix(value, labels, classes).numpy()
        each = {
            "hits": np.diag(matrix).copy(),
            "truth": matrix.sum(1),
            "predicted": matrix.sum(0),
            "boundary_f1": boundary.compute(),
            "calibration": calibration.sums(),
        }
        return Counts(each, matrix, own_miou(matrix))

    def figures(self, measured: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return mIoU, pixel accuracy, boundary F1, ECE and the IoU of each class."""
        from segmodels.tasks.semantic.metrics import calibration_error, class_mean

        counts = measured.counts
        hits = weights @ counts["hits"]
        truth = weights @ counts["truth"]
        union = weights @ (counts["truth"] + counts["predicted"]) - hits
        iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
        has = np.isfinite(counts["boundary_f1"])
        seen = weights @ has
        f1 = weights @ np.where(has, counts["boundary_f1"], 0.0)
        boundary = np.divide(f1, seen, out=np.full(f1.shape, np.nan), where=seen > 0)
        bins = counts["calibration"].shape[-1]
        sums = (weights @ counts["calibration"].reshape(len(has), -1)).reshape(-1, 3, bins)
        return {
            "miou": class_mean(iou),
            "pixel_accuracy": hits.sum(-1) / np.maximum(truth.sum(-1), 1),
            "boundary_f1": class_mean(boundary),
            "ece": calibration_error(sums),
            **{f"iou/{name}": iou[:, index] for index, name in enumerate(measured.parts)},
        }

    def metrics(self, measured: Tally, confusion: np.ndarray) -> dict[str, Any]:
        from segmodels.tasks.semantic.metrics import calibration_error, class_iou, class_mean, scores

        return {
            **scores(confusion),
            "boundary_f1": float(class_mean(column_means(measured.counts["boundary_f1"]))),
            "ece": float(calibration_error(measured.counts["calibration"].sum(0))),
            "per_class": {
                name: float(iou) if np.isfinite(iou) else None
                for name, iou in zip(measured.parts, class_iou(confusion), strict=True)
            },
        }

    def table(self, measured: Tally, confusion: np.ndarray) -> tuple[list[str], list[list[Any]]]:
        from segmodels.tasks.semantic.metrics import class_accuracy, class_iou

        figures = class_iou(confusion), class_accuracy(confusion), column_means(measured.counts["boundary_f1"])
        rows = zip(measured.parts, *figures, confusion.sum(1), strict=True)
        return (
            ["class", "iou", "accuracy", "boundary_f1", "pixels"],
            [[name, *[float(v) if np.isfinite(v) else "" for v in values], int(n)] for name, *values, n in rows],
        )

    def describe(self, prediction: Prediction, parts: Sequence[Part]) -> tuple[np.ndarray, float | None, np.ndarray]:
        flat, classes = prediction.value.ravel(), len(parts)
        counts = np.bincount(flat, minlength=classes)
        if prediction.confidence is None:
            return counts / flat.size, None, np.full(classes, np.nan)
        sums = np.bincount(flat, weights=prediction.confidence.ravel(), minlength=classes)
        by_class = np.divide(sums, counts, out=np.full(classes, np.nan), where=counts > 0)
        return counts / flat.size, float(prediction.confidence.mean(dtype=np.float64)), by_class

    def draw(self, values: Sequence[np.ndarray], parts: Sequence[Part]) -> list[np.ndarray]:
        return [pictures.colorize(value, [part.color for part in parts]) for value in values]

    def errors(self, truth: np.ndarray, value: np.ndarray) -> np.ndarray:
        return pictures.error_map(truth, value)

    def note(self, truth: np.ndarray, value: np.ndarray) -> str:
        """Return the pixel accuracy."""
        if truth.shape != value.shape:
            return "- %"
        counted = truth != IGNORE_INDEX
        return f"{100 * float((truth == value)[counted].mean()):.1f} %" if counted.any() else "- %"

    def overlay(self, image: np.ndarray, value: np.ndarray, palette: Palette, alpha: float) -> np.ndarray:
        return pictures.overlay(image, value, palette, alpha)

    def write(self, value: np.ndarray, palette: Palette, path: Path) -> None:
        forms.write_mask(value, palette, path)

    def raster(self) -> dict[str, Any]:
        return {"dtype": "uint8", "count": 1, "nodata": IGNORE_INDEX}

    def forms(self) -> Mapping[str, Form]:
        return forms.forms(self)

    def document(self, form: str, answered: Sequence[Answered]) -> bytes | None:
        return forms.coco_document(answered) if form == "coco" else None

    def outputs(self) -> Mapping[str, Mapping[str, Any]]:
        shape = ["batch", "height", "width"]
        return {
            "classes": {"dtype": "uint8", "shape": shape, "content": "ids of `classes` of model.json"},
            "confidence": {"dtype": "float32", "shape": shape, "content": "probability of that class"},
        }


def most_likely(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return class ids, uint8 `[N, H, W]`, and their scores, of logits or probabilities `[N, C, H, W]`.

    Of equal scores the first class is taken.
    """
    import torch

    if scores.is_cuda or torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        best, classes = scores.max(1)
        return classes.to(torch.uint8), best
    if scores.is_contiguous(memory_format=torch.channels_last) and scores.shape[1] > 1:
        best, classes = scores.permute(0, 2, 3, 1).max(-1)
        return classes.to(torch.uint8), best
    # Where classes are whole maps torch goes through them pixel by pixel; map by map is several times as fast.
    best, ids = scores[:, 0].contiguous(), torch.zeros_like(scores[:, 0], dtype=torch.uint8).contiguous()
    for index in range(1, scores.shape[1]):
        larger = scores[:, index] > best
        ids = torch.maximum(ids, larger.view(torch.uint8) * index)  # indices grow
        best = torch.maximum(best, scores[:, index])
    return ids, best


def own_miou(matrix: np.ndarray) -> float:
    """mIoU over the classes that the image's truth has; 0 where it is all void."""
    from segmodels.tasks.semantic.metrics import class_iou

    iou = class_iou(matrix)[matrix.sum(1) > 0]
    return float(iou.mean()) if len(iou) else 0.0


def column_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each column `[N, C]` over the images that have the class; NaN where none has it."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan), where=known.any(0))


TASK = Semantic()
