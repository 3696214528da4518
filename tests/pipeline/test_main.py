"""The command line: what is written, what is sent to a cluster, and what is said where that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from pipeline.__main__ import main
from tests.servers import kubeflow, ports
from tests.servers.kubeflow import Server

IMAGE = "registry.example/segmodels@sha256:" + "0123456789abcdef" * 4

# Outside a repository; what submit pins is test_pinning's matter.
LOOSE = ("--image", IMAGE, "--allow-dirty", "--data-from-source")


@pytest.fixture
def cluster() -> Iterator[Server]:
    with kubeflow.serving() as server:
        yield server


@pytest.fixture
def at(cluster: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The cluster, named by the environment and looked at often."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", cluster.url)
    monkeypatch.setattr("pipeline.status.POLL_SECONDS", 0.05)
    return cluster


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
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", cluster.url)
    assert main(["submit", *LOOSE, "--run-name", "first", "--experiment", "segmentation"]) == 0
    assert f"{cluster.url}/#/runs/details/r1" in capsys.readouterr().out
    assert main(["compile", "-o", "a.yaml", "--image", IMAGE]) == 0
    spec, platform = yaml.safe_load_all((folder / "a.yaml").read_text())
    ((_, run),) = cluster.submitted
    assert run["display_name"] == "first" and run["experiment_id"] == "e1"
    sent = run["pipeline_spec"]
    assert (sent.get("pipeline_spec", sent), sent.get("platform_spec")) == (spec, platform)


def test_a_token_is_sent_and_its_absence_explained(project, cluster, capsys):
    folder = project("tiny")
    cluster.token = "abc"
    assert main(["submit", "--host", cluster.url, *LOOSE]) == 1
    assert "refuses (HTTP 401); give a token with --token-file" in capsys.readouterr().err
    (folder / "token").write_text("abc\n")
    assert main(["submit", "--host", cluster.url, *LOOSE, "--token-file", "token"]) == 0
    assert cluster.submitted[0][0]["authorization"] == "Bearer abc"


def test_submit_and_watch_tells_each_change_and_ends_well(project, at, capsys):
    project("tiny")
    at.runs["r1"] = [
        kubeflow.run("RUNNING", download=[("Running", "")]),
        kubeflow.run("RUNNING", download=[("Succeeded", "")], validate="driver"),
        kubeflow.run("SUCCEEDED", download=[("Succeeded", "")], validate="cached"),
    ]
    assert main(["submit", *LOOSE, "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines[1:-1]] == [
        "download: running", "download: succeeded", "validate: cached",
    ]  # fmt: skip
    assert lines[-1].startswith("run r1 succeeded; ")


def test_cancel_stops_a_run_that_still_runs(at, capsys):
    at.runs["r1"] = [kubeflow.run("RUNNING")]
    assert main(["cancel", "r1"]) == 0
    assert at.stopped == ["/apis/v2beta1/runs/r1:terminate"]
    at.runs["r1"] = [kubeflow.run("FAILED")]
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
