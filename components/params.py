"""`params.yaml` as frozen, typed settings.

An unknown key is an error that names its path and the nearest known key. The sections are those of the steps; each
architecture under `models` may override any key of `train` and `evaluate` for itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from components.rules import ParamsError, Rule, Section, Severities, gate_rules, refuse_former
from segmodels.catalog.recipes import from_scratch
from segmodels.errors import nearest
from segmodels.files import ContentError, NameRefusedError, read_yaml
from segmodels.files import name as file_name
from segmodels.settings.parse import SettingsError, build, explain
from segmodels.settings.schema import EvaluateSettings, TrainSettings, merge, on_recipe, record, with_defaults
from segmodels.tasks import DEFAULT, task_info
from segmodels.tasks.base import TaskError

PARAMS_FILE = Path("params.yaml")


class Streets(Section):
    """The built-in dataset.

    Attributes:
        train: Training frames.
        val: Validation frames.
        test: Test frames.
        height: Of a frame, pixels.
        width: Of a frame, pixels.
        targets: Further truth beside the labels; what the task needs is there in any case.
    """

    train: int = Field(240, ge=1)
    val: int = Field(40, ge=1)
    test: int = Field(40, ge=0)
    height: int = Field(120, ge=32)
    width: int = Field(160, ge=32)
    targets: tuple[Literal["instances", "depth", "normals"], ...] = ()


class Data(Section):
    """Where the data comes from.

    Attributes:
        source: `streets` (generated), a folder, a local archive, an http(s), file or s3 address of an archive,
            `dvc+REPOSITORY@REVISION#PATH`, or an artifact of MLflow (`runs:/…`, `models:/…`).
        format: The layout of what lies there (docs/datasets.md); `auto` looks.
        background: What pixels are that nothing is drawn on, where objects are drawn or masks are black and white: the
            name of a class, or `ignore`; by default a class `background`.
        ignore: Classes that are void, by name; in labels of one's own by their value, too.
        values: In labels of one's own: raw value or colour -> name of its class, `{0: background, 128: void,
            "255 0 0": car}`, where `void` counts nowhere; or `occurring`: each value that occurs is a class.
        threshold: In grey masks of one's own: values from here on are the foreground.
        coding: What counts in palette images of one's own: `index` or `color`.
        classes: Classes to train on, each of one or more of the data's: `{vehicle: [car, bus], other: "*"}`, where `*`
            is all that no other takes; what none takes is void.
        orientation: How labels lie whose image has an EXIF orientation that their sizes do not settle: `upright`, as
            the image is shown, or `stored`.
        depth_scale: Metres of one step of depths whose files do not say it: 0.001 where they are millimetres.
        attribute: What has the class, where labels are vectors.
        tile: Side in pixels of the tiles that GeoTIFFs are cut into; without it those above four million pixels are.
        bands: Bands of image files, from 1, that become the network's channels, `[4, 3, 2]`; a target's name stands
            for its values, `[1, 2, 3, depth]`. Without it images are RGB, whatever their colour mode.
        scale: Values that become black and white, `[0, 4095]`, of all bands or of each `[[0, 255], [0, 80]]`, where
            images have more than 8 bits; `auto` takes percentiles of the training images.
        sha256: Of the archive; another one is refused.
        licence: Of the data, where their layout names none; the card shows it.
        val_fraction: Part of the samples that becomes `val` where the data has none.
        test_fraction: Part of the samples that becomes `test` where the data has no splits at all.
        folds: Parts into which all but `test` are dealt for cross-validation.
        fold: The part that is `val`, from 0.
        fraction: Part of the training samples that is kept: what a model learns from fewer.
        retries: How often a download is tried again.
        max_unpacked_gb: An archive that holds more is refused.
        streets: The built-in dataset.
    """

    source: str = "streets"
    format: str = "auto"
    background: str | None = None
    ignore: tuple[str | int, ...] = ()
    values: Literal["occurring"] | dict[int | str, str] | None = None
    threshold: int | None = Field(None, ge=1, le=65535)
    coding: Literal["index", "color"] | None = None
    classes: dict[str, str | tuple[str, ...]] | None = None
    orientation: Literal["upright", "stored"] | None = None
    depth_scale: float | None = Field(None, gt=0)
    attribute: str | None = None
    tile: int | None = Field(None, ge=32)
    bands: tuple[int | str, ...] | None = Field(None, min_length=1)
    scale: Literal["auto"] | tuple[float, float] | tuple[tuple[float, float], ...] | None = None
    sha256: str | None = None
    licence: str | None = None
    val_fraction: float = Field(0.15, gt=0, lt=1)
    test_fraction: float = Field(0.15, ge=0, lt=1)
    folds: int | None = Field(None, ge=2)
    fold: int = Field(0, ge=0)
    fraction: float = Field(1.0, gt=0, le=1)
    retries: int = Field(7, ge=0)
    max_unpacked_gb: float = Field(200, gt=0)
    streets: Streets = Streets()

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        from segmodels.data.formats.finding import names

        if value != "auto" and value not in names():
            raise ValueError(f"no layout has this name{nearest(value, list(names())) or '; see docs/datasets.md'}")
        return value

    @model_validator(mode="after")
    def _training_has_a_part(self) -> Data:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave nothing to train on"
            )
        if self.source == "streets" and (self.folds is not None or self.fraction < 1):
            raise ValueError("folds and fraction are for data that is read; set the numbers of data.streets instead")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} is none of {self.folds or 'no'} folds; they are counted from 0")
        return self


class Validate(Section):
    """The limits of the data's validation.

    Attributes:
        max_void_fraction: Share of void in a sample; above it is an error.
        rare_class_fraction: Share of a class in the training pixels; below it is a warning.
        min_side: Pixels of an image's shorter side; below it is an error.
        overlays: Samples that the page shows.
        severity: Name of a rule (docs/validation.md) -> `critical`, `warning` or `ignore`, in place of its own.
    """

    max_void_fraction: float = Field(0.9, ge=0, le=1)
    rare_class_fraction: float = Field(0.001, ge=0, le=1)
    min_side: int = Field(32, ge=1)
    overlays: int = Field(6, ge=0)
    severity: Severities = Field(default_factory=dict)


class Register(Section):
    """Where runs and versions go, and the gate a version must pass.

    Below a floor a model gets no version; the other rules compare it with the champion on the same images and decide
    whether it may become the challenger. `rules` has an entry for each figure of the task (`iou/*` for each class,
    `iou/sky` for one), `ms_per_image` and `parameters`; what it leaves out is as the task has it.

    Attributes:
        experiment: MLflow's experiment.
        model_name: MLflow's registered model.
        rules: What the gate asks of each figure.
        confidence: Of the intervals; a difference inside them is noise.
        resamples: Draws of the bootstrap over images.
        auto_promote: The challenger becomes the champion at once, without a person.
    """

    experiment: str = "segmentation"
    model_name: str = "segmentation"
    rules: dict[str, Rule] = Field(default_factory=dict)
    confidence: float = Field(0.95, ge=0.5, lt=1)
    resamples: int = Field(2000, ge=100)
    auto_promote: bool = False


@record
class Evaluate(EvaluateSettings):
    """How models are evaluated.

    Attributes:
        models: Key under `models` -> settings that differ for it alone. They stand here, not in `models`, so that
            changing them evaluates again and does not train again.
    """

    models: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


class Toleration(Section):
    """A taint of nodes that a pod accepts, as Kubernetes has it."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Resources(Section):
    """What the pods of an architecture ask for; ignored on one machine.

    Attributes:
        cpu: Cores, as Kubernetes writes them.
        memory: Main memory.
        gpu: Devices of a node; a training takes all, an evaluation one of them.
        gpu_type: The resource's name: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-3g.20gb, …
        shm: Limit of the shared memory of workers and devices; empty leaves it to the pod's memory.
        node_selector: Labels that the node must have, such as nvidia.com/gpu.product.
        tolerations: Further taints that are accepted; that of `gpu_type` always is.
        priority: Kueue's WorkloadPriorityClass. Kubeflow sets no PriorityClass of Kubernetes.
        timeout: After which a pod is ended: 90m, 12h, 2d; empty is never.
        spot: Whether nodes that may be taken away at any moment are welcome; such a pod is tried again more often.
        nodes: Nodes that train together; more than one are a TrainJob.
    """

    cpu: str = "4"
    memory: str = "16Gi"
    gpu: int = Field(1, ge=0)
    gpu_type: str = "nvidia.com/gpu"
    shm: str = ""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority: str = Field("", pattern=r"^[a-z0-9.-]*$")
    timeout: str = Field("", pattern=r"^(\d+[smhd])?$")
    spot: bool = False
    nodes: int = Field(1, ge=1)

    @property
    def timeout_seconds(self) -> int:
        """0 is never."""
        units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        return int(self.timeout[:-1]) * units[self.timeout[-1]] if self.timeout else 0


class Architecture(Section):
    """One entry of `models`.

    Attributes:
        architecture: Name in the registry; the entry's key by default.
        backbone: Encoder, where the architecture leaves the choice.
        options: Keywords of the architecture (`segmodels info NAME` lists them).
        train: What differs from the section `train` for this model alone.
    """

    architecture: str | None = None
    backbone: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class Params(Section):
    """All settings.

    Attributes:
        task: What is predicted: `semantic`, `depth` or `normals`.
        seed: Everything random follows from it.
        data: Where the data comes from.
        validate: The limits of the data's validation.
        train: How models are trained.
        evaluate: How models are evaluated.
        models: Key -> a model that is trained; the key is the architecture's name, or `architecture` says it.
        register: Where runs and versions go, and the gate.
        resources: Key -> what the pods of that model ask for on a cluster; `default` is for all others.
    """

    task: str = DEFAULT
    seed: int = Field(0, ge=0, lt=1 << 63)
    data: Data = Data()
    validate_: Validate = Field(Validate(), alias="validate")
    train: TrainSettings = TrainSettings()
    evaluate: Evaluate = Evaluate()
    models: dict[str, Architecture] = Field(min_length=1)
    register_: Register = Field(Register(), alias="register")
    resources: dict[str, Resources] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str = PARAMS_FILE) -> Params:
        """Read `params.yaml`.

        Raises:
            ParamsError: The file is missing, is no YAML, or has an unknown key or a bad value.
        """
        path = Path(path)
        try:
            raw = read_yaml(path)
        except FileNotFoundError:
            raise ParamsError(f"{path}: no such file; run the step in the project's folder or name --params") from None
        except ContentError as error:
            raise ParamsError(str(error)) from None
        return cls.parse(raw, str(path))

    @classmethod
    def parse(cls, raw: Any, source: str = "params") -> Params:
        """Return settings from a mapping; `source` stands in messages.

        Raises:
            ParamsError: A key is unknown or a value is bad.
        """
        if not isinstance(raw, dict):
            raise ParamsError(f"{source}: not a mapping of settings")
        refuse_former(raw, source)
        try:
            params = cls.model_validate(raw)
            info = task_info(params.task)
            gate_rules(params)
        except ValidationError as error:
            raise ParamsError(f"{source}: {explain(error, cls, raw)}") from None
        except TaskError as error:
            raise ParamsError(f"{source}: {error}") from None
        for section, keys in (("evaluate.models", params.evaluate.models), ("resources", params.resources)):
            for key in keys.keys() - params.models.keys() - {"default"}:
                raise ParamsError(f"{source}: {section} names '{key}', which `models` has not")
        for key in params.models:
            try:
                file_name(key, f"{source}: models:")  # names a folder of results
            except NameRefusedError as error:
                raise ParamsError(str(error)) from None
            try:
                info.check_loss(train_settings(params, key, source).loss)
            except TaskError as error:
                raise ParamsError(f"{source}: models.{key}: {error}") from None
            evaluate_settings(params, key, source)
        return params

    def architecture(self, key: str) -> str:
        """Return the registry's name behind an entry of `models`.

        Raises:
            ParamsError: There is no such entry.
        """
        return self.entry(key).architecture or key

    def entry(self, key: str) -> Architecture:
        """Return the entry of `models` with this key.

        Raises:
            ParamsError: There is no such entry.
        """
        if key not in self.models:
            raise ParamsError(f"models: has no '{key}'{nearest(key, self.models)}")
        return self.models[key]


def train_settings(params: Params, key: str, source: str = "params") -> TrainSettings:
    """Return how `key` is trained: `train`, under the paper's recipe where asked for, under its own entry."""
    base = dataclasses.asdict(params.train)
    own = params.entry(key).train
    if own.get("recipe", base["recipe"]) == "paper":
        from segmodels.catalog.registry import model_info

        values = on_recipe(base, model_info(params.architecture(key)).recipe, own)
    else:
        values = with_defaults(base, from_scratch(params.architecture(key)), own)
    settings = _settings(TrainSettings, values, f"{source}: models.{key}.train")
    return settings if settings.loss else dataclasses.replace(settings, loss=dict(task_info(params.task).loss))


def evaluate_settings(params: Params, key: str, source: str = "params") -> EvaluateSettings:
    """Return how `key` is evaluated: the section `evaluate` under its own entry."""
    base = dataclasses.asdict(params.evaluate)
    own = base.pop("models").get(key, {})
    if own.get("recipe", base["recipe"]) == "paper":
        from segmodels.catalog.registry import model_info

        base = merge(base, dict(model_info(params.architecture(key)).testing))
    return _settings(EvaluateSettings, merge(base, own), f"{source}: evaluate.models.{key}")


def resources(params: Params, key: str) -> Resources:
    """Return what a training pod asks for: its own entry of `resources`, else `default`, else the defaults."""
    return params.resources.get(key) or params.resources.get("default") or Resources()


T = TypeVar("T")


def _settings(kind: type[T], values: dict[str, Any], where: str) -> T:
    try:
        return build(kind, values, where)
    except SettingsError as error:
        raise ParamsError(str(error)) from None
