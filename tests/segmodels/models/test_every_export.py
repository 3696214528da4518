"""What every registered architecture is written as for use without this library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.catalog.registry import list_models, model_info
from segmodels.export.export import ExportError, Logits, export
from tests.segmodels.models.small import CLASSES, INFOS, small, step


def one_of_each() -> list[Any]:
    """One name for each class, with keywords: what is slow need not be done for every size of a network."""
    names = sorted({model_info(name).builder: name for name in reversed(list_models())}.values())
    on_backbone = {"backbone": "test_resnet", "width": 4, "up": "nearest"}
    return [*(pytest.param(name, {}, id=name) for name in names), pytest.param("unet", on_backbone, id="unet-backbone")]


def trained_folder(name: str, folder: Path, **options: Any) -> nn.Module:
    """The model folder of a network after one step, and the network."""
    model = small(name, **options)
    step(model, torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64)))
    config = ModelConfig(name, INFOS, {**model_info(name).small, **options})
    save_model(folder, config, model.state_dict())
    return model.eval()


@pytest.mark.parametrize(("name", "options"), one_of_each())
def test_export_keeps_batch_height_and_width_free(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """As a graph of PyTorch's, and where the operators allow as ONNX made from it."""
    model = trained_folder(name, tmp_path / "model", **options)
    auto = torch.export.Dim.AUTO
    # The size at which it is written, and others.
    example, *others = torch.randn(2, 3, 77, 93), torch.randn(1, 3, 64, 80), torch.randn(1, 3, 99, 70)
    shapes = ({0: auto, 2: auto, 3: auto},)
    with torch.no_grad():
        program = torch.export.export(Logits(model), (example,), dynamic_shapes=shapes, strict=False)
        runs: list[Callable[[torch.Tensor], torch.Tensor]] = [program.module()]
        if not model_info(name).onnx:
            runs.append(as_onnx(program, tmp_path / "model.onnx"))
        for images in (example, *others):
            expected = model(images)["out"]
            for run in runs:
                logits = run(images)
                assert logits.shape == expected.shape
                # Another order of sums moves a maximum, and what un-pooling restores moves with it: compare the maps.
                assert (logits - expected).abs().mean() < 1e-3 * expected.abs().mean()


def as_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime")
    shapes = {"images": {0: "batch", 2: "height", 3: "width"}}
    # Not optimised, which takes as long again: test_export.py and each export that a user makes are.
    written = torch.onnx.export(
        program, (), dynamo=True, optimize=False, verbose=False, input_names=["images"], dynamic_shapes=shapes
    )
    assert written is not None
    written.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("name", [name for name in list_models() if model_info(name).onnx])
def test_what_cannot_be_written_as_onnx_says_why_on_its_card(name: str, tmp_path: Path) -> None:
    trained_folder(name, tmp_path / "model")
    with pytest.raises(ExportError, match=f"^{name} cannot be written as onnx"):
        export(tmp_path / "model", tmp_path / "model.onnx", "onnx")
    assert "ONNX" in model_info(name).onnx
