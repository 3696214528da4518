"""What every registered architecture does, whatever its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segmodels.checkpoint import ModelConfig, load_model, save_model
from segmodels.data.dataset import ClassInfo
from segmodels.exporting import ExportError, export
from segmodels.registry import count_parameters, create_model, full_size, list_models, model_info

CLASSES = 5
INFOS = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(CLASSES))
every_model = pytest.mark.parametrize("name", list_models())


def one_of_each() -> list[str]:
    """One name for each class: what is slow need not be done for every size of a network."""
    return sorted({model_info(name).builder: name for name in reversed(list_models())}.values())


def small(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, CLASSES, **{**model_info(name).small, **options})


def step(model: Any, images: torch.Tensor, target: torch.Tensor) -> None:
    """One plain gradient step: some papers start their classifiers from zero."""
    model.train()
    model.zero_grad()
    model.loss(model(images), target).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad / (parameter.grad.norm() + 1e-6)


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
    model.loss(model(images), target).backward()
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
    loss = model.loss(model(torch.randn(2, 3, 40, 40)), torch.full((2, 40, 40), 255))
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


@every_model
def test_channels_last_and_bf16_agree_with_float32(name: str) -> None:
    model = small(name)
    images = torch.randn(2, 3, 48, 48)
    step(model, images, torch.randint(0, CLASSES, (2, 48, 48)))
    model.eval()
    with torch.no_grad():
        plain = model(images)["out"]
        last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))["out"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(images)["out"].float()
    assert (last - plain).abs().mean() < 1e-3 * plain.abs().mean() + 1e-6
    # bf16 has 8 bits of mantissa, and rounding moves maxima: compare the maps, not the numbers.
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
    for key, value in small(name).state_dict().items():
        assert torch.equal(value, small(name).state_dict()[key]), key


@pytest.mark.parametrize("name", one_of_each())
def test_export_keeps_batch_height_and_width_free(name: str) -> None:
    model = small(name).double().eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        model,
        (torch.randn(2, 3, 64, 80, dtype=torch.float64),),
        dynamic_shapes=({0: auto, 2: auto, 3: auto},),
        strict=True,
    )
    images = torch.randn(1, 3, 75, 131, dtype=torch.float64)
    torch.testing.assert_close(program.module()(images)["out"], model(images)["out"])


def trained_folder(name: str, folder: Path) -> nn.Module:
    """The model folder of a network after one step, and the network."""
    model = small(name)
    step(model, torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64)))
    save_model(folder, ModelConfig(name, INFOS, dict(model_info(name).small)), model.state_dict())
    return model.eval()


@pytest.mark.parametrize("name", [name for name in one_of_each() if not model_info(name).onnx])
def test_onnx_gives_the_networks_logits_at_every_size(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = trained_folder(name, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    # The size at which it is written, and others.
    for size in ((2, 3, 77, 93), (1, 3, 64, 80), (1, 3, 99, 70)):
        images = torch.randn(size)
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)["out"]
        assert logits.shape == expected.shape
        # Another order of sums moves a maximum, and what un-pooling restores moves with it: compare the maps.
        assert (torch.from_numpy(logits) - expected).abs().mean() < 1e-3 * expected.abs().mean()


@pytest.mark.parametrize("name", [name for name in list_models() if model_info(name).onnx])
def test_what_cannot_be_written_as_onnx_says_why_on_its_card(name: str, tmp_path: Path) -> None:
    trained_folder(name, tmp_path / "model")
    with pytest.raises(ExportError, match=f"^{name} cannot be written as onnx"):
        export(tmp_path / "model", tmp_path / "model.onnx", "onnx")
    assert "ONNX" in model_info(name).onnx
