"""Inference: windows and augmentation give what the plain pass gives where they must."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmodels.inference import augmented, full_resolution, monte_carlo, sliding


class Pixelwise(nn.Module):
    """A model whose answer at a pixel depends on that pixel alone."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": torch.stack([images.sum(1), -images.sum(1), images[:, 0]], dim=1)}


def test_windows_cover_everything_and_average_their_overlap() -> None:
    images = torch.randn(2, 3, 37, 53)
    whole = sliding(Pixelwise(), images, None)
    for window, stride in (((16, 20), None), ((16, 20), (7, 9)), ((64, 20), None)):
        torch.testing.assert_close(sliding(Pixelwise(), images, window, stride), whole)


def test_windows_never_exceed_the_image() -> None:
    seen = []

    class Spy(Pixelwise):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images)

    sliding(Spy(), torch.randn(1, 3, 50, 40), (32, 32))
    assert set(seen) == {(32, 32)}


def test_flipping_a_symmetric_model_changes_nothing() -> None:
    images = torch.randn(1, 3, 33, 40)
    torch.testing.assert_close(augmented(Pixelwise(), images, flip=True), augmented(Pixelwise(), images))


def test_scales_are_averaged_at_the_images_size() -> None:
    images = torch.randn(1, 3, 64, 64)
    probs = augmented(Pixelwise(), images, scales=(0.5, 1.0, 1.5))
    assert probs.shape == (1, 3, 64, 64)
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 64, 64))


def test_full_resolution_keeps_probabilities() -> None:
    probs = torch.randn(1, 4, 10, 10).softmax(1)
    assert full_resolution(probs, (10, 10)) is probs
    torch.testing.assert_close(full_resolution(probs, (23, 31)).sum(1), torch.ones(1, 23, 31))


def test_monte_carlo_without_dropout_is_the_plain_pass() -> None:
    images = torch.randn(1, 3, 8, 8)
    mean, uncertainty = monte_carlo(Pixelwise(), images, 3)
    torch.testing.assert_close(mean, Pixelwise()(images)["out"].softmax(1))
    assert uncertainty.abs().max() < 1e-6
