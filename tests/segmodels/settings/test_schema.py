"""What settings take and what they refuse, whoever makes them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from segmodels.catalog.registry import list_models, model_info
from segmodels.settings.parse import SettingsError
from segmodels.settings.schema import (
    AugmentSettings,
    CRFSettings,
    EvaluateSettings,
    PredictSettings,
    TrainSettings,
    merge,
    on_recipe,
)

NAN, INFINITE = float("nan"), float("inf")
RECORDS = [
    TrainSettings(augment=AugmentSettings(crop=(32, 48)), stages=({"lr": 0.1}, {"options": {"width": 2}})),
    EvaluateSettings(scales=(0.5, 1.0), window=(32, 40), crf=CRFSettings(iterations=3)),
]


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as error:
        make()
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: TrainSettings(lr=INFINITE), "lr is inf"),
        (lambda: TrainSettings(weight_decay=INFINITE), "weight_decay is inf"),
        (lambda: TrainSettings(loss={"dice": NAN}), "loss.dice is nan"),
        (lambda: TrainSettings(stages=({"lr": -INFINITE},)), "stages: stage 1: lr is -inf"),
        (lambda: TrainSettings(stages=({"options": {"width": NAN}},)), "stages: stage 1: options.width is nan"),
        (lambda: AugmentSettings(extra={"GaussianBlur": {"sigma": [1.0, NAN]}}), "extra.GaussianBlur.sigma is nan"),
        (lambda: EvaluateSettings(max_depth=INFINITE), "max_depth is inf"),
        (lambda: CRFSettings(bilateral_weight=NAN), "bilateral_weight is nan"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(make: Callable[[], object], key: str) -> None:
    assert refused(make) == f"{key}; it must be a finite number"


def test_a_list_with_a_number_that_is_not_finite_is_told_with_the_number() -> None:
    assert refused(lambda: AugmentSettings(scale=(0.5, INFINITE))).startswith("scale is [0.5, inf]; it must be")
    assert refused(lambda: PredictSettings(scales=(1.0, NAN))) == "scales.1 is nan; it must be a finite number"


@pytest.mark.parametrize(
    ("kind", "key", "values", "expected"),
    [
        (TrainSettings, "epochs", (0, -1), "a whole number of at least 1"),
        (TrainSettings, "iterations", (0,), "a whole number of at least 1 or null"),
        (TrainSettings, "batch_size", (0,), "a whole number of at least 1"),
        (TrainSettings, "accumulate", (0,), "a whole number of at least 1"),
        (TrainSettings, "step_epochs", (0,), "a whole number of at least 1"),
        (TrainSettings, "val_every", (0,), "a whole number of at least 1"),
        (TrainSettings, "lr", (0, -0.5), "a number above 0"),
        (TrainSettings, "new_layer_lr", (0,), "a number above 0"),
        (TrainSettings, "bias_lr", (0,), "a number above 0"),
        (TrainSettings, "power", (0,), "a number above 0"),
        (TrainSettings, "step_factor", (0,), "a number above 0"),
        (TrainSettings, "max_depth", (0, -1.0), "a number above 0 or null"),
        (TrainSettings, "min_lr", (-0.1,), "a number of at least 0"),
        (TrainSettings, "weight_decay", (-0.1,), "a number of at least 0"),
        (TrainSettings, "momentum", (-0.1, 1), "a number of at least 0 and below 1"),
        (TrainSettings, "warmup", (-0.1, 1), "a number of at least 0 and below 1"),
        (TrainSettings, "label_smoothing", (-0.1, 1), "a number of at least 0 and below 1"),
        (TrainSettings, "ema", (0, 1), "a number above 0 and below 1 or null"),
        (TrainSettings, "workers", (-1,), "a whole number of at least 0 or auto"),
        (TrainSettings, "devices", (0,), "auto or a whole number of at least 1"),
        (AugmentSettings, "flip", (-0.1, 1.5), "a number of at least 0 and of at most 1"),
        (AugmentSettings, "color", (-0.1, 1), "a number of at least 0 and below 1"),
        (PredictSettings, "mc_samples", (-1,), "a whole number of at least 0"),
        (EvaluateSettings, "batch_size", (0,), "a whole number of at least 1"),
        (EvaluateSettings, "boundary_px", (0,), "a whole number of at least 1"),
        (EvaluateSettings, "max_depth", (0, -1.0), "a number above 0 or null"),
        (CRFSettings, "bilateral_xy", (0,), "a number above 0"),
        (CRFSettings, "bilateral_rgb", (0,), "a number above 0"),
        (CRFSettings, "spatial_xy", (0,), "a number above 0"),
        (CRFSettings, "iterations", (0,), "a whole number of at least 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(
    kind: type, key: str, values: tuple[float, ...], expected: str
) -> None:
    for value in values:
        assert refused(partial(kind, **{key: value})) == f"{key} is {value}; it must be {expected}"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TrainSettings(min_lr=0.2, lr=0.1), "min_lr is 0.2; it must be at most lr, which is 0.1"),
        (
            lambda: TrainSettings(milestones=(5, 5)),
            "milestones is [5, 5]; each update must be later than the one before",
        ),
        (lambda: TrainSettings(milestones=(0, 5)), "milestones.0 is 0; it must be a whole number of at least 1"),
        (lambda: AugmentSettings(scale=(1.5, 0.5)), "scale is [1.5, 0.5]; give [smallest, largest] factor"),
        (lambda: AugmentSettings(scale=(0, 1)), "scale is [0, 1]; it must be [a number above 0, a number above 0]"),
        (lambda: PredictSettings(stride=(3, 3)), "stride is set without window"),
        (lambda: EvaluateSettings(stride=(3, 3)), "stride is set without window"),
        (
            lambda: PredictSettings(scales=()),
            "scales is []; it must be [a number above 0, …] with a length of at least 1",
        ),
        (lambda: PredictSettings(scales=(1.0, 0.0)), "scales.1 is 0.0; it must be a number above 0"),
        (
            lambda: dataclasses.replace(TrainSettings(), epochs=0),
            "epochs is 0; it must be a whole number of at least 1",
        ),
    ],
)
def test_a_value_that_contradicts_another_is_refused(make: Callable[[], object], sentence: str) -> None:
    assert refused(make) == sentence


def test_a_precision_may_be_a_number() -> None:
    assert TrainSettings(precision=32) == TrainSettings(precision="32") != TrainSettings()  # type: ignore[arg-type]
    for given, told in ((64, "64"), ("64", '"64"'), (8.5, "8.5"), (True, "true")):
        sentence = refused(partial(TrainSettings, precision=given))  # type: ignore[arg-type]
        assert sentence == f"precision is {told}; it must be one of auto, 32, bf16, 16"


def test_lists_become_tuples_whole_numbers_floats_and_mappings_records() -> None:
    given: dict[str, Any] = {
        "lr": 1, "milestones": [3, 5], "stages": [{"lr": 1}], "image_size": [64, 96],
        "augment": {"scale": [1, 2], "crop": [32, 48]},
    }  # fmt: skip
    made = TrainSettings(**given)
    assert (made.milestones, made.image_size, made.stages) == ((3, 5), (64, 96), ({"lr": 1},))
    assert made.augment == AugmentSettings(scale=(1.0, 2.0), crop=(32, 48))
    assert [type(number) for number in (made.lr, *made.augment.scale)] == [float, float, float]


@pytest.mark.parametrize("made", RECORDS, ids=lambda made: type(made).__name__)
def test_settings_survive_other_processes_json_and_a_copy_and_do_not_change(made: Any) -> None:
    assert pickle.loads(pickle.dumps(made)) == made
    assert type(made)(**json.loads(json.dumps(dataclasses.asdict(made)))) == made
    assert dataclasses.replace(made, batch_size=3) != dataclasses.replace(made) == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.batch_size = 3


def test_records_without_mappings_can_be_keys() -> None:
    assert len({CRFSettings(), CRFSettings(iterations=10), CRFSettings(iterations=3)}) == 2
    assert len({PredictSettings(), PredictSettings(flip=True), PredictSettings.of({"flip": True})}) == 2


def test_every_recipe_keeps_to_the_types_and_limits() -> None:
    for name in list_models():
        info = model_info(name)
        made = TrainSettings(**on_recipe(dataclasses.asdict(TrainSettings()), info.recipe, {}))
        assert dataclasses.replace(made) == made
        assert EvaluateSettings(**merge(dataclasses.asdict(EvaluateSettings()), info.testing)).scales
