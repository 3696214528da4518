"""The thirteen convolutions of VGG16 (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, configuration D)."""

from __future__ import annotations

# Output channels of each convolution, a row for each of the five stages.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def scaled(width: float, channels: int) -> int:
    """Channels of a network whose every layer is `width` times as wide as the paper's; at least one."""
    return max(1, round(width * channels))
