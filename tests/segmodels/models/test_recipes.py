"""The recipes of the papers against the table of their sources, and that each of them is of settings that exist."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from components.params import Params, evaluate_settings, train_settings
from segmodels.catalog.recipes import TABLE, flat, sources
from segmodels.catalog.registry import create_model, list_models, model_info
from segmodels.tasks import list_tasks

# `owner/repository: file …`, a place in the paper, or a value of ours.
_SOURCE = re.compile(r"[\w.-]+/[\w.-]+: \S+|paper, (section|equation|appendix)|Panoptic FPN|ours\b|SGD with momentum")
# What a recipe must say: without them a default of ours would stand in for the paper's silence, unseen.
_ALWAYS = ("optimizer", "lr", "weight_decay", "batch_size", "schedule", "warmup", "class_weights", "loss")


def _rows(architecture: str) -> dict[str, tuple[str, str]]:
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["architecture"] == architecture]
    return {row["setting"]: (row["value"], row["source"]) for row in rows}


@pytest.mark.parametrize("name", list_models())
def test_a_recipe_is_what_the_table_of_sources_says(name: str) -> None:
    card, rows = model_info(name), _rows(name)
    said = {key: json.dumps(value) for key, value in flat(card.recipe, card.testing).items()}
    assert said == {key: value for key, (value, _) in rows.items()}
    for key, (_, source) in rows.items():
        assert _SOURCE.match(source), f"{key}: {source}"
    assert sources(name) == {key: source for key, (_, source) in rows.items()}


@pytest.mark.parametrize("name", list_models())
def test_a_recipe_leaves_nothing_to_the_defaults_that_decides_a_result(name: str) -> None:
    recipe = model_info(name).recipe
    assert not set(_ALWAYS) - recipe.keys()
    stages: Sequence[Mapping[str, Any]] = recipe.get("stages") or ({},)
    for stage in stages:
        assert {"epochs", "iterations"} & (recipe.keys() | stage.keys()), "says not how long"
    assert {"scale", "crop", "flip", "color"} <= recipe["augment"].keys()


@pytest.mark.parametrize("name", list_models())
def test_a_recipe_is_made_of_settings_and_its_stages_of_keywords(name: str) -> None:
    # A network for a task of its own has that task's loss.
    task = next((task for task in model_info(name).tasks if task in list_tasks()), "semantic")
    params = Params.parse(
        {"task": task, "train": {"recipe": "paper"}, "evaluate": {"recipe": "paper"}, "models": {name: {}}}
    )
    settings = train_settings(params, name)
    assert evaluate_settings(params, name).recipe == "paper"
    for number in range(len(settings.stages)):
        _, options = settings.stage(number)
        assert create_model(name, 3, **{**model_info(name).small, **options}) is not None


def test_the_table_names_no_other_architecture() -> None:
    with TABLE.open(newline="") as file:
        assert {row["architecture"] for row in csv.DictReader(file)} == set(list_models())
