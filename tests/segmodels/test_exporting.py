"""Exported files give the network's own logits, on sizes that the exporter has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segmodels import exporting
from segmodels.checkpoint import CheckpointError, ModelConfig, load_model, save_model
from segmodels.data.dataset import ClassInfo

CLASSES = tuple(ClassInfo(f"c{i}", (i, 0, 0)) for i in range(4))
SIZES = [(1, 3, 33, 47), (2, 3, 97, 64), (3, 3, 40, 131)]


def folder(path: Path, architecture: str, **options: object) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(architecture, CLASSES, options)
    save_model(path, config, config.build().state_dict())
    return path


def test_pt2_keeps_batch_height_and_width_free(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "m", "unet", width=4), tmp_path / "deep" / "unet.pt2"
    assert "same results" in exporting.export(source, out, "pt2")
    extra = {"model.json": ""}
    with open(out, "rb") as file:
        program = torch.export.load(file, extra_files=extra).module()
    model, config = load_model(source)
    for size in SIZES:
        images = torch.randn(size)
        torch.testing.assert_close(program(images), model(images)["out"])
    assert json.loads(extra["model.json"])["classes"][1] == {"name": "c1", "color": [1, 0, 0]}
    assert json.loads(extra["model.json"])["mean"] == list(config.mean)
    assert [p.name for p in out.parent.iterdir()] == ["unet.pt2"]


def test_onnx_runs_elsewhere(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source, out = folder(tmp_path / "m", "unet", width=4), tmp_path / "unet.onnx"
    exporting.export(source, out, "onnx")
    session = onnxruntime.InferenceSession(out)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, "height", "width"])
    assert (result.name, result.shape) == ("logits", ["batch", 4, "height", "width"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["model.json"])["architecture"] == "unet"
    model, _ = load_model(source)
    for size in SIZES:
        images = torch.randn(size)
        (logits,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(logits, model(images)["out"].detach().numpy(), rtol=1e-3, atol=1e-4)


def test_torchscript_takes_any_size(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "m", "unet", width=4), tmp_path / "unet.pt"
    exporting.export(source, out, "torchscript")
    script, (model, _) = torch.jit.load(out), load_model(source)
    for size in SIZES:
        images = torch.randn(size)
        torch.testing.assert_close(script(images), model(images)["out"])


def test_a_format_without_the_operators_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "m", "segnet_basic", width=4), tmp_path / "segnet.pt"
    with pytest.raises(exporting.ExportError, match=r"^segnet_basic cannot be written as torchscript \(.*\); try pt2$"):
        exporting.export(source, out, "torchscript")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_file_with_other_results_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = folder(tmp_path / "m", "unet", width=4), tmp_path / "unet.pt"
    out.write_text("an earlier one")
    honest = exporting._torchscript

    def crooked(*args: object) -> object:
        loaded = honest(*args)  # type: ignore[arg-type]
        return lambda images: loaded(images) * 1.01

    monkeypatch.setattr(exporting, "_torchscript", crooked)
    with pytest.raises(exporting.ExportError, match=r"unet as torchscript: its file gives other logits, 1 % off"):
        exporting.export(source, out, "torchscript")
    assert out.read_text() == "an earlier one"


def test_what_is_no_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.json: no such file"):
        exporting.export(tmp_path, tmp_path / "x.pt2", "pt2")
