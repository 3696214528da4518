"""A small generated dataset and a small trained model that tests of the library share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segmodels.data.folder import ClassInfo
from segmodels.data.writer import DatasetWriter

CLASSES = (ClassInfo("ground", (120, 80, 40)), ClassInfo("box", (200, 30, 30)), ClassInfo("sky", (90, 160, 220)))


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky over ground with a box; a strip of void at the left edge."""
    label = np.zeros((height, width), np.uint8)
    horizon = int(rng.integers(height // 3, height // 2))
    label[:horizon] = 2
    top, left = int(rng.integers(horizon - 4, height - 12)), int(rng.integers(4, width - 14))
    label[top : top + 12, left : left + 12] = 1
    image = np.array([c.color for c in CLASSES])[label] + rng.normal(0, 12, (height, width, 3))
    label[:, :2] = 255
    return image.clip(0, 255).astype(np.uint8), label


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset") / "data"
    rng = np.random.default_rng(0)
    with DatasetWriter(root, "boxes", CLASSES, source={"path": "made by a test"}) as writer:
        for split, count in (("train", 10), ("val", 3), ("test", 4)):
            for index in range(count):
                writer.add(split, f"{index:03d}", *scene(rng, 49, 63))
    return root
