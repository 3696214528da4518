"""Losses: void counts nowhere, and each term is what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmodels import losses
from segmodels.data.dataset import read_label
from segmodels.data.frequencies import ClassCounts
from tests.samples import CAMVID, needs_camvid

LOGITS = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(1))
TERMS = ["cross_entropy", "focal", "dice", "lovasz", "ohem"]


@pytest.mark.parametrize("term", TERMS)
def test_ignored_pixels_change_nothing(term: str) -> None:
    criterion = losses.build({term: 1.0}, class_weight=torch.tensor([1.0, 2.0, 3.0, 0.5]))
    target = TARGET.clone()
    target[:, :, 3:] = 255
    other = LOGITS.clone()
    other[..., 3:] += 5 * torch.randn_like(other[..., 3:])
    assert torch.equal(criterion(LOGITS, target), criterion(other, target))


@pytest.mark.parametrize("term", TERMS)
def test_all_void_is_zero_with_zero_gradient(term: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = losses.build({term: 1.0})(logits, torch.full_like(TARGET, 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("term", TERMS)
def test_a_perfect_prediction_costs_nearly_nothing_and_a_wrong_one_much(term: str) -> None:
    criterion = losses.build({term: 1.0})
    perfect = 20 * F.one_hot(TARGET, 4).permute(0, 3, 1, 2).float()
    assert criterion(perfect, TARGET) < 1e-3
    assert criterion(-perfect, TARGET) > 0.5


def test_weighted_cross_entropy_equals_torch() -> None:
    weight = torch.tensor([0.2, 1.0, 3.0, 7.0])
    target = TARGET.clone()
    target[0, 0] = 255
    ours = losses.CrossEntropy(weight, label_smoothing=0.0)(LOGITS, target)
    torch.testing.assert_close(ours, F.cross_entropy(LOGITS, target, weight=weight, ignore_index=255))
    summed = losses.CrossEntropy(weight, reduction="sum")(LOGITS, target)
    torch.testing.assert_close(
        summed, F.cross_entropy(LOGITS, target, weight=weight, ignore_index=255, reduction="sum")
    )


def test_label_smoothing_equals_torch() -> None:
    ours = losses.CrossEntropy(label_smoothing=0.1)(LOGITS, TARGET)
    torch.testing.assert_close(ours, F.cross_entropy(LOGITS, TARGET, label_smoothing=0.1))


def test_focal_loss_without_its_exponent_is_cross_entropy() -> None:
    torch.testing.assert_close(losses.CrossEntropy(gamma=0.0)(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET))
    assert losses.CrossEntropy(gamma=2.0)(LOGITS, TARGET) < F.cross_entropy(LOGITS, TARGET)


def test_lovasz_of_a_hard_prediction_is_one_minus_the_mean_iou() -> None:
    prediction = TARGET.roll(1, dims=2)
    hard = 1000.0 * F.one_hot(prediction, 4).permute(0, 3, 1, 2).float()
    ious = [((prediction == c) & (TARGET == c)).sum() / ((prediction == c) | (TARGET == c)).sum() for c in range(4)]
    torch.testing.assert_close(losses.LovaszSoftmax()(hard, TARGET), 1 - torch.stack(ious).mean())


def test_ohem_keeps_only_the_hard_pixels() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0] = torch.tensor([[9.0, 9.0, 9.0, -2.0]])
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    hard = losses.CrossEntropy(ohem=1 / 16)(logits, target)
    torch.testing.assert_close(hard, F.cross_entropy(logits[..., 3:], target[..., 3:]))


def test_class_weights_follow_their_papers() -> None:
    counts = np.array([900, 90, 10, 0])
    found = ClassCounts(tuple(counts.tolist()), (1000, 500, 100, 0))
    frequency = np.array([0.9, 0.18, 0.1])
    median = losses.class_weights(found, "median_frequency")
    np.testing.assert_allclose(median, [*(0.18 / frequency), 1], rtol=1e-6)
    np.testing.assert_allclose(losses.class_weights(found, "sqrt_median_frequency"), median**0.5)
    enet = losses.class_weights(found, "enet")
    np.testing.assert_allclose(enet, [*(1 / np.log(1.02 + counts[:3] / 1000)), 1], rtol=1e-6)
    assert losses.class_weights(found, "none") is None


@needs_camvid
def test_median_frequency_weights_of_camvid_are_near_those_of_segnets_file() -> None:
    counts, images = np.zeros(11, np.int64), np.zeros(11, np.int64)
    for path in sorted((CAMVID / "trainannot").iterdir()):
        here = np.bincount(read_label(path).ravel(), minlength=12)[:11]
        counts += here
        # SegNet's frequency counts all pixels of an image, void too.
        images[here > 0] += 360 * 480
    weights = losses.class_weights(ClassCounts(tuple(counts.tolist()), tuple(images.tolist())), "median_frequency")
    published = np.array([0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614])
    # The authors' weight of the sign class is not what its frequency gives; the others agree but for a factor.
    others = np.arange(11) != 6
    np.testing.assert_allclose(weights[others] * 0.91, published[others], rtol=0.12)


def test_border_weights_are_largest_between_close_regions() -> None:
    target = torch.zeros(1, 20, 40, dtype=torch.long)
    target[0, 5:15, 4:14] = 1
    target[0, 5:15, 17:27] = 1
    weights = losses.border_weights(target, w0=10, sigma=5)[0]
    assert weights[10, 15] > 5
    assert weights[10, 35] < 0.1
    assert (weights[target[0] == 1] == 0).all()
    # Between the regions d1 + d2 is 2 + 2 at the second of the three pixels.
    np.testing.assert_allclose(weights[10, 15], 10 * np.exp(-(4**2) / 50), rtol=1e-5)


def test_an_unknown_term_is_named() -> None:
    with pytest.raises(ValueError, match="loss 'lovazs' is unknown"):
        losses.build({"lovazs": 1.0})
