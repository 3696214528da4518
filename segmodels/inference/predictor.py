"""From an image to what a model predicts: whole, in windows, averaged over mirror images, scales and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segmodels.artifacts.model_folder import load_model
from segmodels.data.augment import normalize, resize_image
from segmodels.data.bands import view
from segmodels.data.inputs import as_rgb
from segmodels.inference.averaging import averaged, full_resolution, refined
from segmodels.layers.fuse import fuse_batch_norm
from segmodels.runtime import turn
from segmodels.settings.schema import PREDICT_KEYS, PredictSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Prediction, TaskError

# A path, an image of pillow, or an array.
AnyImage = str | Path | Image.Image | np.ndarray
Precision = Literal["32", "bf16", "16"]
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}
_EXAMPLE = (64, 64)  # the size of the image on which the network is watched; any does


class Predictor:
    """A trained model that takes images and gives what its task predicts: class maps, depths, normals.

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
        self.task = get_task(self.config.task)
        if self.settings.crf is not None and not self.task.info.sampled:
            raise TaskError(f"a CRF refines probabilities, which {self.task.info.title} has not; set crf to null")
        channels_last(self.model)
        self.image_size = self.settings.image_size or self.config.image_size
        self.precision = precision
        self._mean, self._std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
        if fused:
            example = torch.zeros(1, self.config.in_channels, *(self.image_size or _EXAMPLE), device=self.device)
            self.model = channels_last(fuse_batch_norm(self.model, example))

    def predict(self, image: AnyImage) -> np.ndarray:
        """Return what the task predicts of an image, e.g. class ids, uint8 `[H, W]`.

        Args:
            image: A path, an image of pillow, or an array: RGB, RGBA or grey, uint8 or floats in 0..1
                (`segmodels.data.inputs.as_rgb`).

        Raises:
            ImageInputError: It is no image.
        """
        return self.predict_batch([image])[0]

    def pixels(self, image: AnyImage) -> np.ndarray:
        """Return an image as the network's channels: RGB, or the bands that the model takes (`segmodels.data.bands`).

        Args:
            image: As for `predict`. A model of other bands takes a file that has them, or an array `[H, W, bands]` of
                the values that files hold.

        Raises:
            ImageInputError: It is no image.
            DatasetError: It has other bands, or cannot be read.
        """
        bands = self.config.bands
        if bands.plain:
            return as_rgb(image)
        if isinstance(image, str | Path):
            return bands.read(image)
        return bands.of_array(image if isinstance(image, np.ndarray) else np.asarray(image))

    def show(self, image: AnyImage, alpha: float = 0.5) -> Image.Image:
        """Return an image under the colours of what is predicted for it; a notebook shows it.

        Args:
            image: As for `predict`.
            alpha: How much of the colours is seen, 0..1.
        """
        pixels = self.pixels(image)
        return Image.fromarray(self.task.overlay(view(pixels), self.predict(pixels), self.config.palette, alpha))

    def predict_batch(self, images: Sequence[AnyImage]) -> list[np.ndarray]:
        """As `predict`, of several images; those of one size go through the network together."""
        return [prediction.value for prediction in self._by_size(images, confident=False)]

    def predict_with_confidence(self, images: Sequence[AnyImage]) -> list[Prediction]:
        """As `predict_batch`, with the confidence of each prediction where the task knows one."""
        return self._by_size(images, confident=True)

    def predict_probabilities(self, image: AnyImage) -> np.ndarray:
        """Return probabilities of classes, or the maps that another task averages, float32 `[C, H, W]`, of an image."""
        maps: np.ndarray = self.batch_maps([self.pixels(image)])[0].cpu().numpy()
        return maps

    def _by_size(self, images: Sequence[AnyImage], *, confident: bool) -> list[Prediction]:
        """`_decided` for images of several sizes, in the order they came in."""
        pixels = [self.pixels(image) for image in images]
        places: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(pixels):
            places.setdefault(image.shape, []).append(index)
        made: dict[int, Prediction] = {}
        for same in places.values():
            made.update(zip(same, self._decided([pixels[i] for i in same], confident=confident), strict=True))
        return [made[i] for i in sorted(made)]

    def fingerprint(self) -> str:
        """Return a hash of the weights, the description and all settings: other answers have another one."""
        told = hashlib.sha256(repr((self.config, self.settings, self.image_size, self.precision)).encode())
        for name, values in self.model.state_dict().items():
            told.update(name.encode())
            told.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return told.hexdigest()

    def maps(self, image: AnyImage) -> Tensor:
        """As `predict_probabilities`, on the model's device."""
        return self.batch_maps([self.pixels(image)])[0]

    @torch.inference_mode()
    def batch_maps(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the task's maps, float32 `[N, C, H, W]`, of RGB images of one size, on the model's device."""
        with turn(self.device.type):
            return self._maps(self._normalized(images), images)

    @torch.inference_mode()
    def _decided(self, images: Sequence[np.ndarray], *, confident: bool) -> list[Prediction]:
        """Return predictions of images of one size, with confidence only where asked for."""
        with turn(self.device.type):
            batch = self._normalized(images)
            if not self.settings.plain or tuple(batch.shape[-2:]) != images[0].shape[:2]:
                values, confidence = self.task.decide(self._maps(batch, images))
            else:
                with self._autocast():
                    outputs = self.model(batch)
                values, confidence = self.task.decide_at_once(outputs, confident=confident)
            return predictions(values, confidence if confident else None)

    def _normalized(self, images: Sequence[np.ndarray]) -> Tensor:
        pixels = [torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in images]
        if self.image_size is not None:
            pixels = [resize_image(image, self.image_size) for image in pixels]
        batch = torch.stack([normalize(image, self._mean, self._std) for image in pixels])
        return batch.to(self.device, memory_format=torch.channels_last)

    def _maps(self, batch: Tensor, images: Sequence[np.ndarray]) -> Tensor:
        with self._autocast():
            maps = averaged(self.model, batch, self.settings, self.task)
        return refined(full_resolution(maps, images[0].shape[:2]), [view(one) for one in images], self.settings.crf)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, _AUTOCAST.get(self.precision), enabled=self.precision != "32")


def predictions(values: Tensor, confidence: Tensor | None) -> list[Prediction]:
    """Return the predictions of a batch, one for each image, off the device."""
    held = values.cpu().numpy()
    sure = confidence.cpu().numpy() if confidence is not None else [None] * len(held)
    return [Prediction(value, one) for value, one in zip(held, sure, strict=True)]


def fast_precision(device: torch.device | str) -> Precision:
    """Return the precision in which a device is fastest: bf16 where the hardware multiplies it, else half or 32 bit."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "16"
    # Without AMX or AVX512-BF16 a CPU emulates bf16 and takes four times as long as fp32.
    capabilities = torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else ""
    fast = "AVX512" in capabilities and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16" if fast else "32"


def channels_last(model: nn.Module) -> nn.Module:
    """Return the model with its weights in channels-last order, in place; faster nearly everywhere."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
