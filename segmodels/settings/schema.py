"""How a model is trained and evaluated: plain frozen settings, checked when they are made.

`params.yaml` has them as its sections `train` and `evaluate`. The annotations hold types and limits: nothing is
converted but lists to tuples and whole numbers to floats. Nothing heavier than pydantic is imported here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Set
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, StrictBool, ValidationError
from pydantic.dataclasses import dataclass

from segmodels.errors import shown
from segmodels.settings.parse import SettingsError, build, explain

T = TypeVar("T")

Count = Annotated[int, Strict(), Field(ge=1)]
Natural = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]
NotNegative = Annotated[float, Strict(), Field(ge=0)]
Fraction = Annotated[float, Strict(), Field(ge=0, lt=1)]
Probability = Annotated[float, Strict(), Field(ge=0, le=1)]
Decay = Annotated[float, Strict(), Field(gt=0, lt=1)]
Size = tuple[Count, Count]

Optimizer = Literal["adamw", "adam", "sgd", "rmsprop", "rmsprop_lasagne"]
Schedule = Literal["poly", "cosine", "step", "constant"]
ClassWeights = Literal["none", "median_frequency", "sqrt_median_frequency", "enet", "enet_encoder", "linknet"]
# YAML and the command line read 32 as a number.
Precision = Annotated[
    Literal["auto", "32", "bf16", "16"], BeforeValidator(lambda value: str(value) if type(value) is int else value)
]
# Mappings whose keys are the user's own: giving one replaces the default instead of adding to it.
_REPLACED = ("loss", "extra", "mix", "lr_factors", "options")


def _finite(value: Any, key: str = "") -> Any:
    """Return plain values as they are, unless a number is none: YAML writes these as `.nan` and `.inf`."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}; it must be a finite number")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _finite(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            _finite(inner, key)
    return value


Keywords = Annotated[dict[str, Any], AfterValidator(lambda value: _finite(value))]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen record of settings, which refuses a mistake in one sentence, whoever makes it."""
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    checked = made.__init__

    @functools.wraps(checked)
    def init(self: T, **values: Any) -> None:
        try:
            checked(self, **values)
        except ValidationError as error:
            raise SettingsError(explain(error, made, values)) from None

    made.__init__ = init
    return cast(type[T], made)


@record
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
        mix: Ways to make a sample of several, name -> probability: `cutmix`, `classmix`, `copy_paste`, `mosaic`.
    """

    scale: tuple[Positive, Positive] = (0.75, 1.5)
    crop: Size | None = None
    flip: Probability = 0.5
    color: Fraction = 0.2
    focus: Literal["anywhere", "objects", "proposals"] = "anywhere"
    extra: dict[str, Keywords] = field(default_factory=dict)
    mix: dict[Literal["cutmix", "classmix", "copy_paste", "mosaic"], Probability] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; give [smallest, largest] factor")


@record
class TrainSettings:
    """How an architecture is trained.

    Attributes:
        recipe: `paper` takes the paper's own values for everything that the architecture's entry does not set.
        epochs: Passes over the training set.
        iterations: Updates of the weights, in place of `epochs`; the last pass is cut short where they end.
        stages: Trainings one after another, each from the weights of the one before: what each of them sets otherwise
            than here, and under `options` its keywords of the architecture. None is one training.
        batch_size: Images per step and device.
        repeat_rare: Share of the training images, 0..1: images of a class that fewer of them have are drawn more often,
            by the root of this share over the class's (the repeat factors of Gupta, Dollár and Girshick, LVIS, CVPR
            2019); None draws every image once an epoch.
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

    recipe: Literal["default", "paper"] = "default"
    epochs: Count = 12
    iterations: Count | None = None
    stages: tuple[dict[str, Any], ...] = ()
    batch_size: Count = 8
    repeat_rare: Probability | None = None
    accumulate: Count = 1
    optimizer: Optimizer = "adamw"
    lr: Positive = 2e-3
    min_lr: NotNegative = 0.0
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 1e-4
    decay_biases: StrictBool = False
    decay_norms: StrictBool = False
    bias_lr: Positive = 1.0
    new_layer_lr: Positive = 1.0
    lr_factors: dict[str, NotNegative] = field(default_factory=dict)
    schedule: Schedule = "poly"
    power: Positive = 0.9
    step_epochs: Count = 100
    step_factor: Positive = 0.1
    milestones: tuple[Count, ...] = ()
    warmup: Fraction = 0.05
    clip: Positive | None = None
    loss: dict[str, Number] = field(default_factory=dict)
    class_weights: ClassWeights = "sqrt_median_frequency"
    label_smoothing: Fraction = 0.0
    reduction: Literal["mean", "sum", "batch"] = "mean"
    norm_statistics: Literal["running", "exact"] = "running"
    ema: Decay | None = None
    early_stop: Count | None = None
    val_every: Count = 1
    precision: Precision = "auto"
    compile: StrictBool | Literal["auto"] = False
    channels_last: StrictBool | Literal["auto"] = "auto"
    workers: Natural | Literal["auto"] = "auto"
    cache_gb: NotNegative = 4.0
    devices: Literal["auto"] | Count = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    image_size: Size | None = None
    max_depth: Positive | None = None
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr}; it must be at most lr, which is {self.lr}")
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones is {shown(self.milestones)}; each update must be later than the one before")
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
        try:
            if not isinstance(options, Mapping):
                raise ValueError("options are no mapping")
            if "stages" in over:
                raise ValueError("unknown setting 'stages'; a stage has none of its own")
            return build(TrainSettings, merge(own, over)), _finite(dict(options), "options")
        except ValueError as error:
            raise ValueError(f"stages: stage {number + 1}: {error}") from None


@record
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

    bilateral_weight: Number = 4.0
    bilateral_xy: Positive = 50.0
    bilateral_rgb: Positive = 5.0
    spatial_weight: Number = 3.0
    spatial_xy: Positive = 3.0
    iterations: Count = 10


@record
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

    flip: StrictBool = False
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    window: Size | None = None
    stride: Size | None = None
    image_size: Size | None = None
    mc_samples: Natural = 0
    crf: CRFSettings | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and self.window is None:
            raise ValueError("stride is set without window")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PredictSettings:
        """Return the settings that a mapping holds, as JSON has them.

        Raises:
            SettingsError: A key is none of them, or a value is out of its range.
        """
        return build(PredictSettings, values)

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


@record
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
    batch_size: Count = 4
    boundary_px: Count = 3
    max_depth: Positive | None = None


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
