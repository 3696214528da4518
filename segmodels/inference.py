"""From an image to its class map: whole images, sliding windows, test-time augmentation, Monte-Carlo dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from segmodels.settings import PREDICT_KEYS, CRFSettings, PredictSettings
from segmodels.threads import turn

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
        settings: How it predicts; the defaults are one plain pass of whole images.
        precision: What convolutions are computed in: float32, or by autocast in bfloat16 or float16.
        fused: Merges batch norm into the convolutions before it, which is faster and rounds differently.
        **given: Fields of `PredictSettings`, in place of those of `settings`: `Predictor(folder, flip=True)`.

    Raises:
        CheckpointError: The folder is no model folder.
        ValueError: A keyword is no field of `PredictSettings`, or out of its range.
    """

    def __init__(
        self,
        folder: Path | str,
        device: str = "auto",
        *,
        settings: PredictSettings | None = None,
        precision: Precision = "32",
        fused: bool = False,
        **given: Any,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        base = {key: getattr(settings, key) for key in PREDICT_KEYS} if settings is not None else {}
        self.settings = PredictSettings.of({**base, **given})
        self.device = torch.device(device)
        self.model, self.config = load_model(folder, self.device)
        channels_last(self.model)
        self.image_size = self.settings.image_size or self.config.image_size
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
        with turn(self.device.type):
            return self._probabilities(self._normalized(images), images)

    @torch.inference_mode()
    def _most_likely(
        self, images: Sequence[np.ndarray], *, confident: bool
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Class maps, and where asked for their probabilities; a softmax of every class only where it is needed."""
        with turn(self.device.type):
            return self._most_likely_now(images, confident=confident)

    def _most_likely_now(
        self, images: Sequence[np.ndarray], *, confident: bool
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        batch = self._normalized(images)
        if not self.settings.plain or tuple(batch.shape[-2:]) != images[0].shape[:2]:
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
            probs = averaged(self.model, batch, self.settings)
        return refined(full_resolution(probs, images[0].shape[:2]), images, self.settings.crf)

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


def averaged(model: nn.Module, images: Tensor, settings: PredictSettings) -> Tensor:
    """Return the mean probabilities over all that the settings average: scales, mirror image, windows, dropout.

    Args:
        model: In evaluation mode; gives logits under `"out"`.
        images: Normalised, `[N, 3, H, W]`.
        settings: `flip`, `scales`, `window`, `stride` and `mc_samples` count here.

    Returns:
        float32 `[N, C, H, W]`.
    """
    samples = settings.mc_samples

    def one_pass(batch: Tensor) -> Tensor:
        if samples:
            return monte_carlo(model, batch, samples)[0]
        probs: Tensor = model(batch)["out"].float().softmax(1)
        return probs

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
                probs = sliding(one_pass, scaled.flip(-1) if mirrored else scaled, settings.window, settings.stride)
                probs = full_resolution(probs.flip(-1) if mirrored else probs, size)
                total = probs if total is None else total + probs
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
