"""What the SPN paper fixes beyond the number of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.layers.propagation import DIRECTIONS, propagate
from segmodels.models.spn import SPN
from segmodels.tasks.semantic.losses import OnLabels


def refiner(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("spn", 5, **{"base": "enet", "base_options": {"width": 0.25}, "width": 0.04, **options})


def test_the_refined_score_is_that_of_the_refiner_alone_on_the_bases_score() -> None:
    together = refiner(channels=4).eval()
    alone = refiner(base=None, base_options=None, channels=4).eval()
    alone.load_state_dict({k: v for k, v in together.state_dict().items() if not k.startswith("base.")})
    images = torch.randn(2, 3, 45, 70)
    score = together.base(images)["out"]
    assert score.shape == (2, 5, 45, 70)
    torch.testing.assert_close(together(images)["out"], alone(torch.cat([images, score], dim=1))["out"])


def test_four_directions_are_propagated_twice_and_their_maximum_taken() -> None:
    model = refiner(channels=4).eval()
    images = torch.randn(1, 3, 64, 96)
    seen: dict[str, torch.Tensor] = {}
    model.reduce.register_forward_hook(lambda _, __, output: seen.update(reduced=output))
    model.up.register_forward_pre_hook(lambda _, inputs: seen.update(propagated=inputs[0]))
    model(images)
    gates = model.guidance(images)
    assert [g.shape for g in gates] == [(1, 3, 4, 32, 48)] * len(DIRECTIONS)
    x = seen["reduced"]
    for _ in range(2):
        right, left, down, up = (propagate(x, g, d) for g, d in zip(gates, DIRECTIONS, strict=True))
        x = torch.maximum(torch.maximum(right, left), torch.maximum(down, up))
    torch.testing.assert_close(seen["propagated"], x)


def test_the_networks_own_gates_are_stable_however_large_its_weights() -> None:
    model = refiner(channels=4).eval()
    with torch.no_grad():
        model.guidance.gates.weight.mul_(1e3)
        for gates in model.guidance(torch.randn(1, 3, 64, 64)):
            sums = gates.abs().sum(1)
            assert sums.max() <= 1 + 1e-5
            assert sums.median() > 0.99


def test_a_refiner_on_a_frozen_base_leaves_its_weights_and_statistics() -> None:
    model = refiner(channels=4, freeze_base=True).train()
    before = {k: v.clone() for k, v in model.base.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    outputs = model(torch.randn(2, 3, 64, 64))
    assert set(outputs) == {"out"}
    model.loss(outputs, {"labels": torch.randint(0, 5, (2, 64, 64))}).backward()
    optimizer.step()
    for key, value in model.base.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_base_that_learns_has_its_own_objective_beside_the_refiners() -> None:
    model = refiner(base="pspnet", base_options={"backbone": "test_resnet", "channels": 8}, channels=4).train()
    outputs = model(torch.randn(2, 3, 64, 64))
    assert set(outputs) == {"out", "base out", "base aux"}
    target = torch.randint(0, 5, (2, 64, 64))
    refined, own, aux = (F.cross_entropy(outputs[k], target) for k in ("out", "base out", "base aux"))
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), refined + own + 0.4 * aux)


def test_the_base_is_trained_with_the_criterion_that_is_given() -> None:
    model = refiner(channels=4).train()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), ignore_index=255)
    model.criterion = OnLabels(weighted)
    outputs = model(torch.randn(2, 3, 64, 64))
    target = torch.randint(0, 5, (2, 64, 64))
    expected = model.criterion(outputs["out"], {"labels": target}) + model.criterion(
        outputs["base out"], {"labels": target}
    )
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)


@pytest.mark.parametrize("base", ["unet", "fcdensenet56"])
def test_any_architecture_can_be_refined(base: str) -> None:
    options = {"unet": {"width": 2}, "fcdensenet56": {"growth_rate": 2, "first": 4}}[base]
    model = refiner(base=base, base_options=options, channels=4).eval()
    assert model(torch.randn(1, 3, 33, 50))["out"].shape == (1, 5, 33, 50)


def test_imagenet_weights_fill_the_guidance_network() -> None:
    from torchvision.models import vgg16

    published = vgg16(weights=None, init_weights=False).state_dict()
    with torch.device("meta"):
        model = SPN(21, base=None)
    translated = model.translate(published)
    own = {k: v.shape for k, v in model.state_dict().items() if k.startswith("guidance.stages.")}
    assert {k: translated[k].shape for k in own} == own
