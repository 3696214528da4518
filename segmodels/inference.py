"""From an image to its class map: whole images, sliding windows, test-time augmentation, Monte-Carlo dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.checkpoint import load_model
from segmodels.data.inputs import as_rgb
from segmodels.data.transforms import normalize, resize_image
from segmodels.layers.crf import dense_crf
from segmodels.layers.fuse import fuse_batch_norm
from segmodels.settings import CRFSettings

# A path, an image of pillow, or an array.
AnyImage = str | Path | Image.Image | np.ndarray
Precision = Literal["32", "bf16", "16"]
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_EXAMPLE = (64, 64)  # the size of the image on which the network is watched; any does


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
        precision: What convolutions are computed in: float32, or by autocast in bfloat16 or float16.
        fused: Merges batch norm into the convolutions before it, which is faster and rounds differently.
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
        precision: Precision = "32",
        fused: bool = False,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model, self.config = load_model(folder, self.device)
        channels_last(self.model)
        self.flip, self.scales, self.window, self.stride = flip, tuple(scales), window, stride
        self.image_size = image_size or self.config.image_size
        self.crf = CRFSettings(**crf) if isinstance(crf, Mapping) else crf
        self.precision = precision
        self._mean, self._std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
        if fused:
            example = torch.zeros(1, self.config.in_channels, *(self.image_size or _EXAMPLE), device=self.device)
            self.model = channels_last(fuse_batch_norm(self.model, example))

    def predict(self, image: AnyImage) -> np.ndarray:
        """Class ids, uint8 `[H, W]`, of an image.

        Args:
            image: A path, an image of pillow, or an array: RGB, RGBA or grey, uint8 or floats in 0..1
                (`segmodels.data.inputs.as_rgb`).

        Raises:
            ImageInputError: It is no image.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[AnyImage]) -> list[np.ndarray]:
        """As `predict`, of several images; those of one size go through the network together."""
        return self._by_size(images, confident=False)[0]

    def predict_with_confidence(self, images: Sequence[AnyImage]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """As `predict_batch`, and of each image the probability of the predicted classes, float32 `[H, W]`."""
        return self._by_size(images, confident=True)

    def predict_probabilities(self, image: AnyImage) -> np.ndarray:
        """Probabilities, float32 `[C, H, W]`, of an image, given as for `predict`."""
        probs: np.ndarray = self.probabilities(image).cpu().numpy()
        return probs

    def probabilities(self, image: AnyImage) -> Tensor:
        """As `predict_probabilities`, on the model's device."""
        return self.batch_probabilities([as_rgb(image)])[0]

    def _by_size(self, images: Sequence[AnyImage], *, confident: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """`_most_likely` for images of several sizes, in the order they came in."""
        pixels = [as_rgb(image) for image in images]
        places: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(pixels):
            places.setdefault(image.shape, []).append(index)
        maps: dict[int, np.ndarray] = {}
        sure: dict[int, np.ndarray] = {}
        for same in places.values():
            found, confidence = self._most_likely([pixels[i] for i in same], confident=confident)
            maps.update(zip(same, found, strict=True))
            sure.update(zip(same, confidence, strict=False))
        return [maps[i] for i in sorted(maps)], [sure[i] for i in sorted(sure)]

    @torch.inference_mode()
    def batch_probabilities(self, images: Sequence[np.ndarray]) -> Tensor:
        """Probabilities, float32 `[N, C, H, W]`, of RGB images of one size, on the model's device."""
        return self._probabilities(self._normalized(images), images)

    @torch.inference_mode()
    def _most_likely(
        self, images: Sequence[np.ndarray], *, confident: bool
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Class maps, and where asked for their probabilities; a softmax of every class only where it is needed."""
        batch = self._normalized(images)
        averaged = self.flip or self.scales != (1.0,) or self.window is not None or self.crf is not None
        if averaged or tuple(batch.shape[-2:]) != images[0].shape[:2]:
            classes, best = most_likely(self._probabilities(batch, images))
        else:  # the largest logit is the largest probability
            with self._autocast():
                logits = self.model(batch)["out"]
            classes, best = most_likely(logits)
            if confident:
                best = (logits.float() - best.float()[:, None]).exp_().sum(1).reciprocal_()
        return list(classes.cpu().numpy()), list(best.cpu().numpy()) if confident else []

    def _normalized(self, images: Sequence[np.ndarray]) -> Tensor:
        pixels = [torch.tensor(image).permute(2, 0, 1) for image in images]
        if self.image_size is not None:
            pixels = [resize_image(image, self.image_size) for image in pixels]
        batch = torch.stack([normalize(image, self._mean, self._std) for image in pixels])
        return batch.to(self.device, memory_format=torch.channels_last)

    def _probabilities(self, batch: Tensor, images: Sequence[np.ndarray]) -> Tensor:
        with self._autocast():
            probs = augmented(
                self.model, batch, flip=self.flip, scales=self.scales, window=self.window, stride=self.stride
            )
        return refined(full_resolution(probs, images[0].shape[:2]), images, self.crf)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, _AUTOCAST.get(self.precision), enabled=self.precision != "32")


def fast_precision(device: torch.device | str) -> Precision:
    """The precision in which a device is fastest: bf16 where the hardware multiplies it, else half or 32 bit."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "16"
    # Without AMX or AVX512-BF16 a CPU emulates bf16 and takes four times as long as fp32.
    capabilities = torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else ""
    fast = "AVX512" in capabilities and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16" if fast else "32"


def most_likely(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Class ids, uint8 `[N, H, W]`, and their scores, of logits or probabilities `[N, C, H, W]`.

    Of equal scores the first class is taken.
    """
    if scores.is_cuda:
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
