"""The command line: what is written, what is sent to a cluster, and what is said where that fails."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipeline.__main__ import main

IMAGE = "registry.example/segmodels@sha256:" + "0123456789abcdef" * 4


class Cluster(http.server.BaseHTTPRequestHandler):
    """Answers as Kubeflow Pipelines' API does to what a submission asks; keeps the runs it was sent."""

    def do_GET(self) -> None:
        if self.path.startswith("/apis/v2beta1/healthz"):
            self.answer({"multi_user": False})
        else:
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "segmentation"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/apis/v2beta1/runs"):
            self.server.runs.append((dict(self.headers), body))  # type: ignore[attr-defined]
            self.answer({"run_id": "r1", "display_name": body["display_name"]})
        else:
            self.answer({"experiment_id": "e1", "display_name": body["display_name"]})

    def answer(self, content: dict[str, Any]) -> None:
        status = 401 if self.server.locked and "Authorization" not in self.headers else 200  # type: ignore[attr-defined]
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        server.runs, server.locked = [], False  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


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


def test_no_cluster_is_said_within_seconds(project, capsys):
    project("tiny")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{taken.getsockname()[1]}"
    started = time.monotonic()
    assert main(["submit", "--host", host]) == 1
    assert time.monotonic() - started < 10
    assert f"error: {host}: no Kubeflow Pipelines answers there" in capsys.readouterr().err


def test_submit_sends_the_run_that_compile_writes(project, cluster, capsys, monkeypatch):
    folder = project("tiny")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address(cluster))
    assert main(["submit", "--image", IMAGE, "--run-name", "first", "--experiment", "segmentation"]) == 0
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
    assert main(["submit", "--host", address(cluster), "--image", IMAGE]) == 1
    assert "refuses (HTTP 401); give a token with --token-file" in capsys.readouterr().err
    (folder / "token").write_text("abc\n")
    assert main(["submit", "--host", address(cluster), "--image", IMAGE, "--token-file", "token"]) == 0
    assert cluster.runs[0][0]["authorization"] == "Bearer abc"
