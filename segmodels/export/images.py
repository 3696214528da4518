"""Real images that an exported file is checked on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.data.bands import Pixels
from segmodels.data.folder import DatasetError, DatasetInfo, samples
from segmodels.tasks import task_info

# torch.export takes a side of 1, which a stride of 32 makes of less, for a constant.
SMALLEST = 64
CHECKED_IMAGES = 8


def check_images(
    config: ModelConfig, data: Path | None, *, split: str = "val", count: int = CHECKED_IMAGES, resized: bool = False
) -> list[np.ndarray]:
    """Return real images, RGB uint8 `[H, W, 3]`, spread evenly over a split; without a dataset folder those of
    `streets`.

    Args:
        config: The model's description.
        data: Dataset folder, or None.
        split: The split that they are taken from.
        count: How many at most.
        resized: Whether the model brings images to a size of its own, and so takes those below 64 x 64, too.

    Raises:
        DatasetError: The folder is no dataset folder or has no such split, or an image is unreadable or too small.
    """
    if data is None:
        shown = list(_streets(config.in_channels))
        return shown if config.bands.plain else [image.astype(np.float32).view(Pixels) for image in shown]
    DatasetInfo.read(data)
    listed = samples(data, split, task_info(config.task).needs)
    if not listed:
        raise DatasetError(f"{data / split}: has no samples; give a dataset folder with a {split} split")
    images = []
    for index in np.unique(np.linspace(0, len(listed) - 1, min(count, len(listed))).round().astype(int)):
        image = config.bands.read(listed[index].image)
        if not resized and min(image.shape[:2]) < SMALLEST:
            raise DatasetError(
                f"{listed[index].image}: is smaller than {SMALLEST}x{SMALLEST}, which an exported network takes; "
                "check it on a dataset with larger images"
            )
        images.append(image)
    return images


def _streets(channels: int) -> tuple[np.ndarray, ...]:
    """Return three images of two sizes; noise where images have no three channels."""
    sizes = ((96, 128), (96, 128), (112, 80))
    if channels != 3:
        rng = np.random.default_rng(0)
        return tuple(rng.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes)
    from segmodels.data.streets.render import render

    return tuple(render(0, "val", i, height=h, width=w).image for i, (h, w) in enumerate(sizes))
