"""A trained network as one file that other programs load: PyTorch's pt2, ONNX, TorchScript.

Its input is a normalised batch, float32 `[N, channels, H, W]`, of any size; its output the logits `[N, C, H, W]`. The
file carries `model.json`, which has the classes and the normalisation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segmodels.checkpoint import CONFIG_FILE, ModelConfig, load_model

Format = Literal["pt2", "onnx", "torchscript"]
Run = Callable[[Tensor], Tensor]

# Odd sizes: where height and width divide evenly, the TorchScript tracer drops what fits other sizes.
# From 64 on: torch.export takes a side of 1, which a stride of 32 makes of less, for a constant.
_EXAMPLE = (2, 77, 93)
_CHECKED = ((1, 83, 67), (3, 96, 64))
# Other kernels round differently, and rounding moves a maximum that un-pooling puts elsewhere: compare the means.
_TOLERANCE = 1e-3


class ExportError(Exception):
    """The network cannot be written in this format; the message says which can."""


class Logits(nn.Module):
    """The network with its logits as the output, where the architectures return a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)["out"]
        return logits


def export(folder: Path, out: Path, kind: Format) -> str:
    """Writes a trained network to a file, which appears when it gives what the network gives on other sizes.

    The file takes batches of images from 64 x 64.

    Args:
        folder: Model folder.
        out: The file; replaced where it exists.
        kind: `pt2` (torch.export), `onnx`, or `torchscript`.

    Returns:
        How the file was checked, in words.

    Raises:
        CheckpointError: The folder is no model folder.
        ExportError: The format has no operator for something in the network, or the file gives other results.
    """
    model, config = load_model(folder)
    network = Logits(model).eval()
    example = torch.randn(_EXAMPLE[0], config.in_channels, *_EXAMPLE[1:])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    write = {"pt2": _pt2, "onnx": _onnx, "torchscript": _torchscript}[kind]
    try:
        with _quiet(), torch.no_grad():
            run = write(network, example, config, part)
            if run is not None:
                _check(network, run, config.in_channels)
        os.replace(part, out)
    except ExportError as error:
        raise ExportError(f"{config.architecture} as {kind}: {error}") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each exporter has its own way to say that it knows no such operator
        other = "pt2" if kind != "pt2" else "onnx"
        raise ExportError(
            f"{config.architecture} cannot be written as {kind} ({_first_sentence(error)}); try {other}"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    sizes = ", ".join("x".join(map(str, size)) for size in _CHECKED)
    return f"same results on batches of {sizes}" if run else "not run: onnxruntime is not installed"


def _pt2(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run:
    with open(path, "wb") as file:
        torch.export.save(_program(network, example), file, extra_files={CONFIG_FILE: _description(config)})
    with open(path, "rb") as file:
        loaded: Run = torch.export.load(file).module()
    return loaded


def _onnx(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run | None:
    program = torch.onnx.export(
        _program(network, example),
        (),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
    )
    assert program is not None
    program.model.metadata_props[CONFIG_FILE] = _description(config)
    program.save(path, external_data=False)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        outputs: list[np.ndarray] = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(outputs[0])

    return run


def _torchscript(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run:
    traced = torch.jit.trace(network, (example,), check_trace=False)
    torch.jit.save(traced, path, _extra_files={CONFIG_FILE: _description(config)})
    loaded: Run = torch.jit.load(path)
    return loaded


def _program(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph with free batch, height and width."""
    # A named Dim has a range, and the guards that odd sizes bring contradict it; AUTO finds the range.
    auto = torch.export.Dim.AUTO
    return torch.export.export(network, (example,), dynamic_shapes=({0: auto, 2: auto, 3: auto},), strict=True)


def _check(network: Logits, run: Run, channels: int) -> None:
    """Compares with the network itself on sizes that the exporter has not seen."""
    for batch, height, width in _CHECKED:
        images = torch.randn(batch, channels, height, width)
        wanted = network(images)
        try:
            given = run(images)
        except Exception as error:
            raise ExportError(f"its file does not take {height}x{width} images ({_first_sentence(error)})") from None
        if given.shape != wanted.shape:
            raise ExportError(f"its file gives {list(given.shape)} for {list(images.shape)}")
        distance = (given - wanted).abs().mean() / wanted.abs().mean().clamp(min=1e-6)
        if not distance <= _TOLERANCE:
            raise ExportError(f"its file gives other logits, {100 * distance:.2g} % off at {height}x{width}")


def _description(config: ModelConfig) -> str:
    return json.dumps(dataclasses.asdict(config))


def _first_sentence(error: Exception) -> str:
    """Exporters explain themselves over pages, in colour."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return re.split(r"\.\s|\n", text)[0] if text else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' advice to their developers is no use to who exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
