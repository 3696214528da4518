"""A run's tasks, its logs and how it is followed: on what a real Kubeflow answered, and on runs of that shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import logs, runs
from pipeline.__main__ import main
from pipeline.runs import Run, Task
from tests.samples import KUBEFLOW, needs_kubeflow
from tests.servers import kubeflow
from tests.servers.kubeflow import Server, pod

OURS = ["download", "validate", "train-unet", "evaluate-unet", "register", "report", "finish"]
OUT_OF_MEMORY = ("Failed", "main: OOMKilled (exit code 137)")
KILLED = ("Failed", "main: Error (exit code 137)")
WAITS = (
    "Pending",
    "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are …",
)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with kubeflow.serving() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setattr("pipeline.status.POLL_SECONDS", 0.05)
        monkeypatch.setattr("pipeline.logs.POLL_SECONDS", 0.05)
        yield server


def recorded(name: str) -> dict[str, Any]:
    """The recorded run whose name begins so."""
    found = json.loads((KUBEFLOW / "runs.json").read_text())["runs"]
    return next(run for run in found if run["display_name"].startswith(name))


def states(run: Run) -> dict[str, str]:
    return {task.name: task.state for task in run.tasks}


def task(run: Run, name: str) -> Task:
    return next(task for task in run.tasks if task.name == name)


@needs_kubeflow
@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("segmentation 2026-11-26 00-13", "SUCCEEDED", {}),
        ("segmentation 2026-11-26 00-09", "FAILED", {"download": "failed", "validate": "skipped", "report": "skipped"}),
        ("fault1", "FAILED", {"train-unet": "failed", "register": "skipped"}),
        ("fault2", "RUNNING", {"register": "running", "report": "-", "finish": "-"}),
        ("oom1", "RUNNING", {"train-unet": "retrying", "evaluate-unet": "-"}),
        ("cache2", "RUNNING", {"download": "cached", "evaluate-unet": "cached", "register": "retrying"}),
        ("nightlyrd8sh-1", "FAILED", {"download": "succeeded", "validate": "failed", "finish": "succeeded"}),
        ("nightlyrd8sh-2", "RUNNING", {"fingerprint": "succeeded", "download": "cached", "validate": "starting"}),
        ("gpu1", "CANCELED", {"validate": "succeeded", "train-unet": "canceled", "report": "skipped"}),
        ("segmentation 2026-11-26 00-04", "FAILED", {"download": "-", "finish": "-"}),
    ],
)
def test_a_recorded_run_has_our_tasks_alone_with_their_states(name: str, state: str, expected: dict[str, str]):
    run = runs.parse(recorded(name))
    assert run.state == state
    found = states(run)
    assert {other.removesuffix("-segnet-basic").removesuffix("-unet") for other in found} <= {
        "fingerprint", "download", "validate", "train", "evaluate", "register", "report", "finish",
    }  # fmt: skip
    assert list(found).index("download") < list(found).index("validate") < list(found).index("register")
    assert list(found)[-1] == "finish"
    assert {name: found[name] for name in expected} == expected
    if state == "SUCCEEDED":
        assert set(found.values()) == {"succeeded"}


@needs_kubeflow
def test_the_attempts_of_recorded_runs_are_told_apart():
    fault = task(runs.parse(recorded("fault2")), "train-unet")
    assert [one.state for one in fault.attempts] == ["failed", "succeeded"]
    first, second = fault.attempts
    assert first.started and first.ended and second.started and (first.ended - first.started).total_seconds() == 111
    # Of two trainings that began in the same second each has its own; the name of this one's pod was seen.
    whole = runs.parse(recorded("segmentation 2026-11-26 00-13"))
    (pod_,) = task(whole, "train-unet").attempts
    assert pod_.pod == "segmentation-nbdmc-retry-system-container-impl-218565502"
    (other,) = task(whole, "train-segnet-basic").attempts
    assert other.node == "segmentation-nbdmc-3840298965"
    elapsed = task(whole, "register").elapsed
    assert elapsed and elapsed.total_seconds() == 267


@needs_kubeflow
def test_argos_own_record_says_the_same_and_why():
    described = recorded("segmentation 2026-11-26 00-09")
    workflow = json.loads((KUBEFLOW / "workflow.json").read_text())
    plain, full = runs.parse(described), runs.parse(described, workflow)
    # It was taken a little earlier, while the last task ran.
    assert states(full) == states(plain) | {"finish": "running"}
    (said,), (again,) = task(full, "download").attempts, task(plain, "download").attempts
    assert (said.node, said.pod, said.state) == (again.node, again.pod, again.state)
    assert said.reason == "Error (exit code 1)"


@needs_kubeflow
def test_the_runs_of_these_tests_have_the_shape_of_the_recorded():
    described, _ = kubeflow.run(
        "FAILED", download=[KILLED], validate="omitted", train_unet="omitted", finish=[("Succeeded", "")]
    )
    names = {detail["display_name"] for detail in described["run_details"]["task_details"]}
    real = recorded("segmentation 2026-11-26 00-09")["run_details"]["task_details"]
    shared = {name for name in names if "segmentation" not in name}
    assert shared <= {detail["display_name"] for detail in real}
    fields = {key for detail in described["run_details"]["task_details"] for key in detail}
    assert fields <= {key for detail in real for key in detail}
    workflow = json.loads((KUBEFLOW / "workflow.json").read_text())
    for node in workflow["status"]["nodes"].values():
        assert runs.node_id("segmentation-t64cs", node["name"]) == node["id"]


@pytest.mark.parametrize("older", [True, False])
def test_a_task_is_told_with_its_attempts_and_why(at: Server, older: bool, capsys):
    at.older = older
    tasks: dict[str, Any] = {
        "download": [("Succeeded", "")],
        "validate": "cached",
        "train_unet": [OUT_OF_MEMORY, WAITS],
    }
    at.runs["r1"] = [kubeflow.run("RUNNING", **tasks)]
    assert main(["status", "r1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["task", *OURS, "first:"]
    assert lines[1].split()[:4] == ["download", "succeeded", "1", "0:02:10"]
    assert lines[2].split()[:2] == ["validate", "cached"]
    assert lines[3].split()[:3] == ["train-unet", "pending", "2"]
    # Only Argo's record says why.
    assert lines[3].endswith("0/1 nodes are available: 1 Insufficient nvidia.com/gpu") is older


def test_status_cuts_nothing_and_speaks_json(at: Server, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = "3d57eafd-12ae-4c42-8bd2-d5188f8d3ab9"
    at.runs[long] = [kubeflow.run("RUNNING", long, "nightly", download=[OUT_OF_MEMORY])]
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{long}  RUNNING")
    assert main(["status", long, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["state"]) == (long, "RUNNING")
    (attempt,) = told["tasks"][0]["attempts"]
    assert (attempt["number"], attempt["reason"], attempt["pod"]) == (1, "out of memory (OOMKilled)", pod("download"))
    assert main(["status", "--json"]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)] == [long]


def test_watching_tells_each_attempt_and_ends_with_the_task_that_failed_and_its_last_lines(at: Server, capsys):
    before: dict[str, Any] = {"download": [("Succeeded", "")], "validate": [("Succeeded", "")]}
    at.runs["r1"] = [
        kubeflow.run("RUNNING", **before, train_unet=[WAITS]),
        kubeflow.run("RUNNING", **before, train_unet=[("Running", "")]),
        kubeflow.run("RUNNING", **before, train_unet=[KILLED]),
        kubeflow.run("RUNNING", **before, train_unet=[KILLED, ("Running", "")]),
        kubeflow.run(
            "FAILED", **before, train_unet=[KILLED, OUT_OF_MEMORY], register="omitted", finish=[("Succeeded", "")]
        ),
    ]
    at.logs[pod("train-unet", 1)] = "".join(f"epoch {n}\n" for n in range(40)) + NOISE
    assert main(["status", "r1", "--watch"]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    told = [line.partition(" (")[0] for line in lines if line.startswith("train-unet: ")]
    assert told == [
        "train-unet: pending", "train-unet: running", "train-unet: retrying", "train-unet: running, attempt 2",
        "train-unet: failed, attempt 2",
    ]  # fmt: skip
    assert "Insufficient nvidia.com/gpu" in lines[2]
    assert lines[lines.index("the last lines of train-unet:") + 1 :] == [f"    epoch {n}" for n in range(30, 40)]
    assert said.err == (
        "error: run r1 ended as FAILED in train-unet after 2 attempts (out of memory (OOMKilled)); all that it said: "
        "python -m pipeline logs r1 train-unet\n"
    )
    assert main(["status", "--watch"]) == 1
    assert "--watch: name the run" in capsys.readouterr().err


def test_a_run_that_failed_before_its_first_task_says_so(at: Server, capsys):
    described, workflow = kubeflow.run("FAILED")
    for node in workflow["status"]["nodes"].values():
        if "root-driver" in node["name"]:
            node |= {"phase": "Failed", "message": "main: Error (exit code 1)"}
    at.runs["r1"] = [(described, workflow)]
    assert main(["status", "r1", "--watch"]) == 1
    assert "ended as FAILED: Kubeflow's root-driver failed: Error (exit code 1); " in capsys.readouterr().err


NOISE = """I0101 00:00:00.000000      13 launcher_v2.go:193] PipelineTaskName: train-unet
[KFP Executor 2026-01-01 00:00:00,000 INFO]: Got executor_input:
{
    "inputs": {}
}
"""


@pytest.mark.parametrize("interface", [True, False])
def test_logs_are_the_tasks_own_words_while_it_runs_and_afterwards(at: Server, interface: bool, capsys):
    at.interface = interface
    described, workflow = kubeflow.run(
        "RUNNING", download=[("Succeeded", "")], validate="cached", train_unet=[KILLED, ("Running", "")]
    )
    at.runs["r1"] = [(described, workflow)]
    first, second = (one.node for one in task(runs.parse(described, workflow), "train-unet").attempts)
    (downloaded,) = task(runs.parse(described, workflow), "download").attempts
    # What has ended is archived, and its pod gone; what runs is known by its pod's name alone.
    at.archive = {downloaded.node: NOISE + "701 images\n", first: "epoch 1\n"}
    at.logs = {pod("train-unet", 1): NOISE + "epoch 2\n"}
    assert second not in at.archive
    assert main(["logs", "r1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "==> download (succeeded)", "701 images",
        "==> train-unet, attempt 1 of 2 (failed: Error (exit code 137))", "epoch 1",
        "==> train-unet, attempt 2 of 2 (running)", "epoch 2",
    ]  # fmt: skip
    assert main(["logs", "r1", "train-unet", "--attempt", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["epoch 1"]
    assert main(["logs", "r1", "download", "--all"]) == 0
    assert "launcher_v2.go" in capsys.readouterr().out


def test_following_a_task_prints_each_line_once_and_goes_on_to_the_next_attempt(at: Server, capsys):
    at.runs["r1"] = [
        kubeflow.run("RUNNING", download=[("Running", "")]),
        kubeflow.run("RUNNING", download=[KILLED]),
        kubeflow.run("RUNNING", download=[KILLED, ("Running", "")]),
        kubeflow.run("RUNNING", download=[KILLED, ("Succeeded", "")], validate="driver"),
    ]
    at.logs = {pod("download"): "a\nb\n", pod("download", 1): "c\n"}
    assert main(["logs", "r1", "download", "--follow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("==> ")] == ["a", "b", "c"]
    assert [line for line in lines if line.startswith("==> ")] == [
        "==> download (running)", "==> download, attempt 2 of 2 (running)",
    ]  # fmt: skip


def test_a_line_that_is_being_written_is_printed_once_and_whole(capsys):
    told = logs._Told("==> a", everything=False)
    for text, whole in (("epoch 1\nepo", False), ("epoch 1\nepoch 2\nend", False), ("epoch 1\nepoch 2\nend", True)):
        told.tell(text, whole=whole)
    assert capsys.readouterr().out.splitlines() == ["==> a", "epoch 1", "epoch 2", "end"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["download"], "no log of download (attempt 1); where the cluster archives none, it is gone with its pod"),
        (["validate"], "no log; the result of validate was cached, so it did not run"),
        (["register"], "no log; register has not begun"),
        (["download", "--attempt", "3"], "no log; download has 1 attempts, not 3"),
        (["train-enet"], f"run r1 has no task train-enet; its tasks: {', '.join(OURS)}"),
        (["--attempt", "1"], "--attempt 1: name its task, too"),
    ],
)
def test_where_there_is_no_log_it_is_said_and_is_an_error(at: Server, arguments: list[str], sentence: str, capsys):
    at.runs["r1"] = [kubeflow.run("RUNNING", download=[("Succeeded", "")], validate="cached", train_unet="driver")]
    assert main(["logs", "r1", *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_a_pipeline_of_forty_arms_is_read_within_a_poll(at: Server):
    """Only the names that can be there are hashed: a run of 40 arms has 600 nodes."""
    trainings: dict[str, Any] = {f"train_{n}": [("Succeeded", "")] for n in range(80)}
    described, _ = kubeflow.run("RUNNING", **trainings)
    hashed = 0
    plain = runs._hash

    def counted(text: str, start: int = 0x811C9DC5) -> int:
        nonlocal hashed
        hashed += len(text)
        return plain(text, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_hash", counted)
        assert sum(state == "succeeded" for state in states(runs.parse(described)).values()) == 80
    assert hashed < 2_000_000
