"""Initialisation by the schemes that the papers name."""

from __future__ import annotations

from torch import nn


def he_normal(module: nn.Module) -> None:
    """He et al. 2015 ("MSRA"): normal with variance 2 / fan-in; biases zero. For `module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gaussian(layer: nn.Conv2d, std: float) -> nn.Conv2d:
    """Return weights from a normal distribution around zero, biases zero: how Caffe's users began a new layer."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
