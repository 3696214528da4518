"""The command line: what is written, what is sent to a cluster, and what is said where that fails."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipeline.__main__ import main
from tests.servers import ports

IMAGE = "registry.example/segmodels@sha256:" + "0123456789abcdef" * 4

# Outside a repository; what submit pins is test_pinning's matter.
LOOSE = ("--image", IMAGE, "--allow-dirty", "--data-from-source")


class Cluster(http.server.BaseHTTPRequestHandler):
    """Answers as Kubeflow Pipelines' API does; keeps the runs it was sent, and lets them go on at each look."""

    server: Any

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/apis/v2beta1/healthz":
            self.answer({"multi_user": False})
        elif path.startswith("/apis/v1alpha1/runs/r1/nodes/"):
            self.answer_text(f"said by {path.split('/')[-2]}\n")
        elif path == "/apis/v2beta1/runs/r1":
            states = self.server.states
            self.answer(states.pop(0) if len(states) > 1 else states[0])
        elif path == "/apis/v2beta1/runs":
            self.answer({"runs": [run(state="RUNNING")]})
        elif path.startswith("/apis/v2beta1/runs/"):
            self.answer({"message": f"Run {path.rpartition('/')[2]} not found"}, 404)
        elif path == "/apis/v2beta1/recurringruns":
            self.answer({"recurringRuns": self.server.recurring})
        else:
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "segmentation"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if self.path.endswith(":terminate"):
            self.server.stopped.append(self.path)
            self.answer({})
        elif self.path.startswith("/apis/v2beta1/runs"):
            self.server.runs.append((dict(self.headers), body))
            self.answer({"run_id": "r1", "display_name": body["display_name"]})
        elif self.path.startswith("/apis/v2beta1/recurringruns"):
            made = body | {"recurring_run_id": f"s{len(self.server.recurring)}"}
            self.server.recurring.append(made)
            self.answer(made)
        else:
            self.answer({"experiment_id": "e1", "display_name": body["display_name"]})

    def do_DELETE(self) -> None:
        gone = self.path.rpartition("/")[2]
        self.server.recurring[:] = [r for r in self.server.recurring if r["recurring_run_id"] != gone]
        self.answer({})

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        if self.server.locked and "Authorization" not in self.headers:
            status = 401
        self.send(json.dumps(content).encode(), "application/json", status)

    def answer_text(self, text: str) -> None:
        self.send(text.encode(), "text/plain", 200)

    def send(self, data: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


def run(state: str, **tasks: str) -> dict[str, Any]:
    """A run as the API describes it, with the states of its tasks."""
    details = [
        {
            "display_name": name.replace("_", "-"),
            "state": at,
            "start_time": f"2026-01-01T00:0{number}:00Z",
            "end_time": f"2026-01-01T00:0{number + 1}:30Z" if at != "RUNNING" else None,
            "child_tasks": [{"pod_name": f"pod-{name.replace('_', '-')}"}],
            "error": {"message": "out of memory"} if at == "FAILED" else None,
        }
        for number, (name, at) in enumerate(tasks.items())
    ]
    return {"run_id": "r1", "display_name": "first", "state": state, "run_details": {"task_details": details}}


@pytest.fixture
def cluster() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        state: dict[str, Any] = {"runs": [], "locked": False, "states": [], "stopped": [], "recurring": []}
        vars(server).update(state)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def at(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster, named by the environment and looked at often."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address(cluster))
    monkeypatch.setattr("pipeline.cluster.POLL_SECONDS", 0.05)
    return cluster


def address(cluster: Any) -> str:
    return f"http://127.0.0.1:{cluster.server_port}"


def test_help_is_there_at_once_and_imports_nothing_heavy():
    code = "import sys; from pipeline.__main__ import _parser; _parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"kfp", "torch", "mlflow", "yaml", "pydantic", "numpy"} & set(done.stdout.split())


def test_compile_writes_the_same_bytes_again(project, capsys):
    folder = project("tiny")
    for name in ("a.yaml", "deeper/b.yaml"):
        assert main(["compile", "-o", name, "--image", IMAGE]) == 0
    assert (folder / "a.yaml").read_bytes() == (folder / "deeper/b.yaml").read_bytes()
    spec, platform = yaml.safe_load_all((folder / "a.yaml").read_text())
    assert spec["pipelineInfo"]["name"] == "segmentation" and "kubernetes" in platform["platforms"]
    assert capsys.readouterr().err == ""
    assert {path.name for path in folder.iterdir()} == {"params.yaml", "a.yaml", "deeper"}


def test_compile_says_that_nothing_is_cached_without_a_digest(project, capsys):
    project("tiny")
    assert main(["compile", "-o", "a.yaml"]) == 0
    assert "names no digest, so nothing is cached" in capsys.readouterr().err


def test_kubernetes_native_resources_name_their_version_by_its_content(project):
    folder = project("tiny")
    native = ["--kubernetes-native", "--namespace", "team", "--image", IMAGE]
    for name in ("a.yaml", "b.yaml"):
        assert main(["compile", "-o", name, *native]) == 0
    assert main(["compile", "-o", "c.yaml", *native, "--tracking-uri", "http://other:5000"]) == 0
    (pipeline, version), (_, again), (_, other) = (
        list(yaml.safe_load_all((folder / name).read_text())) for name in ("a.yaml", "b.yaml", "c.yaml")
    )
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert pipeline["metadata"] == {"name": "segmentation", "namespace": "team"}
    assert version["spec"]["pipelineName"] == "segmentation" and version["metadata"]["namespace"] == "team"
    assert version["metadata"] == again["metadata"] != other["metadata"]
    assert "platformSpec" in version["spec"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compile", "-o", "a.txt"], "a.txt: Kubeflow reads YAML; let the name end with .yaml"),
        (["compile", "-o", "a.yaml", "--namespace", "team"], "--namespace: the IR names none"),
        (["compile", "-o", "a.yaml", "--params", "other.yaml"], "other.yaml: no such file"),
        (["compile", "-o", "a.yaml", "--image", "segmodels:latest"], "image segmodels:latest: this name moves"),
        (["submit"], "no cluster: give --host http://… or set KF_PIPELINES_ENDPOINT"),
        (["trace", "models:/segmentation@champion"], "mlflow.db: no such store"),
    ],
)
def test_a_mistake_is_one_sentence(project, capsys, arguments, sentence):
    folder = project("tiny")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and len(error.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("command", [["compile", "-o", "a.yaml"], ["run"]])
def test_an_unknown_architecture_is_found_before_anything_runs(project, capsys, command):
    folder = project("tiny")
    (folder / "params.yaml").write_text("models: {enett: {}}")
    assert main(command) == 1
    assert "did you mean 'enet'" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.timeout(120)
def test_no_cluster_is_said_and_not_waited_for(project, capsys):
    project("tiny")
    host = f"http://127.0.0.1:{ports.free()}"
    assert main(["submit", "--host", host, *LOOSE]) == 1
    assert f"error: {host}: no Kubeflow Pipelines answers there" in capsys.readouterr().err


def test_submit_sends_the_run_that_compile_writes(project, cluster, capsys, monkeypatch):
    folder = project("tiny")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address(cluster))
    assert main(["submit", *LOOSE, "--run-name", "first", "--experiment", "segmentation"]) == 0
    assert f"{address(cluster)}/#/runs/details/r1" in capsys.readouterr().out
    assert main(["compile", "-o", "a.yaml", "--image", IMAGE]) == 0
    spec, platform = yaml.safe_load_all((folder / "a.yaml").read_text())
    ((_, run),) = cluster.runs
    assert run["display_name"] == "first" and run["experiment_id"] == "e1"
    sent = run["pipeline_spec"]
    assert (sent.get("pipeline_spec", sent), sent.get("platform_spec")) == (spec, platform)


def test_a_token_is_sent_and_its_absence_explained(project, cluster, capsys):
    folder = project("tiny")
    cluster.locked = True
    assert main(["submit", "--host", address(cluster), *LOOSE]) == 1
    assert "refuses (HTTP 401); give a token with --token-file" in capsys.readouterr().err
    (folder / "token").write_text("abc\n")
    assert main(["submit", "--host", address(cluster), *LOOSE, "--token-file", "token"]) == 0
    assert cluster.runs[0][0]["authorization"] == "Bearer abc"


def test_submit_and_watch_tells_each_change_and_ends_well(project, at, capsys):
    project("tiny")
    at.states += [
        run("RUNNING", download="RUNNING"),
        run("RUNNING", download="SUCCEEDED", train_unet="RUNNING"),
        run("SUCCEEDED", download="SUCCEEDED", train_unet="SUCCEEDED"),
    ]
    assert main(["submit", *LOOSE, "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines[1:-1]] == [
        "download: running", "download: succeeded", "train-unet: running", "train-unet: succeeded",
    ]  # fmt: skip
    assert "download: succeeded (0:01:30)" in lines
    assert lines[-1].startswith("run r1 succeeded; ")


def test_a_run_that_fails_names_the_task_and_its_reason(at, capsys):
    at.states.append(run("FAILED", download="SUCCEEDED", train_unet="FAILED"))
    assert main(["status", "r1", "--watch"]) == 1
    assert "ended as FAILED in train-unet (out of memory); what its tasks said: python -m pipeline logs r1" in (
        capsys.readouterr().err
    )


def test_status_shows_the_tasks_of_a_run_or_the_latest_runs(at, capsys):
    at.states.append(run("RUNNING", download="SUCCEEDED", train_unet="RUNNING"))
    assert main(["status", "r1"]) == 0
    shown = capsys.readouterr().out
    assert "0:01:30" in shown and "first: RUNNING" in shown
    assert [line.split()[:2] for line in shown.splitlines()[1:3]] == [
        ["download", "succeeded"],
        ["train-unet", "running"],
    ]
    assert main(["status"]) == 0
    assert "r1" in capsys.readouterr().out


def test_logs_are_those_of_every_task_or_of_one(at, capsys):
    at.states.append(run("FAILED", download="SUCCEEDED", train_unet="FAILED"))
    assert main(["logs", "r1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "==> download (pod-download)", "said by pod-download", "==> train-unet (pod-train-unet)",
        "said by pod-train-unet",
    ]  # fmt: skip
    assert main(["logs", "r1", "train-unet"]) == 0
    assert "pod-download" not in capsys.readouterr().out
    assert main(["logs", "r1", "train-enet"]) == 1
    assert "run r1 has no task train-enet; its tasks: download, train-unet" in capsys.readouterr().err


def test_cancel_stops_a_run_that_still_runs(at, capsys):
    at.states += [run("RUNNING"), run("FAILED")]
    assert main(["cancel", "r1"]) == 0
    assert at.stopped == ["/apis/v2beta1/runs/r1:terminate"]
    assert main(["cancel", "r1"]) == 0
    assert "has ended already (FAILED)" in capsys.readouterr().out
    assert len(at.stopped) == 1


def test_an_unknown_run_is_one_sentence(at, capsys):
    assert main(["status", "r7"]) == 1
    assert capsys.readouterr().err.strip().endswith("refuses (HTTP 404: Run r7 not found)")


def test_schedule_replaces_the_recurring_run_of_its_name(project, at, capsys):
    folder = project("tiny")
    (folder / "params.yaml").write_text("data: {source: 's3://bucket/labelled'}\nmodels: {unet: {}}\n")
    for cron in ("0 3 * * *", "0 0 4 * * *"):
        assert main(["schedule", "--image", IMAGE, "--cron", cron]) == 0
    (kept,) = at.recurring
    assert kept["display_name"] == "nightly"
    assert kept["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"
    assert int(kept["max_concurrency"]) == 1 and kept["no_catchup"] is True
    assert "recurring run s1 (nightly): 0 0 4 * * *" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "arguments", "sentence"),
    [
        (
            "s3://bucket/labelled",
            ["--image", "segmodels:1.0"],
            "every run would train anew; give --image",
        ),
        ("streets", ["--image", IMAGE], "the data never changes (streets is fixed by the settings)"),
        ("s3://bucket/labelled", ["--image", IMAGE, "--cron", "hourly"], "--cron 'hourly': five fields"),
    ],
)
def test_a_schedule_without_sense_is_refused(source, arguments, sentence, project, at, capsys):
    folder = project("tiny")
    (folder / "params.yaml").write_text(f"data: {{source: '{source}'}}\nmodels: {{unet: {{}}}}\n")
    assert main(["schedule", "--cron", "0 3 * * *", *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert at.recurring == []
