"""What every registered architecture does, whatever its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.artifacts.model_folder import ModelConfig, load_model, save_model
from segmodels.catalog.registry import count_parameters, full_size, list_models, model_info
from tests.segmodels.models.small import CLASSES, INFOS, small, step

every_model = pytest.mark.parametrize("name", list_models())


def published() -> list[Any]:
    """Every configuration whose number of parameters is known."""
    found = []
    for name in list_models():
        info = model_info(name)
        known = [(False, *pair) for pair in (({}, info.parameters), *info.variants)]
        for training, options, counts in known + [(True, *pair) for pair in info.training_parameters]:
            shown = "-".join([*(f"{k}={v}" for k, v in options.items()), *["training"] * training])
            found += [pytest.param(name, c, options, training, n, id=f"{name}-{c}-{shown}") for c, n in counts.items()]
    return found


@pytest.mark.parametrize(("name", "classes", "options", "training", "count"), published())
def test_full_width_has_the_published_number_of_parameters(
    name: str, classes: int, options: dict[str, Any], training: bool, count: int
) -> None:
    assert count_parameters(full_size(name, classes, **options), training=training) == count


@every_model
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (45, 60)])
def test_logits_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    model = small(name)
    images = torch.randn(1, 3, *size)
    assert model.train()(images)["out"].shape == (1, CLASSES, *size)
    outputs = model.eval()(images)
    assert outputs["out"].shape == (1, CLASSES, *size)
    assert set(outputs) == {"out"}


@every_model
def test_every_learnable_parameter_gets_a_finite_gradient(name: str) -> None:
    model = small(name, **({"dropout": 0.0} if "dropout" in model_info(name).options else {}))
    images, target = torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    step(model, images, target)
    model.zero_grad()
    model.loss(model(images), {"labels": target}).backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # A bias in front of batch norm moves nothing; its gradient is zero but for rounding.
        assert parameter.grad.abs().sum() > 0, key


@every_model
def test_a_batch_of_void_has_zero_loss_and_zero_gradients(name: str) -> None:
    model = small(name).train()
    loss = model.loss(model(torch.randn(2, 3, 40, 40)), {"labels": torch.full((2, 40, 40), 255)})
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


@every_model
def test_an_image_has_the_same_result_alone_and_in_a_batch(name: str) -> None:
    # In float64, since rounding may move a maximum and with it what un-pooling restores.
    model = small(name).double()
    images = torch.randn(3, 3, 40, 52, dtype=torch.float64)
    step(model, images, torch.randint(0, CLASSES, (3, 40, 52)))
    model.eval()
    with torch.no_grad():
        together = model(images)["out"]
        alone = torch.cat([model(image[None])["out"] for image in images])
    torch.testing.assert_close(together, alone)


class Pooling:
    """`max_pool2d` whose maxima stay where they were: rounding moves them, and un-pooling follows."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []
        self.again: list[Tensor] = []
        self._pool = F.max_pool2d

    def record(self, x: Tensor, *args: Any, **options: Any) -> Any:
        pooled = self._pool(x, *args, **options)
        if options.get("return_indices"):
            self.found.append(pooled[1])
        return pooled

    def replay(self, x: Tensor, *args: Any, **options: Any) -> Any:
        if not options.get("return_indices"):
            return self._pool(x, *args, **options)
        indices = self.found[len(self.again)]
        self.again.append(indices)
        return x.flatten(2).gather(2, indices.flatten(2)).view_as(indices), indices


@every_model
def test_channels_last_and_bf16_agree_with_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pooling = small(name), Pooling()
    images = torch.randn(2, 3, 48, 48)
    step(model, images, torch.randint(0, CLASSES, (2, 48, 48)))
    model.eval()
    with torch.no_grad():
        monkeypatch.setattr(F, "max_pool2d", pooling.record)
        plain = model(images)["out"]
        monkeypatch.undo()
        last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))["out"]
        monkeypatch.setattr(F, "max_pool2d", pooling.replay)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(images)["out"].float()
    assert (last - plain).abs().mean() < 1e-3 * plain.abs().mean() + 1e-6
    # bf16 has 8 bits of mantissa: compare the maps, not the numbers.
    assert (half - plain).abs().mean() < 0.1 * plain.abs().mean() + 1e-3


@every_model
def test_the_model_folder_gives_the_same_model(name: str, tmp_path: Path) -> None:
    model = small(name).eval()
    config = ModelConfig(name, INFOS, dict(model_info(name).small))
    save_model(tmp_path, config, model.state_dict())
    loaded, read = load_model(tmp_path)
    images = torch.randn(1, 3, 40, 40)
    assert read == config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    # The file's tensors lie at other addresses, for which a kernel may add in another order.
    torch.testing.assert_close(loaded(images)["out"], model(images)["out"], rtol=1e-5, atol=1e-6)


@every_model
def test_construction_follows_the_seed(name: str) -> None:
    again = small(name).state_dict()
    for key, value in small(name).state_dict().items():
        assert torch.equal(value, again[key]), key
