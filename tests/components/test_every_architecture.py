"""Every architecture goes through the steps by its name in params.yaml alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.download import step as download
from components.evaluate import step as evaluate
from components.lineage import collect
from components.params import Params
from components.train import step as train
from segmodels.catalog.registry import list_models, model_info

SETTINGS: dict[str, Any] = {
    "data": {"source": "streets", "streets": {"train": 4, "val": 1, "test": 1, "height": 48, "width": 64}},
    "train": {"epochs": 1, "batch_size": 2, "precision": "32", "class_weights": "none", "accelerator": "cpu"},
    "models": {name: {"options": dict(model_info(name).small)} for name in list_models()},
}


@pytest.fixture(scope="module")
def params() -> Params:
    return Params.parse(SETTINGS)


@pytest.fixture(scope="module")
def data(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets") / "data"
    download.run(params, out=folder)
    return folder


@pytest.mark.parametrize("name", list_models())
def test_it_is_trained_and_evaluated(name: str, params: Params, data: Path, tmp_path: Path) -> None:
    model, evaluation, state = tmp_path / "model", tmp_path / "evaluation", tmp_path / "state"
    train.run(params, name, data=data, out=model, lineage=collect(params, data), state=state)
    evaluate.run(params, name, data=data, trained=model, out=evaluation)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert 0 <= metrics["miou"] <= 1 and metrics["images"] == 1
    assert json.loads((evaluation / "speed.json").read_text())["gflops"] > 0


def test_each_has_an_arm_in_the_dag(params: Params) -> None:
    from pipeline.dag import build

    spec = build(params).pipeline_spec
    tasks = {task for component in spec.components.values() for task in component.dag.tasks}
    for name in list_models():
        for step in ("train", "evaluate"):
            assert f"{step}-{name}".replace("_", "-") in tasks
