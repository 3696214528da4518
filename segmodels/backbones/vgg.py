"""The thirteen convolutions of VGG16 (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, configuration D).

Most networks before 2016 stand on them and change what lies between: pools, dilations, batch norm. They build their
stages from here, so that ImageNet weights under torchvision's names (`features.0.weight`, …) fill all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Size, Tensor, nn

# Output channels of each convolution, a row for each of the five stages.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# torchvision's place of each convolution in `features`, without and with batch norm.
_PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def scaled(width: float, channels: int) -> int:
    """Return channels of a network whose every layer is `width` times as wide as the paper's; at least one."""
    return max(1, round(width * channels))


def vgg16_stages(width: float = 1.0) -> list[list[int]]:
    """Return output channels of each convolution of each stage."""
    return [[scaled(width, c) for c in stage] for stage in VGG16_STAGES]


def convolutions(
    channels: Sequence[int], *, batch_norm: bool = False, dilation: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """Build 3x3 convolutions from each width to the next, each with batch norm (if any) and ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation))
        layers += [nn.BatchNorm2d(after, eps=eps)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def from_torchvision(tensors: Mapping[str, Tensor], model: nn.Module, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """torchvision's VGG16 weights under the names of a model; other tensors stay as they are.

    Args:
        tensors: A state dict.
        model: Whose parameters are to be filled.
        prefixes: Of the parts that hold the thirteen convolutions, in order.
    """
    if "features.28.weight" not in tensors and "features.40.weight" not in tensors:
        return dict(tensors)
    normed = "features.40.weight" in tensors
    convs = [
        name
        for prefix in prefixes
        for name, module in model.named_modules()
        if name.startswith(prefix) and isinstance(module, nn.Conv2d)
    ]
    norms = [
        name
        for prefix in prefixes
        for name, module in model.named_modules()
        if name.startswith(prefix) and isinstance(module, nn.BatchNorm2d)
    ]
    names = {f"features.{i}": name for i, name in zip(_NORMED if normed else _PLAIN, convs, strict=False)}
    if normed:
        names |= {f"features.{i + 1}": name for i, name in zip(_NORMED, norms, strict=False)}
    translated = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        translated[f"{names.get(module, module)}.{leaf}"] = tensor
    return translated


def classifier_as_convolutions(tensors: Mapping[str, Tensor], fc6: str, fc7: str) -> dict[str, Tensor]:
    """torchvision's two fully connected layers as the 7x7 and the 1x1 convolution that they are (FCN, section 3.1)."""
    translated = dict(tensors)
    for old, new, shape in (("classifier.0", fc6, (4096, 512, 7, 7)), ("classifier.3", fc7, (4096, 4096, 1, 1))):
        if f"{old}.weight" in translated and translated[f"{old}.weight"].numel() == Size(shape).numel():
            translated[f"{new}.weight"] = translated.pop(f"{old}.weight").view(shape)
            translated[f"{new}.bias"] = translated.pop(f"{old}.bias")
    return translated
