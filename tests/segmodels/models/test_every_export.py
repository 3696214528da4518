"""What every registered architecture is written as for use without this library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from segmodels.checkpoint import ModelConfig, save_model
from segmodels.exporting import ExportError, export
from segmodels.registry import list_models, model_info
from tests.segmodels.models.small import CLASSES, INFOS, small, step


def one_of_each() -> list[str]:
    """One name for each class: what is slow need not be done for every size of a network."""
    return sorted({model_info(name).builder: name for name in reversed(list_models())}.values())


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
    export(tmp_path / "model", tmp_path / "model.onnx", "onnx", raw=True)
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
