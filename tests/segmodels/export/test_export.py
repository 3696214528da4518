"""Exported files give the network's own logits and classes, on sizes that the exporter has not seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segmodels.artifacts.model_folder import ModelConfig, load_model, save_model
from segmodels.catalog.registry import model_info
from segmodels.catalog.weights import CheckpointError
from segmodels.data.augment import normalize
from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.loading import Decoded
from segmodels.data.streets import write_dataset
from segmodels.data.writer import DatasetWriter
from segmodels.export import export as exporting
from segmodels.export import int8
from segmodels.inference.predictor import Predictor
from tests.segmodels.conftest import CLASSES as BOXES
from tests.segmodels.conftest import scene

CLASSES = tuple(ClassInfo(f"c{i}", (i, 0, 0)) for i in range(4))
SIZES = [(1, 3, 33, 47), (2, 3, 97, 64), (3, 3, 40, 131)]


def folder(path: Path, architecture: str, **options: object) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(architecture, CLASSES, options)
    save_model(path, config, config.build().state_dict())
    return path


def test_pt2_keeps_batch_height_and_width_free(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "m", "unet", width=4), tmp_path / "deep" / "unet.pt2"
    assert exporting.export(source, out, "pt2", raw=True).agreement == 1
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
    exporting.export(source, out, "onnx", raw=True)
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
    exporting.export(source, out, "torchscript", raw=True)
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
        return lambda images: tuple(output * 1.01 for output in loaded(images))

    monkeypatch.setattr(exporting, "_torchscript", crooked)
    with pytest.raises(exporting.ExportError, match=r"unet as torchscript: its file gives other logits, 1 % off"):
        exporting.export(source, out, "torchscript", raw=True)
    assert out.read_text() == "an earlier one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder after a few steps, with an input size of its own, and its dataset folder."""
    root = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    with DatasetWriter(root / "data", "boxes", BOXES, source={"path": "made by a test"}) as writer:
        for split, count in (("train", 8), ("val", 3)):
            for index in range(count):
                writer.add(split, f"{index:03d}", *scene(rng, 96, 128 - 16 * (index % 2)))
    config = ModelConfig("unet", BOXES, {"width": 4, "batch_norm": True}, image_size=(64, 80))
    torch.manual_seed(0)
    model = config.build()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    decoded = Decoded(root / "data", "train", size=config.image_size)
    samples = [decoded[i] for i in range(len(decoded))]
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    images = torch.stack([normalize(sample["image"], mean, std) for sample in samples])
    labels = torch.stack([sample["labels"] for sample in samples])
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(model(images), {"labels": labels.long()}).backward()  # type: ignore[operator]
        optimizer.step()
    save_model(root / "model", config, model.state_dict())
    return root / "model", root / "data"


def predictions(source: Path, images: np.ndarray) -> np.ndarray:
    predictor = Predictor(source, "cpu")
    return np.stack([predictor.predict(image) for image in images])


def pictures(*size: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([scene(rng, *size)[0] for _ in range(2)])


def pt2(path: Path, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    with open(path, "rb") as file:
        classes, confidence = torch.export.load(file).module()(torch.tensor(images))
    return classes, confidence


def torchscript(path: Path, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    classes, confidence = torch.jit.load(path)(torch.tensor(images))
    return classes, confidence


def onnx(path: Path, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
    assert shapes == [["batch", "height", "width", 3], *[["batch", "height", "width"]] * 2]
    classes, confidence = session.run(["classes", "confidence"], {"images": images})
    return torch.tensor(classes), torch.tensor(confidence)


@pytest.mark.parametrize(("kind", "load"), [("pt2", pt2), ("onnx", onnx), ("torchscript", torchscript)])
def test_the_complete_form_takes_images_and_gives_the_predictors_classes(
    kind: exporting.Format, load: Callable, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    source, data = trained
    out = tmp_path / f"model.{kind}"
    exported = exporting.export(source, out, kind, data=data)
    assert exported.pixels == 2 * 96 * 128 + 96 * 112
    assert exported.agreement is not None
    assert exported.agreement >= exporting.AGREEMENT
    for size in ((80, 64), (131, 150), (40, 50)):
        images = pictures(*size)
        classes, confidence = load(out, images)
        assert classes.dtype == torch.uint8
        assert classes.shape == confidence.shape == (2, *size)
        wanted = predictions(source, images)
        assert len(np.unique(wanted)) > 1
        assert (classes.numpy() == wanted).mean() > 0.998
        assert confidence.min() > 1 / len(BOXES) - 1e-3
        assert confidence.max() <= 1 + 1e-5


def test_a_model_without_a_size_of_its_own_takes_images_as_they_are(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "m", "unet", **model_info("unet").small), tmp_path / "m.pt2"
    exporting.export(source, out, "pt2")
    images = pictures(75, 101)
    classes, _ = pt2(out, images)
    wanted = predictions(source, images)
    assert len(np.unique(wanted)) > 1
    assert (classes.numpy() == wanted).mean() > 0.998


def test_a_file_tells_what_goes_in_and_comes_out(trained: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    exporting.export(trained[0], out, "torchscript")
    extra = {"model.json": "", "interface.json": ""}
    torch.jit.load(out, _extra_files=extra)
    interface = json.loads(extra["interface.json"])
    assert [(v["name"], v["dtype"]) for v in interface["inputs"]] == [("images", "uint8")]
    assert [(v["name"], v["dtype"]) for v in interface["outputs"]] == [("classes", "uint8"), ("confidence", "float32")]
    assert json.loads(extra["model.json"])["image_size"] == [64, 80]


def test_a_file_that_gives_real_images_other_classes_does_not_appear(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporting._torchscript

    def crooked(*args: object) -> object:
        run = honest(*args)  # type: ignore[arg-type]

        def shifted(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            classes, confidence = run(images)
            return classes.roll(3, 1), confidence

        return shifted

    monkeypatch.setattr(exporting, "_torchscript", crooked)
    with pytest.raises(exporting.ExportError, match=r"gives .* % of the pixels of real images another value"):
        exporting.export(trained[0], tmp_path / "model.pt", "torchscript", data=trained[1])
    assert list(tmp_path.iterdir()) == []


def test_int8_is_measured_against_float_and_carries_its_figures(trained: tuple[Path, Path], tmp_path: Path) -> None:
    onnxruntime, onnx_file = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    source, data = trained
    out = tmp_path / "small.onnx"
    result = int8.export_int8(source, out, data)
    assert (result.images, result.calibration_images) == (3, 8)
    assert result.figure is not None and result.figure_float is not None
    assert result.figure_float > 0.5
    assert abs(result.figure - result.figure_float) < 0.1
    assert result.agreement > 0.95
    session = onnxruntime.InferenceSession(out)
    kept = json.loads(session.get_modelmeta().custom_metadata_map["int8.json"])
    assert (kept["task"], kept["figure"]) == ("semantic", result.figure)
    assert f"mIoU {100 * result.figure:.1f} % in int8" in str(result)
    assert "model.json" in session.get_modelmeta().custom_metadata_map
    classes, _ = session.run(None, {"images": pictures(90, 70)})
    assert (classes == predictions(source, pictures(90, 70))).mean() > 0.9
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]
    # What stands before the network and after it stays as it was.
    nodes = onnx_file.load(out).graph.node
    makes = {name: node for node in nodes for name in node.output}

    def sources(kind: str) -> set[str]:
        return {makes[node.input[0]].op_type for node in nodes if node.op_type == kind and node.input[0] in makes}

    assert sources("Conv") == {"DequantizeLinear"}
    assert len([node for node in nodes if node.op_type == "Softmax"]) == 1
    assert "QuantizeLinear" not in sources("Floor") | sources("ArgMax")


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_int8_of_numbers_counts_each_pixel_once(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    # Nothing is quantised: all pixels agree.
    monkeypatch.setattr(int8, "_quantize", lambda plain, small, images: shutil.copy(plain, small))
    write_dataset(tmp_path / "data", seed=0, train=1, val=1, test=0, height=64, width=80, targets=(task,))
    torch.manual_seed(0)
    config = ModelConfig("unet", (), {"width": 4, "batch_norm": True}, task=task)
    save_model(tmp_path / "m", config, config.build().state_dict())
    result = int8.export_int8(tmp_path / "m", tmp_path / "small.onnx", tmp_path / "data")
    assert (result.task, result.agreement) == (task, 1.0)
    assert result.figure == result.figure_float


def test_images_that_no_exported_network_takes_are_named(tmp_path: Path, dataset: Path) -> None:
    source = folder(tmp_path / "m", "unet", width=4)
    with pytest.raises(DatasetError, match=r"000\.png: is smaller than 64x64"):
        exporting.export(source, tmp_path / "m.pt2", "pt2", data=dataset)


def test_what_is_no_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.json: no such file"):
        exporting.export(tmp_path, tmp_path / "x.pt2", "pt2")
