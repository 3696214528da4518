"""Averages of predictions: mirror images, scales, windows and dropout samples; and what a CRF makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.layers.crf import dense_crf
from segmodels.settings.schema import CRFSettings, PredictSettings
from segmodels.tasks.base import Task


def averaged(model: nn.Module, images: Tensor, settings: PredictSettings, task: Task) -> Tensor:
    """Return the mean maps over all that the settings average: scales, mirror image, windows, dropout.

    Args:
        model: In evaluation mode; what it gives the task makes maps of.
        images: Normalised, `[N, 3, H, W]`.
        settings: `flip`, `scales`, `window`, `stride` and `mc_samples` count here.
        task: What the model predicts.

    Returns:
        float32 `[N, C, H, W]`.
    """
    samples = settings.mc_samples

    def one_pass(batch: Tensor) -> Tensor:
        if samples:
            return monte_carlo(model, batch, samples, task.activate)[0]
        return task.activate(model(batch))

    size = images.shape[-2:]
    total: Tensor | None = None
    # The same image gets the same answer, whatever was drawn before it.
    with seeded(0) if samples else nullcontext():
        for scale in settings.scales:
            scaled = images
            if scale != 1.0:
                target = [max(32, round(side * scale)) for side in size]
                scaled = F.interpolate(images, target, mode="bilinear", align_corners=False, antialias=scale < 1)
            for mirrored in (False, True) if settings.flip else (False,):
                maps = sliding(one_pass, scaled.flip(-1) if mirrored else scaled, settings.window, settings.stride)
                maps = full_resolution(task.restore(maps, mirrored=mirrored, scale=scale), size)
                total = maps if total is None else total + maps
    assert total is not None
    return total / (len(settings.scales) * (2 if settings.flip else 1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a generator of one's own inside, and leave torch's as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def sliding(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None = None,
) -> Tensor:
    """Return probabilities from windows whose overlaps are averaged; whole images where `window` is None.

    Args:
        predict: Gives probabilities `[N, C, h, w]` of images `[N, 3, h, w]`.
        images: Normalised, `[N, 3, H, W]`.
        window: (height, width) of a window.
        stride: (rows, columns) from window to window; two thirds of the window when None.

    Returns:
        float32 `[N, C, H, W]`.
    """
    height, width = images.shape[-2:]
    if window is None or (window[0] >= height and window[1] >= width):
        return predict(images)
    rows, columns = min(window[0], height), min(window[1], width)
    step = stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    total: Tensor | None = None
    hits = torch.zeros(height, width, device=images.device)
    for top in _starts(height, rows, step[0]):
        for left in _starts(width, columns, step[1]):
            here = (..., slice(top, top + rows), slice(left, left + columns))
            probs = predict(images[here])
            if total is None:
                total = probs.new_zeros(*probs.shape[:2], height, width)
            total[here] += probs
            hits[here] += 1
    assert total is not None
    return total / hits


def full_resolution(probs: Tensor, size: Sequence[int]) -> Tensor:
    """Return probabilities `[N, C, h, w]` at another size, bilinear."""
    if tuple(probs.shape[-2:]) == tuple(size):
        return probs
    return F.interpolate(probs, tuple(size), mode="bilinear", align_corners=False)


def refined(probs: Tensor, images: Sequence[np.ndarray], crf: CRFSettings | None) -> Tensor:
    """Return probabilities after a fully connected CRF; as they are where there is none.

    Args:
        probs: `[N, C, H, W]`.
        images: The N images, RGB uint8 `[H, W, 3]`.
        crf: Its settings.
    """
    if crf is None:
        return probs
    colors = torch.stack([torch.tensor(image) for image in images]).permute(0, 3, 1, 2).to(probs.device)
    return dense_crf(probs.clamp(min=1e-6).log(), colors.float(), crf)


def _probabilities(outputs: Mapping[str, Tensor]) -> Tensor:
    return outputs["out"].float().softmax(1)


@torch.no_grad()
def monte_carlo(
    model: nn.Module,
    images: Tensor,
    samples: int,
    activate: Callable[[Mapping[str, Tensor]], Tensor] = _probabilities,
) -> tuple[Tensor, Tensor]:
    """Monte-Carlo dropout (Bayesian SegNet, section 3): dropout stays on and the samples' probabilities are averaged.

    Args:
        model: Any model with dropout; only its dropout layers leave evaluation mode, and return to it.
        images: Normalised, `[N, 3, H, W]`.
        samples: Number of passes, at least 1; the paper uses up to 50.
        activate: Maps that may be averaged, of what the model gives.

    Returns:
        Mean probabilities `[N, C, H, W]` and the uncertainty `[N, H, W]`: the variance of the samples, averaged over
        the classes, in 0..0.25.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; Monte-Carlo dropout needs at least one pass")
    was_training = model.training
    model.eval()
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    for layer in dropouts:
        layer.train()
    try:
        total = square = torch.zeros((), device=images.device)
        for _ in range(samples):
            probs = activate(model(images))
            total, square = total + probs, square + probs**2
    finally:
        model.train(was_training)
    mean = total / samples
    return mean, (square / samples - mean**2).clamp(min=0).mean(1)


def _starts(length: int, window: int, step: int) -> Iterator[int]:
    """First pixels of windows that cover the length; the last one ends at the edge."""
    position = 0
    while position + window < length:
        yield position
        position += step
    yield length - window
