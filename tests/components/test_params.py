"""What is wrong with `params.yaml`, in one sentence with the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.params import Params, evaluate_settings, train_settings
from components.rules import ParamsError
from segmodels.settings.schema import EvaluateSettings, TrainSettings


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": {"epochs": "12"}}, 'train.epochs is "12"; it must be a whole number of at least 1'),
        ({"train": {"lr": True}}, "train.lr is true; it must be a number above 0"),
        ({"train": {"lr": float("nan")}}, "train.lr is nan; it must be a finite number"),
        ({"train": {"decay_norms": "yes"}}, 'train.decay_norms is "yes"; it must be true or false'),
        ({"train": {"workers": "many"}}, 'train.workers is "many"; it must be a whole number of at least 0 or auto'),
        (
            {"train": {"augment": {"crop": [1]}}},
            "train.augment.crop is [1]; it must be [a whole number of ",
        ),
        ({"train": {"augment": 3}}, "train.augment is 3; it must be a mapping"),
        ({"train": {"min_lr": 1.0}}, "train.min_lr is 1.0; it must be at most lr, which is 0.002"),
        ({"train": {"stages": [{"lrr": 1}]}}, "train.stages: stage 1: unknown setting 'lrr'; did you mean 'lr'?"),
        ({"train": {"stages": [{"epochs": 0}]}}, "train.stages: stage 1: epochs is 0; it must be a whole number"),
        (
            {"train": {"augment": {"extra": {"GaussianBlur": {"sigma": float("inf")}}}}},
            "train.augment.extra.GaussianBlur.sigma is inf; it must be a finite number",
        ),
        (
            {"evaluate": {"crf": {"iterations": 0}}},
            "evaluate.crf.iterations is 0; it must be a whole number",
        ),
        ({"evaluate": {"stride": [3, 3]}}, "evaluate.stride is set without window"),
        ({"data": {"streets": {"width": 31}}}, "data.streets.width is 31; it must be a whole number of at least 32"),
        (
            {"data": {"streets": {"targets": ["dept"]}}},
            'data.streets.targets.0 is "dept"; it must be one of ',
        ),
        ({"data": {"ignore": [1.5]}}, "data.ignore.0 is 1.5; it must be text or a whole number"),
        (
            {"data": {"values": 3}},
            "data.values is 3; it must be occurring or a mapping {a whole number or text: ",
        ),
        ({"data": {"classes": {"v": 3}}}, "data.classes.v is 3; it must be text or [text, …]"),
        (
            {"data": {"threshold": 0}},
            "data.threshold is 0; it must be a whole number of at least 1 and of",
        ),
        ({"data": {"format": "camvd"}}, "data.format is \"camvd\"; no layout has this name; did you mean 'camvid'?"),
        (
            {"data": {"val_fraction": 0.6, "test_fraction": 0.5}},
            "data.val_fraction 0.6 and test_fraction 0.5 leave nothing to train on",
        ),
        (
            {"register": {"rules": {"miou": {"gane": 1}}}},
            "unknown setting 'register.rules.miou.gane'; did you mean 'gain'",
        ),
        ({"register": {"rules": {"miou": {"gain": -1}}}}, "register.rules.miou.gain is -1; it must be a number"),
        (
            {"resources": {"enet": {"timeout": "soon"}}},
            'resources.enet.timeout is "soon"; it must be text that ',
        ),
        (
            {"resources": {"enet": {"tolerations": [{"key": "a", "operator": "In"}]}}},
            'resources.enet.tolerations.0.operator is "In"; it must be one of Exists, Equal',
        ),
        (
            {"resources": {"enet": {"tolerations": [{}]}}},
            "resources.enet.tolerations.0.key is missing; it must be",
        ),
        ({"models": {5: {}}}, "models has the key 5; a key must be text"),
        ({"models": {"enet": {"trian": {}}}}, "unknown setting 'models.enet.trian'; did you mean 'train'?"),
        ({"models": {"enet": None}}, "models.enet is null; it must be a mapping"),
        ({5: {}}, "unknown setting '5'; known are data, evaluate, models, "),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0 and below 9223372036854775808"),
    ],
)
def test_a_mistake_is_told_with_its_key_what_was_given_and_what_it_must_be(
    change: dict[Any, Any], sentence: str
) -> None:
    with pytest.raises(ParamsError) as error:
        Params.parse({"models": {"enet": {}}} | change, "params.yaml")
    assert str(error.value).startswith(f"params.yaml: {sentence}")
    assert "\n" not in str(error.value)


def test_settings_without_models_say_so() -> None:
    with pytest.raises(ParamsError, match=r"^params: models is missing; it must be a mapping with a length of"):
        Params.parse({})


@pytest.mark.parametrize(
    ("entry", "section", "sentence"),
    [
        ("models", {"enet": {"train": {"lr": 0}}}, "models.enet.train: lr is 0; it must be a number above 0"),
        ("evaluate", {"models": {"enet": {"flip": 1}}}, "evaluate.models.enet: flip is 1; it must be true or false"),
        (
            "evaluate",
            {"models": {"enet": {"flp": True}}},
            "evaluate.models.enet: unknown setting 'flp'; did you mean",
        ),
    ],
)
def test_the_settings_of_one_model_are_told_with_its_entry(entry: str, section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParamsError) as error:
        Params.parse({"models": {"enet": {}}, entry: section})
    assert str(error.value).startswith(f"params: {sentence}")


def test_settings_that_are_read_survive_yaml(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "models: {enet: {train: {precision: 32, augment: {crop: [32, 48]}}}}\n"
        "train: {lr: 1, milestones: [3, 5]}\n"
        "evaluate: {scales: [1, 2], crf: {iterations: 3}, models: {enet: {flip: true}}}\n"
    )
    params = Params.read(path)
    made = train_settings(params, "enet")
    assert isinstance(made, TrainSettings)
    assert (made.lr, made.milestones, made.precision, made.augment.crop) == (1.0, (3, 5), "32", (32, 48))
    tested = evaluate_settings(params, "enet")
    assert type(tested) is EvaluateSettings
    assert (tested.flip, tested.scales, tested.crf and tested.crf.iterations) == (True, (1.0, 2.0), 3)
    assert Params.parse(params.model_dump(mode="json", by_alias=True)) == params
