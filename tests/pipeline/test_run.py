"""The pipeline's tasks, run: by `kfp.local` and as plain functions, against the steps called by hand."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components import promotion
from components.__main__ import main as by_hand
from components.download.component import download
from components.evaluate.component import evaluate
from components.lineage import folder_md5
from components.params import Params
from components.register import component as register
from components.report import component as report
from components.task import arms, for_each
from components.tracking import Store
from components.train.component import train
from components.validate.component import validate
from pipeline.dag import settings_for
from pipeline.local import Console
from pipeline.trace import describe

SAME = (
    "outputs/models/unet/model.safetensors",
    "outputs/models/unet/model.json",
    "outputs/evaluation/unet/metrics.json",
    "outputs/evaluation/unet/confusion.csv",
    "outputs/evaluation/unet/profile.json",
)


def pipeline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads as the pipeline's processes have: sums are added in the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def steps(one_thread, module_project) -> Path:
    """A project whose steps were called one by one."""
    folder = module_project("tiny", "steps")
    assert by_hand(["download"]) == 0
    assert by_hand(["train", "--model", "unet", "--no-tracking"]) == 0
    assert by_hand(["evaluate", "--model", "unet"]) == 0
    return folder


@dataclass
class Functions:
    """The components, called as functions one after the other."""

    folder: Path
    artifacts: dict[str, Any]
    md5: str
    sha256: str


@pytest.fixture(scope="module")
def functions(one_thread, module_project) -> Functions:
    folder = module_project("tiny", "functions")
    params = Params.read()
    made = {
        "data": dsl.Dataset(uri=str(folder / "data")),
        "validation": dsl.Artifact(uri=str(folder / "outputs/validation")),
        "checked": dsl.HTML(uri=str(folder / "checked.html")),
        "counts": dsl.Metrics(),
        "model": dsl.Model(uri=str(folder / "outputs/models/unet")),
        "trained": dsl.Metrics(),
        "evaluation": dsl.Artifact(uri=str(folder / "outputs/evaluation/unet")),
        "evaluated": dsl.Metrics(),
        "confusion": dsl.ClassificationMetrics(),
        "registered": dsl.Artifact(uri=str(folder / "outputs/register.json")),
        "page": dsl.HTML(uri=str(folder / "page.html")),
        "leaderboard": dsl.Markdown(uri=str(folder / "leaderboard.md")),
    }
    code = {"git_commit": "c" * 40, "git_dirty": "false", "image_digest": "sha256:" + "d" * 64}

    def call(component: Any, step: str, key: str | None = None, **given: Any) -> Any:
        given |= {"key": key} if key else {}
        return component.python_func(settings=settings_for(params, step, key), **code, **given)

    md5 = call(download, "download", data=made["data"], dvc_remote="", dvc_md5="")
    data = {"data": made["data"], "data_md5": md5}
    call(validate, "validate", **data, validation=made["validation"], page=made["checked"], metrics=made["counts"])
    sha256 = call(train, "train", "unet", **data, model=made["model"], metrics=made["trained"])
    outputs = {"evaluation": made["evaluation"], "metrics": made["evaluated"], "confusion": made["confusion"]}
    call(evaluate, "evaluate", "unet", **data, model=made["model"], model_sha256=sha256, **outputs)
    results = {**data, "validation": made["validation"], "model_unet": made["model"], "registered": made["registered"]}
    results["evaluation_unet"] = made["evaluation"]
    call(register.component(["unet"]), "register", **results)
    call(report.component(["unet"]), "report", **results, page=made["page"], leaderboard=made["leaderboard"])
    return Functions(folder, made, md5, sha256)


@dataclass
class Local:
    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def local(module_project) -> Local:
    """A project in which the pipeline ran without a cluster."""
    folder = module_project("tiny", "local")
    return Local(folder, pipeline("run"))


def test_without_a_cluster_the_results_are_those_of_the_steps_byte_for_byte(steps, local):
    assert local.done.returncode == 0, local.done.stdout + local.done.stderr
    for name in SAME:
        assert (local.folder / "outputs-local/latest" / name).read_bytes() == (steps / name).read_bytes()


def test_the_run_leaves_the_workspace_alone_and_shows_its_results_in_the_usual_places(local):
    assert not {"data", "outputs", "reports"} & {path.name for path in local.folder.iterdir()}
    latest = local.folder / "outputs-local/latest"
    assert (latest / "reports/report.html").read_text().startswith("<!")
    assert (latest / "reports/leaderboard.md").is_file() and (latest / "outputs/validation/validation.json").is_file()
    assert folder_md5(latest / "data").endswith(".dir")


def test_the_terminal_shows_the_tasks_and_what_their_steps_say(local):
    lines = local.done.stdout.splitlines()
    named = [line for line in lines if line and not line.startswith((" ", "outputs-local"))]
    assert named == ["download", "validate", "train-unet", "evaluate-unet", "register", "report", "finish"]
    assert "    the run succeeded" in lines and "    challenger of segmentation: unet" in lines
    assert "KFP Executor" not in local.done.stdout and "executorInput" not in local.done.stdout
    assert "KFP Executor" in next((local.folder / "outputs-local").glob("*/log.txt")).read_text()


def test_what_the_run_registered_can_be_traced_and_registering_again_doubles_nothing(local, monkeypatch):
    monkeypatch.chdir(local.folder)
    latest = Path("outputs-local/latest")
    registered = json.loads((latest / "outputs/register.json").read_text())
    text = describe("models:/segmentation@challenger")
    assert len(text.splitlines()) <= 32
    for told in (
        registered["versions"][0]["run_id"],
        "kfp.run_id local-",
        folder_md5(latest / "data"),
        "train: ",
        "validation passed",
        "6 train, 2 val, 2 test images",
        "passed; there was no champion",
        "never",
    ):
        assert told in text, told
    promotion.promote(Store(None), "segmentation", "1", why="first", who="ada")
    assert re.search(r"promoted  \S+ promote by ada: first", describe("models:/segmentation@champion"))
    folders = {"data": "data", "validation": "outputs/validation", "models": "outputs/models"}
    folders |= {"evaluation": "outputs/evaluation"}
    given = [part for name, path in folders.items() for part in (f"--{name}", str(latest / path))]
    assert by_hand(["register", *given, "--out", "again.json"]) == 0
    assert json.loads(Path("again.json").read_text())["versions"] == registered["versions"]


def test_the_components_are_functions_with_the_same_results(steps, functions):
    for name in SAME:
        assert (functions.folder / name).read_bytes() == (steps / name).read_bytes()
    assert functions.md5 == folder_md5(steps / "data")


def test_artifacts_carry_what_the_user_interface_shows(functions):
    made = functions.artifacts
    metrics = json.loads((functions.folder / "outputs/evaluation/unet/metrics.json").read_text())
    assert made["data"].metadata["md5"] == functions.md5 and made["data"].metadata["train"] == 6
    assert made["counts"].metadata["val"] == 2
    assert made["model"].metadata["sha256"] == functions.sha256
    assert made["evaluated"].metadata["miou"] == metrics["miou"]
    matrix = made["confusion"].metadata["confusionMatrix"]
    assert [entry["displayName"] for entry in matrix["annotationSpecs"]] == list(metrics["per_class"])
    assert sum(sum(row["row"]) for row in matrix["rows"]) > 0
    for html in ("checked", "page"):
        assert Path(made[html].path).read_text().lstrip().lower().startswith("<!doctype html")


def test_a_run_carries_the_code_and_image_that_its_task_was_given(functions):
    lineage = json.loads((functions.folder / "outputs/register.json").read_text())["lineage"]["unet"]
    assert lineage["git.commit"] == "c" * 40 and lineage["git.dirty"] == "false"
    assert lineage["image.digest"] == "sha256:" + "d" * 64
    assert lineage["dvc.data.md5"] == functions.md5


def test_a_step_that_fails_ends_the_run_with_its_sentence(project):
    folder = project("tiny")
    settings = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(settings.replace("source: streets", "source: missing.zip"))
    done = pipeline("run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data.source: missing.zip: no such file or folder")
    assert "(task download; " in done.stderr and len(done.stderr.splitlines()) == 1
    assert "    the run ended as FAILED" in done.stdout and "validate" not in done.stdout


def test_a_step_that_crashes_is_quoted_with_its_last_line():
    printed = """12:00:00.000 - INFO - Executing task '\033[96mtrain-unet\033[0m'
12:00:00.001 - INFO - Streamed logs:

    [KFP Executor 2030-01-01 12:00:00,100 INFO]: Got executor_input:
    {
        "inputs": "error: none"
    }
    Traceback (most recent call last):
    MemoryError: 12 GB
12:00:01.000 - ERROR - Task '\033[96mtrain-unet\033[0m' finished with status \033[91mFAILURE\033[0m
"""
    terminal, log = io.StringIO(), io.StringIO()
    console = Console(terminal, log)
    console.write(printed)
    assert (console.failed, console.error) == ("train-unet", "MemoryError: 12 GB")
    assert terminal.getvalue() == "train-unet\n    Traceback (most recent call last):\n    MemoryError: 12 GB\n"
    assert "executor_input" in log.getvalue() and "\033" not in log.getvalue()


def test_an_image_that_knows_its_commit_is_believed(project, monkeypatch):
    folder = project("tiny")
    monkeypatch.setenv("GIT_COMMIT", "e" * 40)
    download.python_func(
        settings=settings_for(Params.read(), "download"),
        git_commit="c" * 40,
        git_dirty="true",
        image_digest="none",
        dvc_remote="",
        dvc_md5="",
        data=dsl.Dataset(uri=str(folder / "data")),
    )
    assert os.environ["GIT_COMMIT"] == "e" * 40 and os.environ["GIT_DIRTY"] == ""


def test_parameters_named_each_are_repeated_for_every_arm():
    expanded = for_each(register.register, ["enet", "U-Net"])
    names = list(expanded.__annotations__)
    assert [name for name in names if name.startswith("model")] == ["model_enet", "model_u_net"]
    assert [name for name in names if name.startswith("evaluation")] == ["evaluation_enet", "evaluation_u_net"]
    assert arms(["enet", "U-Net"]) == {"enet": "enet", "U-Net": "u_net"}
