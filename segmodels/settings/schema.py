"""How a model is trained and evaluated: plain frozen settings, checked when they are made.

`params.yaml` has them as its sections `train` and `evaluate`. This file imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from segmodels.settings.checks import check, check_finite, make_tuples

Optimizer = Literal["adamw", "adam", "sgd", "rmsprop", "rmsprop_lasagne"]
Schedule = Literal["poly", "cosine", "step", "constant"]
PRECISIONS = ("auto", "32", "bf16", "16")
ClassWeights = Literal["none", "median_frequency", "sqrt_median_frequency", "enet", "enet_encoder", "linknet"]
# Mappings whose keys are the user's own: giving one replaces the default instead of adding to it.
_REPLACED = ("loss", "extra", "lr_factors", "options")
# An unknown key is refused when the settings are read from a file; a plain mapping, so that pydantic is not needed.
_FORBID = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What happens to a training sample.

    Attributes:
        scale: Range of the random factor on the image's size.
        crop: (height, width) of the training crops; None trains on whole images.
        flip: Probability of a left-right flip.
        color: Strength in 0..1 of brightness, contrast and saturation; hue takes a quarter of it.
        focus: `anywhere` crops at random; `objects` and `proposals` lay the crop around an object of the label and
            scale it to the crop's size (DeconvNet's two stages of training).
        extra: Further joint transforms of `torchvision.transforms.v2`, name -> keywords, applied before the crop; `p`
            is the probability of one that has none of its own.
    """

    __pydantic_config__ = _FORBID

    scale: tuple[float, float] = (0.75, 1.5)
    crop: tuple[int, int] | None = None
    flip: float = 0.5
    color: float = 0.2
    focus: Literal["anywhere", "objects", "proposals"] = "anywhere"
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_finite(self, "train.augment")
        make_tuples(self, "scale", "crop")
        check(0 < self.scale[0] <= self.scale[1], f"augment.scale is {self.scale}; give (smallest, largest) factor")
        check(0 <= self.flip <= 1, f"augment.flip is {self.flip}; a probability lies in 0..1")
        check(0 <= self.color < 1, f"augment.color is {self.color}; it lies in 0..1")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How an architecture is trained.

    Attributes:
        recipe: `paper` takes the paper's own values for everything that the architecture's entry does not set.
        epochs: Passes over the training set.
        iterations: Updates of the weights, in place of `epochs`; the last pass is cut short where they end.
        stages: Trainings one after another, each from the weights of the one before: what each of them sets otherwise
            than here, and under `options` its keywords of the architecture. None is one training.
        batch_size: Images per step and device.
        accumulate: Steps whose gradients are summed before the optimiser steps.
        optimizer: `adamw`, `adam`, `sgd`, `rmsprop` (torch's: the mean of squares decays by 0.99) or
            `rmsprop_lasagne` (by 0.9, and epsilon 1e-6 stands under the root).
        lr: Peak learning rate.
        min_lr: The rate at which `poly` and `cosine` end.
        momentum: Of `sgd` and `rmsprop`.
        weight_decay: Of weights; of norms and biases only where the next two settings say so.
        decay_biases: Biases of convolutions and linear layers decay, too.
        decay_norms: Factors and offsets of norms decay, too.
        bias_lr: Factor on the rate of convolutions' and linear layers' biases; most files for Caffe have 2.
        new_layer_lr: Factor on the rate of layers that `weights` did not fill.
        lr_factors: Parameters -> factor on their rate: the beginning of their names, or a pattern with `*`; the
            factors of all that fit are multiplied.
        schedule: `poly` (1 - t)^power, `cosine`, `step` (x step_factor every step_epochs epochs, or at the milestones)
            or `constant`.
        power: Exponent of `poly`.
        step_epochs: Epochs between the steps of `step`.
        step_factor: By which each step of `step` multiplies the rate.
        milestones: Updates after which `step` takes its next step, in place of every step_epochs epochs.
        warmup: Fraction of all steps over which the rate rises linearly.
        clip: Largest norm of the gradient; None does not clip.
        loss: The sum's terms, name -> weight; none are those that the task has by default.
        class_weights: Scheme of the cross-entropy's class weights.
        label_smoothing: In 0..1.
        reduction: Of the loss: `mean` over pixels, `sum`, or `batch`, the sum over the number of images (Caffe's
            un-normalised loss, with FCN's rate of 1e-10).
        norm_statistics: `running` averages of training, or `exact`: before each validation those of the whole training
            set are computed for the weights as they are (SegNet, DeconvNet).
        ema: Decay of the running average of weights that is validated and kept; None keeps the weights themselves.
        early_stop: Validations after which training ends where the task's main figure gained nothing; None never
            stops early.
        val_every: Epochs between validations; the last epoch is always validated.
        precision: `auto` is what is fastest of bf16, where the hardware multiplies it, and 32 bit.
        compile: Compiles the network (needs a C++ compiler on a CPU); `auto` where a trial finds that it pays.
        channels_last: Memory format; `auto` is what is fastest. A short trial at the start finds it, where many steps
            follow (`segmodels.training.trial`).
        workers: Processes that load data; 0 loads in the training process, `auto` takes the cores of this process
            beside a GPU and none without one.
        cache_gb: Memory for decoded samples, of all splits, processes and workers of a machine together.
        devices: Number of devices, or `auto` for all.
        accelerator: `auto`, `cpu` or `gpu`.
        image_size: (height, width) to which all images are resized first; None keeps their size.
        augment: What happens to a sample.
        max_depth: Metres beyond which the truth counts neither in the loss nor in validation (`evaluate.max_depth`).
        weights: Model folder or file to start from.
    """

    __pydantic_config__ = _FORBID

    recipe: Literal["default", "paper"] = "default"
    epochs: int = 12
    iterations: int | None = None
    stages: tuple[dict[str, Any], ...] = ()
    batch_size: int = 8
    accumulate: int = 1
    optimizer: Optimizer = "adamw"
    lr: float = 2e-3
    min_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_biases: bool = False
    decay_norms: bool = False
    bias_lr: float = 1.0
    new_layer_lr: float = 1.0
    lr_factors: dict[str, float] = field(default_factory=dict)
    schedule: Schedule = "poly"
    power: float = 0.9
    step_epochs: int = 100
    step_factor: float = 0.1
    milestones: tuple[int, ...] = ()
    warmup: float = 0.05
    clip: float | None = None
    loss: dict[str, float] = field(default_factory=dict)
    class_weights: ClassWeights = "sqrt_median_frequency"
    label_smoothing: float = 0.0
    reduction: Literal["mean", "sum", "batch"] = "mean"
    norm_statistics: Literal["running", "exact"] = "running"
    ema: float | None = None
    early_stop: int | None = None
    val_every: int = 1
    precision: Literal["auto", "32", "bf16", "16"] | int = "auto"
    compile: bool | Literal["auto"] = False
    channels_last: bool | Literal["auto"] = "auto"
    workers: int | Literal["auto"] = "auto"
    cache_gb: float = 4.0
    devices: Literal["auto"] | int = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    image_size: tuple[int, int] | None = None
    max_depth: float | None = None
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    weights: str | None = None

    def __post_init__(self) -> None:
        check_finite(self, "train")
        make_tuples(self, "stages", "milestones", "image_size")
        # YAML and the command line read 32 as a number.
        object.__setattr__(self, "precision", str(self.precision))
        check(
            self.precision in PRECISIONS, f"train.precision is {self.precision}; it is one of {', '.join(PRECISIONS)}"
        )
        if isinstance(self.augment, Mapping):
            object.__setattr__(self, "augment", AugmentSettings(**self.augment))
        for name in ("epochs", "batch_size", "accumulate", "step_epochs", "val_every", "iterations"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"train.{name} is {value}; it is at least 1")
        for name in ("lr", "new_layer_lr", "power", "step_factor", "bias_lr", "max_depth"):
            value = getattr(self, name)
            check(value is None or value > 0, f"train.{name} is {value}; it is above 0")
        for name in ("momentum", "warmup", "label_smoothing"):
            value = getattr(self, name)
            check(0 <= value < 1, f"train.{name} is {value}; it lies in 0..1")
        check(self.weight_decay >= 0, f"train.weight_decay is {self.weight_decay}; it is not negative")
        check(0 <= self.min_lr <= self.lr, f"train.min_lr is {self.min_lr}; it lies between 0 and train.lr")
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        check(rising, f"train.milestones are {self.milestones}; they are updates, each later than the one before")
        check(self.workers == "auto" or self.workers >= 0, f"train.workers is {self.workers}; it is not negative")
        check(self.ema is None or 0 < self.ema < 1, f"train.ema is {self.ema}; a decay lies between 0 and 1")
        for number in range(len(self.stages)):
            self.stage(number)

    def stage(self, number: int) -> tuple[TrainSettings, dict[str, Any]]:
        """Return the settings of a stage, counted from 0, and its keywords of the architecture.

        Raises:
            ValueError: The stage sets what is no setting, or a value out of its range.
        """
        over = dict(self.stages[number])
        options = over.pop("options", {})
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"stages": ()}
        own["augment"] = dataclasses.asdict(self.augment)
        where = f"train.stages: stage {number + 1}"
        check(isinstance(options, Mapping), f"{where}: options are no mapping")
        for key in over:
            check(key in own and key != "stages", f"{where}: unknown setting '{key}'")
        try:
            return TrainSettings(**merge(own, over)), dict(options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class CRFSettings:
    """The fully connected CRF after a model: its two Gaussian kernels and how long it is iterated.

    Attributes:
        bilateral_weight: Of the kernel of position and colour.
        bilateral_xy: Its standard deviation in pixels.
        bilateral_rgb: Its standard deviation in steps of 0..255.
        spatial_weight: Of the kernel of position alone.
        spatial_xy: Its standard deviation in pixels.
        iterations: Mean-field iterations.
    """

    __pydantic_config__ = _FORBID

    bilateral_weight: float = 4.0
    bilateral_xy: float = 50.0
    bilateral_rgb: float = 5.0
    spatial_weight: float = 3.0
    spatial_xy: float = 3.0
    iterations: int = 10

    def __post_init__(self) -> None:
        check_finite(self, "crf")
        for name in ("bilateral_xy", "bilateral_rgb", "spatial_xy"):
            value = getattr(self, name)
            check(value > 0, f"crf.{name} is {value}; a standard deviation is above 0")
        check(self.iterations >= 1, f"crf.iterations is {self.iterations}; it is at least 1")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How a model predicts: what is evaluated, registered, served, exported and watched is this one record.

    Attributes:
        flip: Averages the prediction of the image and of its mirror image.
        scales: Factors on the image's size whose predictions are averaged.
        window: (height, width) of a sliding window; None predicts whole images.
        stride: (rows, columns) from window to window; two thirds of the window when None.
        image_size: (height, width) given to the network; None takes the model's own.
        mc_samples: Monte-Carlo dropout passes that are averaged (Bayesian SegNet); 0 is a plain pass.
        crf: A fully connected CRF refines the probabilities; None leaves them as they are.
    """

    __pydantic_config__ = _FORBID

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None
    mc_samples: int = 0
    crf: CRFSettings | None = None

    def __post_init__(self) -> None:
        check_finite(self, "evaluate")
        make_tuples(self, "scales", "window", "stride", "image_size")
        if isinstance(self.crf, Mapping):
            object.__setattr__(self, "crf", CRFSettings(**self.crf))
        check(self.mc_samples >= 0, f"evaluate.mc_samples is {self.mc_samples}; it is not negative")
        check(bool(self.scales) and min(self.scales) > 0, f"evaluate.scales is {self.scales}; give factors above 0")
        check(self.stride is None or self.window is not None, "evaluate.stride is set without evaluate.window")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PredictSettings:
        """Return the settings that a mapping holds, as JSON has them.

        Raises:
            ValueError: A key is none of them, or a value is out of its range.
        """
        for key in values:
            check(key in PREDICT_KEYS, f"unknown setting '{key}' of a prediction; known are {', '.join(PREDICT_KEYS)}")
        return cls(**values)

    @property
    def plain(self) -> bool:
        """One pass of the network for each image, with nothing after it."""
        return dataclasses.replace(self.prediction, image_size=None) == PredictSettings()

    @property
    def prediction(self) -> PredictSettings:
        """These settings alone, without what an evaluation has besides."""
        return PredictSettings(**{key: getattr(self, key) for key in PREDICT_KEYS})

    def as_json(self) -> dict[str, Any]:
        """Return plain values that JSON holds; `of` reads them."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self.prediction)))
        return values


PREDICT_KEYS = tuple(f.name for f in dataclasses.fields(PredictSettings))


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(PredictSettings):
    """How a model is evaluated; labels always keep their full resolution.

    Attributes:
        recipe: `paper` takes the paper's own way to test for everything that is not set here.
        batch_size: Images at a time.
        boundary_px: Tolerance of the boundary F1 in pixels.
        max_depth: Metres beyond which true depths count nowhere, as KITTI's protocol has 80 and NYU's 10; predictions
            count as at most so far. None counts all. `train.max_depth` is the same for training.
    """

    recipe: Literal["default", "paper"] = "default"
    batch_size: int = 4
    boundary_px: int = 3
    max_depth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_depth is None or self.max_depth > 0, f"evaluate.max_depth is {self.max_depth}; it is above 0")
        check(self.batch_size >= 1, f"evaluate.batch_size is {self.batch_size}; it is at least 1")
        check(self.boundary_px >= 1, f"evaluate.boundary_px is {self.boundary_px}; it is at least 1")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, nested sections merged; losses and extra transforms are replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), dict) and key not in _REPLACED
        merged[key] = merge(base[key], value) if nested else value
    return merged


def with_defaults(base: Mapping[str, Any], own: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with an architecture's own defaults where it has the common ones, and `over` on top.

    Args:
        base: All training settings.
        own: The architecture's own defaults from scratch (`segmodels.catalog.recipes.from_scratch`).
        over: What is set for this model; with `weights` it does not begin from scratch.
    """
    if over.get("weights", base["weights"]) is None:
        common = dataclasses.asdict(TrainSettings())
        base = {**base, **{key: value for key, value in own.items() if base[key] == common[key]}}
    return merge(base, over)


def on_recipe(base: Mapping[str, Any], recipe: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a paper's recipe on top of `base`, and `over` on top of both.

    What `over` sets holds in every stage of the recipe, and `epochs` or `iterations` of its own replace the recipe's
    length whichever of the two the recipe counts in.
    """
    merged = merge(merge(base, recipe), over)
    if "epochs" in over and over.get("iterations") is None:
        merged["iterations"] = None
    if "stages" not in over and merged.get("stages"):
        lengths = {"epochs", "iterations"} if {"epochs", "iterations"} & over.keys() else set()
        merged["stages"] = tuple(_without(stage, over, lengths) for stage in merged["stages"])
    return merged


def _without(stage: Mapping[str, Any], over: Mapping[str, Any], more: Set[str]) -> dict[str, Any]:
    left = {}
    for key, value in stage.items():
        if isinstance(value, Mapping) and isinstance(over.get(key), Mapping) and key not in _REPLACED:
            left[key] = _without(value, over[key], set())
        elif key not in over and key not in more:
            left[key] = value
    return left
