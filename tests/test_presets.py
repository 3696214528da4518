"""params.yaml is the composition's default, and every preset composes to settings that are valid."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from components.params import Params, evaluate_settings, train_settings
from components.rules import ParamsError
from segmodels.catalog.registry import full_size, list_models
from segmodels.settings.schema import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
DATASETS = sorted(p.stem for p in (CONF / "dataset").iterdir())
PRESETS = sorted(p.stem for p in (CONF / "preset").iterdir())


def compose(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """What `dvc exp run -S …` writes to params.yaml."""
    compose_and_dump(tmp_path / "params.yaml", str(CONF), None, "config", ".", list(overrides))
    content: dict[str, Any] = yaml.safe_load((tmp_path / "params.yaml").read_text())
    return content


def test_params_yaml_is_what_the_default_composes_to(tmp_path: Path) -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == compose(tmp_path)


@pytest.mark.parametrize(("dataset", "preset"), itertools.product(DATASETS, PRESETS))
def test_every_composition_is_valid_and_its_models_exist(dataset: str, preset: str, tmp_path: Path) -> None:
    overrides = [f"dataset={dataset}", f"preset={preset}"]
    if dataset == "folder":
        overrides.append("data.source=photos")
    params = Params.parse(compose(tmp_path, *overrides))
    for key, entry in params.models.items():
        train_settings(params, key)
        evaluate_settings(params, key)
        assert full_size(params.architecture(key), 11, **entry.options) is not None


def test_every_stage_of_dvc_yaml_finds_its_parameters() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage in stages.values():
        for name in stage.get("do", stage).get("params", []):
            assert name.split(".")[0] in params


def test_the_papers_recipe_fills_what_the_entry_leaves_open() -> None:
    params = Params.parse({"train": {"recipe": "paper"}, "models": {"enet": {"train": {"epochs": 7}}, "fcn8s": {}}})
    enet = train_settings(params, "enet")
    assert (enet.optimizer, enet.lr, enet.class_weights, enet.epochs) == ("adam", 5e-4, "enet", 7)
    fcn = train_settings(params, "fcn8s")
    assert (fcn.reduction, fcn.lr, fcn.momentum, fcn.batch_size) == ("batch", 1e-14, 0.99, 1)


def test_networks_that_would_not_learn_with_the_common_rate_have_their_own_and_what_is_set_holds() -> None:
    def rate(train: dict[str, Any], entry: dict[str, Any], name: str = "fcn8s") -> float:
        return train_settings(Params.parse({"train": train, "models": {name: {"train": entry}}}), name).lr

    common = TrainSettings().lr
    assert rate({}, {}) == rate({"lr": common}, {}) == 1e-4
    assert rate({}, {}, "enet") == common
    assert rate({}, {"lr": common}) == common
    assert rate({"lr": 5e-3}, {}) == 5e-3
    assert rate({}, {"weights": "models/fcn16s"}) == common
    assert rate({"recipe": "paper"}, {}) == 1e-14


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trian": {}}, "params: unknown setting 'trian'; did you mean 'train'?"),
        (
            {"models": {"enet": {"train": {"epoch": 3}}}},
            "models.enet.train: unknown setting 'epoch'; did you mean 'epochs'?",
        ),
        ({"train": {"augment": {"crops": 3}}}, "unknown setting 'train.augment.crops'; did you mean 'crop'?"),
        ({"train": {"epochs": 0}}, "train.epochs is 0; it must be a whole number of at least 1"),
        ({"train": {"epochs": "many"}}, 'train.epochs is "many"; it must be a whole number'),
        ({"data": {"streets": {"hight": 3}}}, "unknown setting 'data.streets.hight'; did you mean 'height'?"),
        ({"evaluate": {"models": {"unett": {}}}}, "evaluate.models names 'unett', which `models` has not"),
        ({"evaluate": {"stride": [3, 3]}}, "evaluate.stride is set without window"),
        ({"models": {}}, "models is a mapping of 0 keys; it must be a mapping with a length of at least 1"),
    ],
)
def test_a_mistake_in_params_is_one_sentence_with_its_path(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParamsError) as error:
        Params.parse({"models": {"enet": {}}} | change)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_zoo_has_every_architecture(tmp_path: Path) -> None:
    assert sorted(compose(tmp_path, "preset=zoo")["models"]) == sorted(list_models())
