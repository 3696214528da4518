"""From an image to its class map: whole images, sliding windows, test-time augmentation, Monte-Carlo dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.checkpoint import load_model
from segmodels.data.transforms import normalize, resize_image
from segmodels.layers.crf import dense_crf
from segmodels.settings import CRFSettings


class Predictor:
    """A trained model that takes images and gives class maps.

    Args:
        folder: Model folder.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        flip: Averages with the prediction of the mirror image.
        scales: Factors on the image's size whose predictions are averaged.
        window: (height, width) of a sliding window; None predicts whole images.
        stride: (rows, columns) from window to window.
        image_size: (height, width) given to the network; None takes the model's own.
        crf: A fully connected CRF that refines the probabilities.
    """

    def __init__(
        self,
        folder: Path | str,
        device: str = "auto",
        *,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        image_size: tuple[int, int] | None = None,
        crf: CRFSettings | Mapping[str, Any] | None = None,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model, self.config = load_model(folder, self.device)
        channels_last(self.model)
        self.flip, self.scales, self.window, self.stride = flip, tuple(scales), window, stride
        self.image_size = image_size or self.config.image_size
        self.crf = CRFSettings(**crf) if isinstance(crf, Mapping) else crf
        self._mean, self._std = torch.tensor(self.config.mean), torch.tensor(self.config.std)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Class ids, uint8 `[H, W]`, of an RGB image, uint8 `[H, W, 3]`."""
        classes: np.ndarray = self.probabilities(image).argmax(0).to(torch.uint8).cpu().numpy()
        return classes

    def predict_probabilities(self, image: np.ndarray) -> np.ndarray:
        """Probabilities, float32 `[C, H, W]`, of an RGB image, uint8 `[H, W, 3]`."""
        probs: np.ndarray = self.probabilities(image).cpu().numpy()
        return probs

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> Tensor:
        """As `predict_probabilities`, on the model's device."""
        pixels = torch.tensor(image).permute(2, 0, 1)
        if self.image_size is not None:
            pixels = resize_image(pixels, self.image_size)
        batch = normalize(pixels, self._mean, self._std)[None].to(self.device, memory_format=torch.channels_last)
        probs = augmented(self.model, batch, flip=self.flip, scales=self.scales, window=self.window, stride=self.stride)
        return refined(full_resolution(probs, image.shape[:2]), [image], self.crf)[0]


def channels_last(model: nn.Module) -> nn.Module:
    """The model with its weights in channels-last order, in place; faster nearly everywhere."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def augmented(
    model: nn.Module,
    images: Tensor,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> Tensor:
    """Mean probabilities over scales and, where asked for, the mirror image.

    Args:
        model: In evaluation mode; gives logits under `"out"`.
        images: Normalised, `[N, 3, H, W]`.

    Returns:
        float32 `[N, C, H, W]`.
    """
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled = images
        if scale != 1.0:
            target = [max(32, round(side * scale)) for side in size]
            scaled = F.interpolate(images, target, mode="bilinear", align_corners=False, antialias=scale < 1)
        for mirrored in (False, True) if flip else (False,):
            probs = sliding(model, scaled.flip(-1) if mirrored else scaled, window, stride)
            probs = full_resolution(probs.flip(-1) if mirrored else probs, size)
            total = probs if total is None else total + probs
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))


def sliding(
    model: nn.Module, images: Tensor, window: tuple[int, int] | None, stride: tuple[int, int] | None = None
) -> Tensor:
    """Probabilities `[N, C, H, W]` from windows whose overlaps are averaged; whole images where `window` is None."""
    height, width = images.shape[-2:]
    if window is None or (window[0] >= height and window[1] >= width):
        return model(images)["out"].float().softmax(1)
    rows, columns = min(window[0], height), min(window[1], width)
    step = stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    total: Tensor | None = None
    hits = torch.zeros(height, width, device=images.device)
    for top in _starts(height, rows, step[0]):
        for left in _starts(width, columns, step[1]):
            here = (..., slice(top, top + rows), slice(left, left + columns))
            probs = model(images[here])["out"].float().softmax(1)
            if total is None:
                total = probs.new_zeros(*probs.shape[:2], height, width)
            total[here] += probs
            hits[here] += 1
    assert total is not None
    return total / hits


def full_resolution(probs: Tensor, size: Sequence[int]) -> Tensor:
    """Probabilities `[N, C, h, w]` at another size, bilinear."""
    if tuple(probs.shape[-2:]) == tuple(size):
        return probs
    return F.interpolate(probs, tuple(size), mode="bilinear", align_corners=False)


def refined(probs: Tensor, images: Sequence[np.ndarray], crf: CRFSettings | None) -> Tensor:
    """Probabilities after a fully connected CRF; as they are where there is none.

    Args:
        probs: `[N, C, H, W]`.
        images: The N images, RGB uint8 `[H, W, 3]`.
        crf: Its settings.
    """
    if crf is None:
        return probs
    colors = torch.stack([torch.tensor(image) for image in images]).permute(0, 3, 1, 2).to(probs.device)
    return dense_crf(probs.clamp(min=1e-6).log(), colors.float(), crf)


@torch.no_grad()
def monte_carlo(model: nn.Module, images: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Monte-Carlo dropout (Bayesian SegNet, section 3): dropout stays on and the samples' probabilities are averaged.

    Args:
        model: Any model with dropout; only its dropout layers leave evaluation mode, and return to it.
        images: Normalised, `[N, 3, H, W]`.
        samples: Number of passes, at least 1; the paper uses up to 50.

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
            probs = model(images)["out"].float().softmax(1)
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
