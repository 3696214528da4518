"""The fully connected CRF does what Krähenbühl and Koltun's algorithm 1 does over all pairs of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.layers.crf import dense_crf, gaussian_kernels, mean_field
from segmodels.settings.schema import CRFSettings

HEIGHT, WIDTH, CLASSES = 12, 14, 3
SETTINGS = CRFSettings(
    bilateral_weight=2.0, bilateral_xy=8.0, bilateral_rgb=30.0, spatial_weight=1.0, spatial_xy=3.0, iterations=5
)


def scene() -> tuple[Tensor, Tensor]:
    """Logits with mistakes over an image of two colours, float64."""
    generator = torch.Generator().manual_seed(4)
    left = torch.arange(WIDTH) < WIDTH // 2
    colors = torch.where(left, 60.0, 180.0).expand(1, 3, HEIGHT, WIDTH).double()
    colors = colors + 8 * torch.randn(1, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    logits = torch.randn(1, CLASSES, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    logits[:, 0] += 1.0 * left
    logits[:, 1] += 1.0 * ~left
    return logits, colors


def gaussian(features: Tensor) -> Tensor:
    """The exact kernel over all pairs, normalised symmetrically; float64 `[P, P]`."""
    kernel = torch.exp(-0.5 * torch.cdist(features, features) ** 2)
    root = kernel.sum(1).rsqrt()
    return root[:, None] * kernel * root


def brute_force(logits: Tensor, colors: Tensor, s: CRFSettings) -> Tensor:
    """Algorithm 1, pixel by pixel and label by label."""
    y, x = torch.meshgrid(torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij")
    position = torch.stack([x.flatten(), y.flatten()], 1)
    color = colors[0].flatten(1).T
    appearance = gaussian(torch.cat([position / s.bilateral_xy, color / s.bilateral_rgb], 1)).numpy()
    smoothness = gaussian(position / s.spatial_xy).numpy()
    unary = -logits[0].flatten(1).T.numpy()
    q = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    for _ in range(s.iterations):
        energy = unary.copy()
        for pixel in range(len(unary)):
            for label in range(CLASSES):
                for other in range(CLASSES):
                    if other == label:
                        continue  # Potts: alike labels cost nothing
                    for weight, kernel in ((s.bilateral_weight, appearance), (s.spatial_weight, smoothness)):
                        energy[pixel, label] += weight * kernel[pixel] @ q[:, other]
        q = np.exp(-energy) / np.exp(-energy).sum(1, keepdims=True)
    return torch.tensor(q).T.reshape(CLASSES, HEIGHT, WIDTH)


def test_it_agrees_with_mean_field_over_all_pairs() -> None:
    logits, colors = scene()
    ours, exact = dense_crf(logits, colors, SETTINGS)[0], brute_force(logits, colors, SETTINGS)
    # The lattice approximates the Gaussian; the marginals differ by little, the labels by none that was sure.
    assert (ours - exact).abs().mean() < 0.02
    sure = exact.max(0).values > 0.6
    assert sure.float().mean() > 0.9
    assert (ours.argmax(0) == exact.argmax(0))[sure].all()


def test_with_the_lattices_own_kernel_it_agrees_to_the_last_digit() -> None:
    logits, colors = scene()
    kernels = gaussian_kernels(colors, SETTINGS)
    identity = torch.eye(HEIGHT * WIDTH, dtype=torch.float64)
    spatial, bilateral = (kernel(identity) for kernel in kernels)
    unary = logits[0].flatten(1).T
    q = unary.softmax(1)
    for _ in range(SETTINGS.iterations):
        others = q.sum(1, keepdim=True) - q
        penalty = SETTINGS.spatial_weight * spatial @ others + SETTINGS.bilateral_weight * bilateral @ others
        q = (unary - penalty).softmax(1)
    ours = dense_crf(logits, colors, SETTINGS)[0].flatten(1).T
    torch.testing.assert_close(ours, q, rtol=0, atol=1e-9)


def test_it_mends_mistakes_where_the_image_is_plain() -> None:
    logits, colors = scene()
    truth = (torch.arange(WIDTH) >= WIDTH // 2).long().expand(HEIGHT, WIDTH)
    before = (logits[0].argmax(0) == truth).float().mean()
    after = (dense_crf(logits, colors, SETTINGS)[0].argmax(0) == truth).float().mean()
    assert before < 0.8 < 0.98 < after


def test_probabilities_stay_probabilities_in_a_batch() -> None:
    logits, colors = scene()
    both = dense_crf(torch.cat([logits, logits.flip(-1)]), torch.cat([colors, colors.flip(-1)]), SETTINGS)
    torch.testing.assert_close(both.sum(1), torch.ones(2, HEIGHT, WIDTH, dtype=torch.float64))
    torch.testing.assert_close(both[:1], dense_crf(logits, colors, SETTINGS))


@pytest.mark.parametrize("normalization", ["symmetric", "after", "none"])
def test_gradients_of_logits_weights_and_compatibility(normalization: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, CLASSES, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    colors = 255 * torch.rand(1, 3, 3, 4, dtype=torch.float64, generator=generator)
    kernels = gaussian_kernels(colors, SETTINGS, normalization)  # type: ignore[arg-type]
    spatial, bilateral, compatibility = (
        torch.randn(CLASSES, CLASSES, dtype=torch.float64, generator=generator).div(4).requires_grad_()
        for _ in range(3)
    )

    def run(unary: Tensor, first: Tensor, second: Tensor, penalty: Tensor) -> Tensor:
        return mean_field(unary, kernels, (first, second), penalty, 3)

    assert torch.autograd.gradcheck(run, (logits, spatial, bilateral, compatibility))


def test_matrices_of_potts_are_potts() -> None:
    logits, colors = scene()
    kernels = gaussian_kernels(colors, SETTINGS)
    eye = torch.eye(CLASSES, dtype=torch.float64)
    plain = mean_field(logits, kernels, (1.0, 2.0), None, 4)
    matrices = mean_field(logits, kernels, (1.0 * eye, 2.0 * eye), 1 - eye, 4)
    torch.testing.assert_close(matrices.softmax(1), plain.softmax(1))


def test_a_kernel_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^spatial_xy is 0; it must be a number above 0"):
        CRFSettings(spatial_xy=0)


def test_half_precision_logits_are_refined_in_float32() -> None:
    logits, colors = scene()
    refined = dense_crf(logits.bfloat16(), colors.float(), SETTINGS)
    assert refined.dtype == torch.float32
    assert math.isfinite(float(refined.sum()))
