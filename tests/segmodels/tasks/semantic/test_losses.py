"""Losses: void counts nowhere, and each term is what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmodels.data.folder import read_label
from segmodels.data.frequencies import ClassCounts
from segmodels.tasks.semantic import losses
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
    assert logits.grad is not None and not logits.grad.any()


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
    counted = ClassCounts(tuple(counts.tolist()), (1000, 500, 100, 0))
    frequency = np.array([0.9, 0.18, 0.1])
    median = losses.class_weights(counted, "median_frequency")
    assert median is not None
    np.testing.assert_allclose(median, [*(0.18 / frequency), 1], rtol=1e-6)
    root = losses.class_weights(counted, "sqrt_median_frequency")
    assert root is not None
    np.testing.assert_allclose(root, median**0.5)
    enet = losses.class_weights(counted, "enet")
    assert enet is not None
    np.testing.assert_allclose(enet, [*(1 / np.log(1.02 + counts[:3] / 1000)), 1], rtol=1e-6)
    assert losses.class_weights(counted, "none") is None


@needs_camvid
def test_median_frequency_weights_of_camvid_are_near_those_of_segnets_file() -> None:
    counts, images = np.zeros(11, np.int64), np.zeros(11, np.int64)
    for path in sorted((CAMVID / "trainannot").iterdir()):
        here = np.bincount(read_label(path).ravel(), minlength=12)[:11]
        counts += here
        # SegNet's frequency counts all pixels of an image, void too.
        images[here > 0] += 360 * 480
    weights = losses.class_weights(ClassCounts(tuple(counts.tolist()), tuple(images.tolist())), "median_frequency")
    assert weights is not None
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


def _expected(term: str, logits: np.ndarray, target: np.ndarray, weight: np.ndarray, smoothing: float) -> np.ndarray:
    """The loss of each pixel that counts, [pixels, (loss, weight)], as the papers' equations have it."""
    classes = logits.shape[1]
    rows = []
    for n, y, x in np.ndindex(*target.shape):
        label = target[n, y, x]
        if label == 255:
            continue
        z = logits[n, :, y, x]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        if term == "focal":  # Lin et al., ICCV 2017, equation 4 with gamma 2
            rows.append((-weight[label] * (1 - p[label]) ** 2 * np.log(p[label]), weight[label], p[label]))
            continue
        plain = -weight[label] * np.log(p[label])
        smooth = -(weight * np.log(p)).sum() / classes
        rows.append(((1 - smoothing) * plain + smoothing * smooth, weight[label], p[label]))
    return np.array(rows)


@pytest.mark.parametrize("reduction", ["mean", "sum", "batch"])
@pytest.mark.parametrize("term", ["cross_entropy", "focal", "ohem"])
def test_cross_entropies_are_those_of_their_equations(term: str, reduction: losses.Reduction) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(3, 4, 8, 9, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (3, 8, 9), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    weight = torch.tensor([0.5, 1.0, 2.0, 0.25])  # float32, as `class_weights` gives them
    smoothing = 0.1 if term == "cross_entropy" else 0.0
    criterion = losses.build({term: 2.0}, class_weight=weight, label_smoothing=smoothing, reduction=reduction)
    rows = _expected(term, logits.numpy(), target.numpy(), weight.numpy(), smoothing)
    if term == "ohem":  # the true class has less than 0.7, but a sixteenth of the pixels at least
        least = np.sort(rows[:, 2])[max(1, len(rows) // 16) - 1]
        rows = rows[rows[:, 2] <= max(least, 0.7)]
        assert 0 < len(rows) < (target != 255).sum()
    over = {"mean": rows[:, 1].sum(), "sum": 1.0, "batch": 3.0}[reduction]
    assert criterion(logits, target).item() == pytest.approx(2 * rows[:, 0].sum() / over)
    assert criterion(logits, target).dtype == torch.float64
    # Half precision is computed in float32.
    half = logits.to(torch.bfloat16)
    assert torch.equal(criterion(half, target).float(), criterion(half.float(), target).float())


def test_without_words_the_mean_counts_every_pixel_the_same() -> None:
    plain = losses.build({"cross_entropy": 1.0})
    assert plain(LOGITS, TARGET).item() == pytest.approx(F.cross_entropy(LOGITS, TARGET).item())
    assert losses.CrossEntropy()(LOGITS, TARGET).item() == pytest.approx(F.cross_entropy(LOGITS, TARGET).item())


def test_of_sure_pixels_ohem_keeps_a_sixteenth() -> None:
    logits = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    logits[0, 1] = torch.linspace(2, 6, 64, dtype=torch.float64).view(8, 8)  # all surer than 0.7
    target = torch.ones(1, 8, 8, dtype=torch.long)
    hardest = F.cross_entropy(logits, target, reduction="none").flatten().sort(descending=True).values[:4]
    assert losses.build({"ohem": 1.0})(logits, target).item() == pytest.approx(hardest.mean().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dice_is_one_minus_twice_the_overlap_over_the_total(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=dtype)
    target = torch.randint(0, 4, (2, 6, 7), generator=generator)  # class 4 does not occur
    target[target == 3] = 255
    target[0, 0, 0] = 3  # and class 3 on one pixel
    probs = logits.double().softmax(1).numpy()
    found = []
    for c in range(4):
        p, t = probs[:, c] * (target != 255).numpy(), (target == c).numpy()
        found.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum()))
    assert losses.Dice()(logits, target).item() == pytest.approx(np.mean(found), rel=1e-6)
    # A single pixel of a class whose probability is small: totals below one are divided by as they are.
    lone = torch.full((1, 2, 1, 1), 0.0, dtype=dtype)
    lone[0, 1] = -4.0
    share = float(lone.double().softmax(1)[0, 1])
    one = torch.ones(1, 1, 1, dtype=torch.long)
    assert losses.Dice()(lone, one).item() == pytest.approx(1 - 2 * share / (share + 1), rel=1e-5)


def test_every_scheme_of_class_weights_by_hand() -> None:
    counts = ClassCounts((600, 300, 100, 0, 1), (10, 10, 2, 0, 1))
    pixels = np.array(counts.pixels, float)
    share = pixels / pixels.sum()
    frequency = np.array([60.0, 30.0, 50.0, np.nan, 1.0])
    median = np.nanmedian(frequency)
    expected = {
        "enet": 1 / np.log(1.02 + share),
        "enet_encoder": 1 / np.log(1.2 + share),
        "linknet": 1 / np.log(1.02 + pixels / 600),
        "median_frequency": median / frequency,
        "sqrt_median_frequency": np.sqrt(median / frequency),
    }
    for scheme, weights in expected.items():
        weights[3] = 1.0
        found = losses.class_weights(counts, scheme)
        assert found is not None and found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), weights, rtol=1e-6)
    assert losses.class_weights(counts, "none") is None
    with pytest.raises(ValueError, match="class weights 'median' are unknown"):
        losses.class_weights(counts, "median")


def test_border_weights_are_those_of_equation_2_in_every_image() -> None:
    from scipy.ndimage import label as mark

    generator = np.random.default_rng(0)
    labels = np.zeros((4, 12, 14), np.int64)
    labels[1] = generator.choice([0, 0, 0, 0, 1, 2], (12, 14))
    labels[2, 3:6, 3:6] = 1  # one region: nothing lies between
    labels[3, 1:3, 1:3], labels[3, 8:, 8:], labels[3, 0, 13], labels[3, 6, :2] = 1, 1, 2, 255
    found = losses.border_weights(torch.from_numpy(labels), w0=10.0, sigma=5.0)
    assert found.dtype == torch.float32
    for image, weights in zip(labels, found.numpy(), strict=True):
        regions = []
        for value in set(np.unique(image)) - {0, 255}:
            marked, number = mark(image == value)
            regions += [np.argwhere(marked == i) for i in range(1, number + 1)]
        for y, x in np.ndindex(*image.shape):
            distances = sorted(np.sqrt(((region - (y, x)) ** 2).sum(1)).min() for region in regions)
            expected = 0.0
            if len(distances) > 1 and image[y, x] == 0:
                expected = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5.0**2))
            assert weights[y, x] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_criterion_takes_its_weights_along_but_does_not_store_them() -> None:
    criterion = losses.build({"cross_entropy": 1.0}, class_weight=torch.tensor([1.0, 2.0]))
    assert criterion.state_dict() == {}
    assert [b.tolist() for b in criterion.buffers()] == [[1.0, 2.0]]


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
def test_the_exponent_of_the_focal_loss_may_be_any(gamma: float) -> None:
    logits, target = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 4, 5))
    right = logits.softmax(1).gather(1, target[:, None])
    expected = (-((1 - right) ** gamma) * right.log()).mean()
    torch.testing.assert_close(losses.CrossEntropy(gamma=gamma)(logits, target), expected)
