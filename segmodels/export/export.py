"""A trained network as one file that other programs load: PyTorch's pt2, ONNX, TorchScript.

The complete form takes images, RGB uint8 `[N, H, W, 3]` of any size, and gives what the task predicts: class ids, uint8
`[N, H, W]`, and their probability, float32 `[N, H, W]`, or depths. Resizing, normalisation, argmax and the way back to
the image's size are inside. The raw form is the bare network: normalised float32 `[N, channels, H, W]` in, logits (the
task's maps) `[N, C, H, W]` out.

A file carries `model.json`, which has the classes and the normalisation, and `interface.json`, which says what goes in
and comes out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.artifacts.model_folder import CONFIG_FILE, ModelConfig, load_model
from segmodels.data.augment import normalize, resize_image
from segmodels.errors import UserError
from segmodels.export.images import check_images
from segmodels.files import replaced
from segmodels.inference.averaging import full_resolution
from segmodels.inference.predictor import Predictor
from segmodels.tasks import get_task

Format = Literal["pt2", "onnx", "torchscript"]
Run = Callable[[Tensor], tuple[Tensor, ...]]

INTERFACE_FILE = "interface.json"
# The least share of pixels that get the class that the network itself gives them. Not all do: other kernels add in
# another order, and where two classes are as likely as each other, the last digit decides.
AGREEMENT = 0.999

# Odd sizes: where height and width divide evenly, the TorchScript tracer drops what fits other sizes.
_EXAMPLE = (2, 77, 93)
_CHECKED = ((1, 83, 67), (3, 96, 64))
# Other kernels round differently, and rounding moves a maximum that un-pooling puts elsewhere: compare the means.
_TOLERANCE = 1e-3


class ExportError(UserError):
    """The network cannot be written in this format; the message says which can."""


class Logits(nn.Module):
    """The network with its logits as the output, where the architectures return a dict."""

    outputs = ("logits",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)["out"]
        return logits


class Complete(nn.Module):
    """The network with what `segmodels.inference.predictor.Predictor` does before and after it."""

    def __init__(self, model: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.model, self.size = model, config.image_size
        self.task = get_task(config.task)
        self.outputs = tuple(self.task.outputs())
        self.bytes = config.bands.plain
        self.mean = nn.Buffer(torch.tensor(config.mean))
        self.std = nn.Buffer(torch.tensor(config.std))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return values of images, and their confidence where the task knows one.

        Args:
            images: `[N, H, W, channels]` in 0..255: uint8, or float32 of a model of other bands than RGB of 8 bits.
        """
        pixels = images.permute(0, 3, 1, 2).float()
        if self.size is not None:
            pixels = _resize_like_uint8(pixels, self.size) if self.bytes else resize_image(pixels, self.size)
        maps = self.task.activate(self.model(normalize(pixels, self.mean, self.std)))
        if self.size is not None:
            maps = full_resolution(maps, images.shape[1:3])
        value, confidence = self.task.decide(maps)
        return (value,) if confidence is None else (value, confidence)


def _resize_like_uint8(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what `resize_image` does with uint8, in float32 `[N, channels, H, W]`, which every runtime can resize.

    torch resizes the rows of uint8 images first, then the columns, and rounds halves up after each.
    """
    for target in ((pixels.shape[-2], size[1]), size):
        pixels = F.interpolate(pixels, target, mode="bilinear", antialias=True, align_corners=False)
        pixels = (pixels + 0.5).floor()
    return pixels


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        megabytes: Its size, 1e6 bytes.
        agreement: Share of pixels of real images that get the class (the value, to a hundredth) that the network gives
            them, 0..1; None where the file could not be run since onnxruntime is not installed.
        pixels: How many pixels were compared.
    """

    path: Path
    megabytes: float
    agreement: float | None
    pixels: int

    def __str__(self) -> str:
        size = f"{self.path}: {self.megabytes:.1f} MB"
        if self.agreement is None:
            return f"{size}; not run: onnxruntime is not installed"
        return (
            f"{size}; {100 * self.agreement:.3f} % of {self.pixels:,} pixels of real images get what the network gives"
        )


def export(folder: Path, out: Path, kind: Format, *, raw: bool = False, data: Path | None = None) -> Exported:
    """Write a trained network to a file, which appears when it gives what the network gives on real images.

    The raw form, and the complete form of a model without an input size of its own, take images from 64 x 64.

    Args:
        folder: Model folder.
        out: The file; replaced where it exists.
        kind: `pt2` (torch.export), `onnx`, or `torchscript`.
        raw: Writes the bare network, normalised batches to logits, in place of images to class ids.
        data: Dataset folder whose validation images the file is checked on; None takes images of `streets`.

    Raises:
        CheckpointError: The folder is no model folder.
        DatasetError: `data` is no dataset folder, or its images cannot be read.
        ExportError: The format has no operator for something in the network, or the file gives other results.
    """
    model, config = load_model(folder)
    images = check_images(config, data, resized=not raw and config.image_size is not None)
    network = Logits(model) if raw else Complete(model, config)
    network.eval()
    example = torch.randn(_EXAMPLE[0], config.in_channels, *_EXAMPLE[1:])
    if not raw:
        example = torch.randint(0, 256, (_EXAMPLE[0], *_EXAMPLE[1:], config.in_channels), dtype=torch.uint8)
        example = example if config.bands.plain else example.float()
    write = {"pt2": _pt2, "onnx": _onnx, "torchscript": _torchscript}[kind]
    agreement, pixels = None, 0
    try:
        with replaced(out) as part, quiet(), torch.no_grad():
            run = write(network, example, config, part)
            if run is not None:
                if isinstance(network, Logits):
                    _check_logits(network, run, config.in_channels)
                agreement, pixels = _agreement(network, run, folder, config, images)
                if not agreement >= AGREEMENT:
                    raise ExportError(
                        f"its file gives {100 * (1 - agreement):.2g} % of the pixels of real images another value"
                    )
    except ExportError as error:
        raise ExportError(f"{config.architecture} as {kind}: {error}") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each exporter has its own way to say that it knows no such operator
        other = "pt2" if kind != "pt2" else "onnx"
        raise ExportError(
            f"{config.architecture} cannot be written as {kind} ({first_sentence(error)}); try {other}"
        ) from None
    return Exported(out, out.stat().st_size / 1e6, agreement, pixels)


def _pt2(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run:
    with open(path, "wb") as file:
        torch.export.save(_program(network, example), file, extra_files=_descriptions(network, config))
    with open(path, "rb") as file:
        loaded = torch.export.load(file).module()
    return lambda images: _tuple(loaded(images))


def _onnx(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run | None:
    assert isinstance(network, Logits | Complete)
    program = torch.onnx.export(
        _program(network, example),
        (),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=list(network.outputs),
        dynamic_shapes={"images": dict(zip((0, *_sides(network)), ("batch", "height", "width"), strict=True))},
    )
    assert program is not None
    program.model.metadata_props.update(_descriptions(network, config))
    program.save(path, external_data=False)
    try:
        return onnx_run(path)
    except ImportError:
        return None


def onnx_run(path: Path) -> Run:
    """Return a function that runs an ONNX file on the processor.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()}))

    return run


def _torchscript(network: nn.Module, example: Tensor, config: ModelConfig, path: Path) -> Run:
    traced = torch.jit.trace(network, (example,), check_trace=False)
    torch.jit.save(traced, path, _extra_files=_descriptions(network, config))
    loaded = torch.jit.load(path)
    return lambda images: _tuple(loaded(images))


def _program(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return the graph with free batch, height and width."""
    # A named Dim has a range, and the guards that odd sizes bring contradict it; AUTO finds the range.
    free = dict.fromkeys((0, *_sides(network)), torch.export.Dim.AUTO)
    return torch.export.export(network, (example,), dynamic_shapes=(free,), strict=False)


def _sides(network: nn.Module) -> tuple[int, int]:
    """Return where height and width stand in the input's shape."""
    return (2, 3) if isinstance(network, Logits) else (1, 2)


def _check_logits(network: Logits, run: Run, channels: int) -> None:
    """Compare with the network itself on sizes that the exporter has not seen."""
    for batch, height, width in _CHECKED:
        images = torch.randn(batch, channels, height, width)
        wanted = network(images)
        (given,) = _ran(run, images, height, width)
        if given.shape != wanted.shape:
            raise ExportError(f"its file gives {list(given.shape)} for {list(images.shape)}")
        distance = (given - wanted).abs().mean() / wanted.abs().mean().clamp(min=1e-6)
        if not distance <= _TOLERANCE:
            raise ExportError(f"its file gives other logits, {100 * distance:.2g} % off at {height}x{width}")


def _agreement(
    network: nn.Module, run: Run, folder: Path, config: ModelConfig, images: Sequence[np.ndarray]
) -> tuple[float, int]:
    """Return share of the images' pixels that get the class that the network gives them, and how many were compared."""
    same = total = 0
    if isinstance(network, Logits):
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        for image in images:
            batch = normalize(torch.tensor(np.asarray(image)).permute(2, 0, 1), mean, std)[None]
            (given,) = _ran(run, batch, *image.shape[:2])
            task = get_task(config.task)
            values = [task.decide(task.activate({"out": maps}))[0].numpy() for maps in (given, network(batch))]
            same += agreeing(*values)
            total += given[0, 0].numel()
        return same / total, total
    predictor = Predictor(folder, "cpu")
    for group in _batches(images):
        value = _ran(run, torch.from_numpy(np.stack(group)), *group[0].shape[:2])[0].numpy()
        wanted = np.stack([predictor.predict(image) for image in group])
        if value.shape != wanted.shape:
            raise ExportError(f"its file gives {list(value.shape)} for {list(wanted.shape)}")
        same += agreeing(value, wanted)
        total += wanted[..., 0].size if wanted.ndim == 4 else wanted.size
    return same / total, total


def agreeing(given: np.ndarray, wanted: np.ndarray) -> int:
    """Return how many pixels agree: in their ids; in numbers to a hundredth of the value, in vectors to 0.01."""
    if given.dtype.kind != "f":
        return int((given == wanted).sum())
    close = np.isclose(given, wanted, rtol=0.01, atol=0.0 if given.ndim == 3 else 0.01)
    return int(close.sum() if given.ndim == 3 else close.all(-1).sum())


def _batches(images: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
    """Yield neighbours of the same size in twos."""
    start = 0
    while start < len(images):
        stop = start + 2 if start + 1 < len(images) and images[start].shape == images[start + 1].shape else start + 1
        yield images[start:stop]
        start = stop


def _ran(run: Run, images: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    try:
        return run(images)
    except Exception as error:
        raise ExportError(f"its file does not take {height}x{width} images ({first_sentence(error)})") from None


@functools.lru_cache(maxsize=2)
def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _descriptions(network: nn.Module, config: ModelConfig) -> dict[str, str]:
    """Return the texts that a file carries."""
    maps, channels = config.channels, config.in_channels
    if isinstance(network, Logits):
        given = _value("images", "float32", "batch", channels, "height", "width")
        given["content"] = f"{config.bands} in 0..1, minus `mean`, over `std` of model.json"
        results = [_value("logits", "float32", "batch", maps, "height", "width")]
    else:
        plain = config.bands.plain
        given = _value("images", "uint8" if plain else "float32", "batch", "height", "width", channels)
        given["content"] = "RGB in 0..255" if plain else f"{config.bands}, scaled to 0..255 and cut off there"
        results = [{"name": name, **told} for name, told in get_task(config.task).outputs().items()]
    interface = {"inputs": [given], "outputs": results}
    return {CONFIG_FILE: json.dumps(dataclasses.asdict(config)), INTERFACE_FILE: json.dumps(interface)}


def _value(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an exporter, which explains itself over pages, in colour."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return re.split(r"\.\s|\n", text)[0] if text else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' advice to their developers from who exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
