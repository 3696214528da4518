"""The model folder: `model.safetensors`, `model.json`, `history.csv`. Nothing in it is pickled."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segmodels.catalog.registry import create_model, model_info
from segmodels.catalog.weights import WEIGHTS_FILE, CheckpointError, read_tensors
from segmodels.data.bands import PLAIN, Bands
from segmodels.data.folder import MAX_CLASSES, ClassInfo, DatasetInfo
from segmodels.errors import UnknownModelError, brief
from segmodels.files import ContentError, read_json
from segmodels.layers.uninitialised import on_meta
from segmodels.tasks import DEFAULT, get_task, list_tasks, task_info
from segmodels.tasks.base import Part

CONFIG_FILE, HISTORY_FILE = "model.json", "history.csv"
# Since format 2, the options say all that networks of format 1 computed otherwise.
FORMAT = 2
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelConfig:
    """The content of `model.json`: all that is needed to use the weights.

    Attributes:
        architecture: Name in the registry.
        classes: The classes in label order; empty where the task predicts none.
        task: What it predicts (`segmodels.tasks`); `semantic` in folders that say nothing of it.
        options: Keywords of `create_model`.
        backbone: Encoder, or None where the architecture fixes it.
        in_channels: Channels of the input.
        bands: How image files become these channels; RGB of 8 bits by default.
        mean: Mean of each channel of images scaled to 0..1, subtracted before the network.
        std: Standard deviation of each channel, by which is divided.
        image_size: (height, width) to which images are resized before the network; None keeps their size.
        metrics: What was measured in training, e.g. the best epoch and its main figure.
        training: How it was made: `settings` (`TrainSettings`), `seed`, and `data_md5`, the dataset folder's hash as
            DVC has it. Empty in folders that earlier releases wrote.
    """

    architecture: str
    classes: tuple[ClassInfo, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    in_channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: tuple[int, int] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    task: str = DEFAULT
    bands: Bands = PLAIN

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def parts(self) -> tuple[Part, ...]:
        """What predictions are counted by: the classes, or what the task has in their place."""
        return get_task(self.task).parts(self.classes)

    @property
    def part_names(self) -> list[str]:
        return [part.name for part in self.parts]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        return [part.color for part in self.parts]

    @property
    def channels(self) -> int:
        """How many maps the network gives."""
        return get_task(self.task).channels(self.classes)

    def build(self, weights: Path | None = None) -> nn.Module:
        """Return the model with fresh weights, or with those of a file."""
        return create_model(
            self.architecture,
            self.channels,
            in_channels=self.in_channels,
            weights=weights,
            **{**self.options, **({"backbone": self.backbone} if self.backbone else {})},
        )


def channels_of(info: DatasetInfo) -> dict[str, Any]:
    """Return the fields of a `ModelConfig` that say how the images of a dataset are read."""
    if not info.image:
        return {}
    bands = Bands.of(info.image)
    return {
        "bands": bands,
        "in_channels": bands.channels,
        "mean": tuple(info.image["mean"]),
        "std": tuple(info.image["std"]),
    }


def save_model(
    folder: Path | str, config: ModelConfig, weights: Mapping[str, Tensor], history: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write a model folder; `weights` is a state dict."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    # safetensors lets nobody else read what it writes: a server that runs as another user could not open it.
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    with open(folder / HISTORY_FILE, "w", newline="") as file:
        columns = list(history[0]) if history else ["epoch"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def read_config(folder: Path | str) -> ModelConfig:
    """Read `model.json`.

    Raises:
        CheckpointError: The folder is no model folder.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        raw = read_json(path)
        raw["classes"] = tuple(ClassInfo(c["name"], tuple(c["color"])) for c in raw["classes"])
        for key in ("mean", "std", "image_size"):
            raw[key] = tuple(raw[key]) if raw.get(key) is not None else None
        raw["bands"] = Bands.of(raw.get("bands", {}))
        if raw.get("format", 1) < FORMAT:
            raw |= {"options": _as_trained(raw["architecture"], raw.get("options", {})), "format": FORMAT}
        config = ModelConfig(**raw)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a model folder holds {WEIGHTS_FILE} and {CONFIG_FILE}") from None
    except ContentError as error:
        raise CheckpointError(str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the description of a model ({brief(error)})") from None
    if config.task not in list_tasks():
        raise CheckpointError(f"{path}: its task '{config.task}' is unknown; known are {', '.join(list_tasks())}")
    if task_info(config.task).needs_classes and not 1 <= len(config.classes) <= MAX_CLASSES:
        raise CheckpointError(
            f"{path}: has {len(config.classes)} classes; class maps of 8 bits hold 1 to {MAX_CLASSES}"
        )
    return config


def _as_trained(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a model of format 1, with those that let it compute what it was trained to compute."""
    try:
        given = {**model_info(architecture).earlier, **options}
        if given.get("base"):  # a network that refines another one
            given["base_options"] = {**model_info(given["base"]).earlier, **(given.get("base_options") or {})}
    except UnknownModelError:  # whoever builds it says so
        return dict(options)
    return given


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelConfig]:
    """Return the model of a folder, in evaluation mode, and its description.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the architecture.
    """
    config = read_config(folder)
    path = Path(folder) / WEIGHTS_FILE
    try:
        with on_meta():
            model = config.build()
        model.load_state_dict(read_tensors(path), strict=True, assign=True)
    except (RuntimeError, UnknownModelError) as error:
        raise CheckpointError(f"{path}: does not fit {config.architecture} ({error})") from None
    return model.eval().to(device), config
