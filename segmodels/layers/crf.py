"""The fully connected conditional random field, by mean field.

Philipp Krähenbühl, Vladlen Koltun. Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials. NIPS
2011. arXiv 1210.5644. Every pixel is connected with every other one by two Gaussian kernels (equation 3): one of
position and colour, which makes alike neighbours agree, and one of position alone, which removes small regions.
Algorithm 1 is iterated; its message passing is Gaussian filtering on the permutohedral lattice.

Everything is differentiable with respect to the logits, the kernels' weights and the compatibility, as "Conditional
Random Fields as Recurrent Neural Networks" (Zheng et al., ICCV 2015) trains them; the kernels' shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from segmodels.layers.permutohedral import PermutohedralLattice
from segmodels.layers.precision import full_precision
from segmodels.settings.schema import CRFSettings

Normalization = Literal["symmetric", "after", "none"]
# Values of pixels `[N * H * W, C]` to their filtered values.
Filter = Callable[[Tensor], Tensor]


def dense_crf(
    logits: Tensor, colors: Tensor, settings: CRFSettings | None = None, normalization: Normalization = "symmetric"
) -> Tensor:
    """Refine logits by a fully connected CRF with Potts compatibility.

    Args:
        logits: `[N, C, H, W]`; minus the unary potentials. Log-probabilities give the same.
        colors: `[N, channels, H, W]`, float, in 0..255.
        settings: The kernels.
        normalization: Of the kernels; `symmetric` is that of the authors' code.

    Returns:
        Probabilities `[N, C, H, W]`, float32 (float64 for float64 logits).
    """
    settings = settings or CRFSettings()
    kernels = gaussian_kernels(colors, settings, normalization)
    weights = (settings.spatial_weight, settings.bilateral_weight)
    return mean_field(logits, kernels, weights, None, settings.iterations).softmax(1)


def mean_field(
    logits: Tensor,
    kernels: Sequence[Filter],
    weights: Sequence[Tensor | float],
    compatibility: Tensor | None,
    iterations: int,
) -> Tensor:
    """Algorithm 1: what the labels of all other pixels say about a pixel's, again and again.

    Args:
        logits: `[N, C, H, W]`; minus the unary potentials.
        kernels: The message passing of each kernel.
        weights: Of each kernel: a factor, or a matrix `[C, C]` over the classes (CRF-as-RNN).
        compatibility: `[C, C]`, the penalty mu(l, l') of labels that meet; None is Potts, 1 where they differ.
        iterations: How often.

    Returns:
        Logits of the marginals, `[N, C, H, W]`, at least float32.
    """
    with full_precision(logits.device.type):
        return _iterated(logits, kernels, weights, compatibility, iterations)


def _iterated(
    logits: Tensor,
    kernels: Sequence[Filter],
    weights: Sequence[Tensor | float],
    compatibility: Tensor | None,
    iterations: int,
) -> Tensor:
    images, classes, height, width = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    unary = logits.to(dtype).permute(0, 2, 3, 1).reshape(-1, classes)
    current = unary
    for _ in range(iterations):
        q = current.softmax(1)
        message = torch.zeros((), dtype=dtype, device=q.device)
        for kernel, weight in zip(kernels, weights, strict=True):
            passed = kernel(q)
            message = message + (passed @ weight.T.to(dtype) if isinstance(weight, Tensor) else weight * passed)
        # Potts: the penalty of a label is the mass of all the others, which is minus its own up to a constant.
        current = unary + message if compatibility is None else unary - message @ compatibility.T.to(dtype)
    return current.view(images, height, width, classes).permute(0, 3, 1, 2)


def gaussian_kernels(
    colors: Tensor, settings: CRFSettings, normalization: Normalization = "symmetric"
) -> tuple[Filter, Filter]:
    """Return the message passing of the spatial and of the bilateral kernel, in this order.

    Args:
        colors: `[N, channels, H, W]`, float, in 0..255.
        settings: Their standard deviations.
        normalization: `symmetric` divides before and after by the root of each pixel's sum of weights, `after` by the
            sum itself after the filter (CRF-as-RNN), `none` not at all.
    """
    images, _, height, width = colors.shape
    dtype = torch.promote_types(colors.dtype, torch.float32)
    y, x = torch.meshgrid(
        torch.arange(height, device=colors.device, dtype=dtype),
        torch.arange(width, device=colors.device, dtype=dtype),
        indexing="ij",
    )
    position = torch.stack([x, y], -1).reshape(1, -1, 2).expand(images, -1, -1)
    color = colors.to(dtype).permute(0, 2, 3, 1).reshape(images, height * width, -1)
    bilateral = torch.cat([position / settings.bilateral_xy, color / settings.bilateral_rgb], -1)
    return _kernel(position / settings.spatial_xy, normalization), _kernel(bilateral, normalization)


def _kernel(features: Tensor, normalization: Normalization) -> Filter:
    lattice = PermutohedralLattice(features)
    ones = torch.ones(lattice.points, 1, dtype=features.dtype, device=features.device)
    total = lattice.filter(ones) + 1e-20

    def run(values: Tensor) -> Tensor:
        if normalization == "symmetric":
            root = total.rsqrt().to(values.dtype)
            return lattice.filter(values * root) * root
        if normalization == "after":
            return lattice.filter(values) / total.to(values.dtype)
        return lattice.filter(values)

    return run
