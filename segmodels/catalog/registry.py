"""The registry: every architecture under its name, with what its paper says about it.

@register(paper=..., year=..., arxiv=..., parameters={11: 363_791})
class ENet(nn.Module): ...

model = create_model("enet", num_classes=11)
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmodels.errors import UnknownModelError, nearest, printable
from segmodels.tasks import task_info
from segmodels.tasks.base import TaskError

if TYPE_CHECKING:
    from torch import nn

    from segmodels.models.base import SegmentationModel


@dataclass(frozen=True)
class ModelInfo:
    """What is known about an architecture.

    Attributes:
        name: The name that `create_model`, `params.yaml` and the command line share.
        paper: Title of the paper.
        authors: Authors, in the paper's order.
        venue: Where it appeared.
        year: When it appeared.
        arxiv: arXiv identifier, empty where there is none.
        pins: What fixes the configuration (the authors' file, a table of the paper).
        parameters: Number of classes -> exact number of parameters of the default configuration in inference.
        variants: Other configurations whose numbers are known: keywords, and number of classes -> parameters.
        training_parameters: The same, of training: with auxiliary heads.
        published: Name of a benchmark -> the published figure.
        differences: How the default differs from the original, and why; one sentence each.
        recipe: The paper's own training recipe, as keys of the training settings.
        testing: The paper's own way to test, as keys of the evaluation settings.
        unconfirmed: What of the default form nothing independent confirms, one sentence each.
        earlier: Keywords that make it compute what it computed in model folders of format 1.
        small: Keywords that make it small, for tests and first tries.
        onnx: Why it cannot be written as ONNX; empty where it can.
        backbones: Names that `backbone=` takes; empty where the paper leaves no choice.
        tasks: What it can learn: names of tasks, or a kind of them (`TaskInfo.kind`).
        builder: The class or function that builds it.
        defaults: Keywords that this name fixes when the builder serves several names.
    """

    name: str
    paper: str
    authors: str
    venue: str
    year: int
    builder: Callable[..., SegmentationModel]
    arxiv: str = ""
    pins: str = ""
    parameters: Mapping[int, int] = field(default_factory=dict)
    variants: tuple[tuple[Mapping[str, Any], Mapping[int, int]], ...] = ()
    training_parameters: tuple[tuple[Mapping[str, Any], Mapping[int, int]], ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    testing: Mapping[str, Any] = field(default_factory=dict)
    unconfirmed: tuple[str, ...] = ()
    earlier: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    onnx: str = ""
    backbones: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("dense",)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of this architecture and their defaults."""
        taken = {"self", "num_classes", "in_channels"}
        keywords = {}
        for name, parameter in inspect.signature(self.builder).parameters.items():
            if name not in taken and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                keywords[name] = self.defaults.get(name, parameter.default)
        return keywords


_MODELS: dict[str, ModelInfo] = {}
# The line that registers, in a file of `segmodels.models`: the name stands first, as it is.
_REGISTERS = re.compile(r"""^@register\(\s*["']([^"']+)["']""", re.MULTILINE)


def register(name: str, *, defaults: Mapping[str, Any] | None = None, **info: Any) -> Callable[[Any], Any]:
    """Put a builder into the registry under `name`; a decorator, which may be stacked for several names."""

    def add(builder: Any) -> Any:
        if name in _MODELS:
            raise ValueError(f"architecture '{name}' is registered twice")
        _MODELS[name] = ModelInfo(name=name, builder=builder, defaults=dict(defaults or {}), **info)
        return builder

    return add


def list_models() -> list[str]:
    """Return the names of all architectures, sorted; none of them is imported."""
    return sorted(_files().keys() | _MODELS.keys())


def check_name(name: str) -> None:
    """Refuse a name that no architecture has; imports nothing.

    Raises:
        UnknownModelError: There is no such architecture.
    """
    if name not in _MODELS and name not in _files():
        raise UnknownModelError(f"unknown architecture {printable(repr(name))}{nearest(name, list_models())}")


def model_info(name: str) -> ModelInfo:
    """Return the card of an architecture.

    Raises:
        UnknownModelError: There is no such architecture.
    """
    check_name(name)
    if name not in _MODELS:
        importlib.import_module(_files()[name])
    return _MODELS[name]


def check_fits(name: str, task: str) -> None:
    """Refuse an architecture that cannot learn a task.

    Raises:
        UnknownModelError: There is no such architecture.
        TaskError: There is no such task, or it is none for the architecture.
    """
    wanted, able = task_info(task), model_info(name).tasks
    if not {wanted.name, wanted.kind} & set(able):
        raise TaskError(f"{name} learns {', '.join(able)}, not {task}; take another architecture, or set task to that")


def create_model(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    backbone: str | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> SegmentationModel:
    """Build an architecture.

    Args:
        name: A name from `list_models()`.
        num_classes: Number of classes C; void is not one of them.
        in_channels: Channels of the input.
        backbone: The encoder, for architectures that leave the choice.
        weights: A model folder, a safetensors file or a tensor-only checkpoint to start from. Tensors whose name or
            shape differs (the classifier of another number of classes) stay as initialised.
        **options: The architecture's own keywords; `model_info(name).options` lists them.

    Returns:
        A network whose forward maps images, float `[N, in_channels, H, W]`, H and W >= 32, to a dict with `"out"`,
        logits `[N, num_classes, H, W]`, and in training mode the auxiliary outputs of its paper.

    Raises:
        UnknownModelError: The architecture, the backbone or a keyword is unknown.
    """
    info = model_info(name)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a model needs at least one class")
    known = info.options
    if backbone is not None:
        if "backbone" not in known:
            raise UnknownModelError(f"{name}: its paper fixes the encoder; it takes no backbone")
        options["backbone"] = backbone
    for key in options:
        if key not in known:
            raise UnknownModelError(f"{name}: unknown keyword '{key}'{nearest(key, known)}")
    model = info.builder(num_classes=num_classes, in_channels=in_channels, **{**info.defaults, **options})
    if weights is not None:
        from segmodels.catalog.weights import load_weights

        load_weights(model, weights)
    return model


def count_parameters(model: nn.Module, *, training: bool = False) -> int:
    """Return weights, fixed bilinear kernels among them; running statistics are not counted.

    Args:
        model: An architecture.
        training: Counts what inference does not use, too: auxiliary heads.
    """
    apart = () if training else getattr(model, "training_only", ())
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(tuple(apart)))


def full_size(name: str, num_classes: int, **options: Any) -> SegmentationModel:
    """Return the architecture on the meta device: its exact shapes and counts without its memory."""
    from segmodels.layers.uninitialised import on_meta

    with on_meta():
        return create_model(name, num_classes, **options)


@functools.cache
def _files() -> dict[str, str]:
    """Return name -> module of every architecture, as the files of `segmodels.models` say; nothing is imported."""
    modules = {}
    for path in sorted(Path(__file__).parents[1].joinpath("models").glob("*.py")):
        for name in _REGISTERS.findall(path.read_text(encoding="utf-8")):
            modules[name] = f"segmodels.models.{path.stem}"
    return modules
