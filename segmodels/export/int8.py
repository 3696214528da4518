"""An exported network in 8-bit integers: smaller and, where the processor has instructions for it, faster.

ONNX Runtime's static quantisation: each convolution and product of matrices is done in int8, with a scale for each
output channel of the weights and for each map, which calibration images determine. What stands before the network and
after it (resizing, normalisation, softmax) stays as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmodels.artifacts.model_folder import ModelConfig, read_config
from segmodels.data.folder import DatasetError, DatasetInfo
from segmodels.data.loading import Decoded
from segmodels.export.export import (
    ExportError,
    Run,
    agreeing,
    export,
    first_sentence,
    onnx_run,
    quiet,
)
from segmodels.export.images import check_images
from segmodels.inference.predictor import predictions
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks import get_task, task_info
from segmodels.tasks.base import Counts
from segmodels.tasks.per_image import PerImage

INT8_FILE = "int8.json"
CALIBRATION_IMAGES = 64
_TIMED_IMAGES = 15


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What quantisation costs and gains, measured on a validation split; both forms in ONNX Runtime.

    Attributes:
        path: The file.
        images: Validation images.
        calibration_images: Training images that determined the scales.
        figure_float: The task's main figure of the file in float32; None where the images have none.
        figure: The same of the file in int8.
        agreement: Share of pixels that both give the same class.
        ms_float: Median milliseconds of an image in float32.
        ms: The same in int8.
        megabytes_float: Size of the float32 file, 1e6 bytes.
        megabytes: Size of the int8 file.
        threads: Threads of the processor while it was timed.
    """

    path: Path
    images: int
    calibration_images: int
    figure_float: float | None
    figure: float | None
    agreement: float
    ms_float: float
    ms: float
    megabytes_float: float
    megabytes: float
    threads: int
    task: str

    def __str__(self) -> str:
        main = task_info(self.task).main
        return (
            f"{self.path}: {main.label} {main.show(self.figure)} in int8, {main.show(self.figure_float)} in float32 on "
            f"{self.images} validation images, {100 * self.agreement:.2f} % of the pixels get the same value; "
            f"{self.ms:.1f} ms an image against {self.ms_float:.1f}, {self.megabytes:.1f} MB against "
            f"{self.megabytes_float:.1f}"
        )


def export_int8(folder: Path, out: Path, data: Path, *, count: int = CALIBRATION_IMAGES) -> Quantized:
    """Write a trained network, from images to class ids, as ONNX in int8; the figures go into the file as `int8.json`.

    Args:
        folder: Model folder.
        out: The file; replaced where it exists, untouched where anything fails.
        data: Dataset folder: `train` gives the calibration images, `val` what it costs.
        count: Calibration images at most.

    Raises:
        CheckpointError: The folder is no model folder.
        DatasetError: `data` is no dataset folder of this model's classes.
        ExportError: The network cannot be written as ONNX, or not be quantised, or onnxruntime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise ExportError("int8 needs onnxruntime to calibrate and to measure; pip install onnxruntime") from None
    config = read_config(folder)
    if config.classes and DatasetInfo.read(data).class_names != config.class_names:
        raise DatasetError(f"{data}: its classes are not the model's; give a dataset folder of its classes")
    calibration = check_images(config, data, split="train", count=count, resized=config.image_size is not None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as held:
        plain, small = Path(held, "float.onnx"), Path(held, "int8.onnx")
        export(folder, plain, "onnx", data=data)
        try:
            with quiet():
                _quantize(plain, small, calibration)
                result = _measure(plain, small, data, config, len(calibration))
        except (OSError, MemoryError, DatasetError):
            raise
        except Exception as error:  # onnxruntime has no error of its own for what it cannot quantise
            raise ExportError(
                f"{config.architecture} cannot be quantised ({first_sentence(error)}); export it without --int8"
            ) from None
        result = dataclasses.replace(result, path=out)
        _describe(small, result)
        os.replace(small, out)
    return result


def _quantize(plain: Path, small: Path, images: Sequence[np.ndarray]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None]}

    quantize_static(
        plain,
        small,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_outside(plain),
    )


def _outside(path: Path) -> list[str]:
    """Return the nodes before and after the network, by the module that the exporter noted for each."""
    import onnx

    return [node.name for node in onnx.load(path).graph.node if "model" not in _modules(node)]


def _modules(node: Any) -> set[str]:
    noted = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    return {scope.split(".")[0] for scope in ast.literal_eval(noted)}


def _measure(plain: Path, small: Path, data: Path, config: ModelConfig, calibrated: int) -> Quantized:
    runs, task = (onnx_run(plain), onnx_run(small)), get_task(config.task)
    decoded = Decoded(data, "val", needs=task.info.needs)
    counts: tuple[list[Counts], list[Counts]] = ([], [])
    confusion = [np.zeros((len(config.parts), len(config.parts)), np.int64) for _ in runs]
    same = total = 0
    for index in range(len(decoded)):
        sample = decoded[index]
        image = sample["image"].permute(1, 2, 0)[None]
        given = [predictions(*_outputs(run(image)))[0] for run in runs]
        for kept, summed, prediction in zip(counts, confusion, given, strict=True):
            kept.append(task.count(prediction, sample, config.parts, EvaluateSettings()))
            summed += kept[-1].confusion
        same += agreeing(given[0].value[None], given[1].value[None])
        total += image[0, ..., 0].numel()
    names = [sample.id for sample in decoded.samples]
    figures = [
        task.metrics(PerImage.of(config.task, config.part_names, names, kept, ()).measured, summed)[task.info.main.key]
        for kept, summed in zip(counts, confusion, strict=True)
    ]
    ms_float, ms = _milliseconds(runs, decoded[0]["image"].permute(1, 2, 0).numpy())
    return Quantized(
        path=small,
        images=len(names),
        calibration_images=calibrated,
        figure_float=figures[0],
        figure=figures[1],
        agreement=same / total,
        ms_float=ms_float,
        ms=ms,
        megabytes_float=plain.stat().st_size / 1e6,
        megabytes=small.stat().st_size / 1e6,
        threads=torch.get_num_threads(),
        task=config.task,
    )


def _outputs(given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return value and confidence of what a file gives."""
    return given[0], given[1] if len(given) > 1 else None


def _milliseconds(runs: Sequence[Run], image: np.ndarray) -> tuple[float, float]:
    """Return the median time of each, taken in turns: what else the machine does falls on both."""
    batch = torch.tensor(image[None])
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(_TIMED_IMAGES + 1):
        for run, taken in zip(runs, times, strict=True):
            started = time.perf_counter()
            run(batch)
            if turn:
                taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[0]), statistics.median(times[1])


def _describe(path: Path, result: Quantized) -> None:
    import onnx

    model = onnx.load(path)
    figures = {key: value for key, value in dataclasses.asdict(result).items() if key != "path"}
    entry = model.metadata_props.add()
    entry.key, entry.value = INT8_FILE, json.dumps(figures)
    onnx.save(model, path)
