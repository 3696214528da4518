from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """An image with edges, uint8 `[72, 100, 3]`."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 40, (72, 100, 3), dtype=np.uint8)
    pixels[:30] += np.uint8(150)
    pixels[40:60, 20:50, 0] += np.uint8(200)
    return pixels
