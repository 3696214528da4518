"""What a network costs: operations, parameters and milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels.artifacts.model_folder import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from segmodels.catalog.figures import CLASSES, SIZE, Entry
from segmodels.catalog.registry import count_parameters, create_model, full_size, model_info
from segmodels.data.augment import normalize
from segmodels.data.folder import ClassInfo
from segmodels.data.streets import render
from segmodels.inference.predictor import Predictor, channels_last
from segmodels.layers.uninitialised import on_meta
from segmodels.runtime import turn


def figures(name: str, classes: int = CLASSES, options: dict[str, Any] | None = None) -> Entry:
    """Return an architecture's figures as the code gives them now, counted without memory; milliseconds are left open.

    Args:
        name: Of the architecture.
        classes: Number of classes.
        options: Its keywords, where they differ from the defaults.
    """
    card, model = model_info(name), full_size(name, classes, **(options or {}))
    config = ModelConfig(name, tuple(ClassInfo(str(i), (0, 0, 0)) for i in range(classes)), options or {})
    return Entry(
        name=name,
        paper=card.paper,
        year=card.year,
        task=", ".join(card.tasks),
        parameters=count_parameters(model),
        parameters_training=count_parameters(model, training=True),
        gflops=round(gflops(config, SIZE), 3),
    )


def street_milliseconds(name: str, classes: int = CLASSES, repeat: int = 3) -> float:
    """Return the milliseconds that a new network takes for a rendered street, on the GPU where there is one."""
    model = channels_last(create_model(name, classes).eval())
    pixels = torch.from_numpy(render(0, "test", 0, height=SIZE[0], width=SIZE[1]).image).permute(2, 0, 1)[None]
    image = normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return milliseconds(model.cuda() if torch.cuda.is_available() else model, image, repeat=repeat)


def gflops(config: ModelConfig, size: tuple[int, int]) -> float:
    """Floating-point operations (two for a multiply-add) of one image of (height, width), in 1e9."""
    with on_meta():
        model = config.build().eval()
        image = torch.empty(1, config.in_channels, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 1e9


def prediction_milliseconds(predictor: Predictor, image: np.ndarray, repeat: int = 7) -> float:
    """Return the median wall time of a prediction, from RGB uint8 `[H, W, 3]` to class ids, after two warm-ups.

    Args:
        predictor: Predicts with its settings: mirror images, scales, windows, dropout samples, CRF.
        image: A real image: cascades, point refinement and CRFs take longer where there is more to see.
        repeat: Predictions of which the median is taken.
    """
    return _median_milliseconds(lambda: predictor.predict(image), predictor.device, repeat)


@torch.inference_mode()
def milliseconds(model: nn.Module, image: Tensor, repeat: int = 7) -> float:
    """Return the median wall time of one image through the network alone, after two warm-up passes.

    Args:
        model: The network, in evaluation mode.
        image: A real image, normalised, `[1, channels, H, W]`.
        repeat: Passes of which the median is taken.
    """
    device = next(model.parameters()).device
    image = image.to(device, memory_format=torch.channels_last)
    return _median_milliseconds(lambda: model(image), device, repeat)


def _median_milliseconds(predict: Callable[[], object], device: torch.device, repeat: int) -> float:
    times = []
    for number in range(repeat + 2):
        with turn(device.type):
            _synchronize(device)
            started = time.perf_counter()
            predict()
            _synchronize(device)
            if number >= 2:
                times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
