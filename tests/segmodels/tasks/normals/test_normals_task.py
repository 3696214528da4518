"""Surface normals: angles as Fouhey's protocol has them, losses, mirror images, answers."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Answered, Prediction
from segmodels.tasks.normals import losses
from segmodels.tasks.normals.summed import AngularErrors
from segmodels.tasks.normals.task import median
from segmodels.tasks.per_image import PerImage

TASK = get_task("normals")
PARTS = TASK.parts(())


def vectors(seed: int, size: tuple[int, int] = (20, 24)) -> Tensor:
    """Unit vectors `[3, H, W]`; a fifth of them unknown."""
    drawn = F.normalize(torch.randn(3, *size, generator=torch.Generator().manual_seed(seed)), dim=0)
    drawn[:, :4] = 0
    return drawn


def turned(truth: Tensor, degrees: float) -> Tensor:
    """Vectors that are so many degrees away from known ones."""
    aside = F.normalize(torch.linalg.cross(truth, torch.tensor([0.3, -0.2, 0.9])[:, None, None], dim=0), dim=0)
    angle = math.radians(degrees)
    return truth * math.cos(angle) + aside * math.sin(angle)


def counted(pairs: list[tuple[Tensor, Tensor]]) -> tuple[PerImage, np.ndarray]:
    counts = [
        TASK.count(Prediction(given.permute(1, 2, 0).numpy()), {"normals": truth}, PARTS, EvaluateSettings())
        for truth, given in pairs
    ]
    names = [part.name for part in PARTS]
    each = PerImage.of("normals", names, [str(i) for i in range(len(counts))], counts, ())
    return each, np.sum([one.confusion for one in counts], axis=0)


def test_figures_are_those_of_all_angles_together() -> None:
    pairs = [(vectors(0), F.normalize(vectors(1) + 1e-3, dim=0)), (vectors(2), F.normalize(vectors(2) + 0.3, dim=0))]
    each, confusion = counted(pairs)
    cosines = [(t * g).sum(0)[t.ne(0).any(0)].double() for t, g in pairs]
    angles = torch.cat(cosines).clamp(-1, 1).acos().mul(180 / math.pi).numpy()
    metrics = TASK.metrics(each.measured, confusion)
    assert metrics["mean_angle"] == pytest.approx(angles.mean(), rel=1e-5)
    assert metrics["median_angle"] == pytest.approx(np.median(angles), abs=0.5)
    for key, limit in (("under_11", 11.25), ("under_22", 22.5), ("under_30", 30.0)):
        assert metrics[key] == pytest.approx((angles < limit).mean(), abs=1e-6)
    assert confusion.sum() == len(angles)


def test_the_median_lies_inside_the_tenth_of_a_degree_that_halves_the_pixels() -> None:
    angles = np.zeros((3, 1800))
    angles[0, 100] = 4  # 10.0 to 10.1 degrees
    angles[1, [0, 1799]] = 1, 3
    found = median(angles)
    assert found[0] == pytest.approx(10.05) and 179.9 <= found[1] <= 180 and np.isnan(found[2])


def test_losses_are_the_angle_and_one_minus_its_cosine() -> None:
    truth = F.normalize(torch.randn(1, 3, 8, 8), dim=1)
    given = 5 * turned(truth[0], 40)[None]  # of any length
    targets = {"normals": truth}
    assert losses.TERMS["angular"]()(given, targets).item() == pytest.approx(math.radians(40), rel=1e-4)
    assert losses.TERMS["cosine"]()(given, targets).item() == pytest.approx(1 - math.cos(math.radians(40)), rel=1e-4)


@pytest.mark.parametrize("name", list(losses.TERMS))
@pytest.mark.parametrize("truth", [torch.zeros(1, 3, 4, 4), F.normalize(torch.ones(1, 3, 4, 4), dim=1)])
def test_gradients_are_finite_where_nothing_is_known_and_where_all_is_right(name: str, truth: Tensor) -> None:
    maps = F.normalize(torch.ones(1, 3, 4, 4), dim=1).requires_grad_()
    loss = losses.TERMS[name]()(maps, {"normals": truth})
    loss.backward()
    assert maps.grad is not None and maps.grad.isfinite().all() and loss.item() < 1e-5


def test_training_sums_what_evaluation_counts() -> None:
    pairs = [(vectors(seed), turned(vectors(seed), 9.0 * (seed + 1))) for seed in range(4)]
    each, confusion = counted(pairs)
    metric = AngularErrors()
    for truth, given in pairs:
        metric.update(3 * given[None], {"normals": truth[None]})
    wanted = TASK.metrics(each.measured, confusion)
    for key, value in metric.figures().items():
        assert value == pytest.approx(wanted[key], abs=1e-3), key
    assert set(metric.figures()) == set(TASK.info.validated)


def test_a_mirror_image_faces_the_other_way() -> None:
    maps = F.normalize(torch.randn(1, 3, 4, 6), dim=1)
    restored = TASK.restore(maps, mirrored=True, scale=1.0)
    assert torch.equal(restored[:, 0], -maps[:, 0].flip(-1)) and torch.equal(restored[:, 1:], maps[:, 1:].flip(-1))


def test_directions_are_those_of_the_largest_component() -> None:
    value = np.array([[[0.9, 0.1, -0.3], [0, -1, 0], [0.1, 0.2, -0.95]]], np.float32)
    shares, facing, _ = TASK.describe(Prediction(value), PARTS)
    assert dict(zip([part.name for part in PARTS], shares.round(2).tolist(), strict=True)) == {
        "faces right": 0.33, "faces left": 0, "faces down": 0, "faces up": 0.33, "faces the camera": 0.33,
    }  # fmt: skip
    assert facing == pytest.approx(1.25 / 3)


def test_answers_are_colours_or_the_vectors_themselves() -> None:
    value = vectors(3).permute(1, 2, 0).numpy()
    answered = Answered(np.zeros((*value.shape[:2], 3), np.uint8), value, "x", PARTS)
    png = np.asarray(Image.open(io.BytesIO(TASK.forms()["normals"].encode["image/png"](answered)))).astype(float)
    known = value.any(-1)
    assert np.abs(png[known] / 127.5 - 1 - value[known]).max() < 0.005 and (png[~known] == 0).all()
    assert np.array_equal(np.load(io.BytesIO(TASK.forms()["npy"].encode["application/x-npy"](answered))), value)
