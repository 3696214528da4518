"""`dvc repro` from nothing to a registered version, in a clone with tiny settings and real tools."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "data": {"source": "streets", "streets": {"train": 12, "val": 3, "test": 3, "height": 48, "width": 64}},
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.002, "ema": None, "class_weights": "none", "precision": "32"},
    "models": {"unet": {"options": {"width": 2}}, "segnet_basic": {"options": {"width": 2}}},
    "register": {
        "experiment": "e2e",
        "model_name": "e2e",
        "rules": {"miou": {"floor": 0.0}, "iou/*": {"floor": 0.0}},
    },
}


class Project:
    """A copy of the repository with a history of one commit."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC", "GIT_"))}
        env |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
        }
        # Files, not pipes: workers of DVC's queue outlive the command and keep what it wrote to open.
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            ended = subprocess.run(command, cwd=self.root, env=env, stdout=stdout, stderr=stderr, timeout=500)
            said = []
            for stream in (stdout, stderr):
                stream.seek(0)
                said.append(stream.read())
        if check:
            assert ended.returncode == 0, said[0][-3000:] + said[1][-3000:]
        return subprocess.CompletedProcess(command, ended.returncode, *said)

    def stop_workers(self) -> None:
        """End the workers of the queue that have not ended by themselves."""
        for file in (self.root / ".dvc/tmp/exps").rglob("dvc-exp-worker-*.pid"):
            # The number of one that has ended may be another's by now.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "queue-worker" in Path(f"/proc/{file.read_text()}/cmdline").read_text():
                    os.kill(int(file.read_text()), signal.SIGTERM)

    def set(self, **sections: Any) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        (self.root / "params.yaml").write_text(yaml.safe_dump({**params, **sections}, sort_keys=False))

    def would_run(self) -> builtins.set[str]:
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", "--dry").stdout))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    project = Project(root)
    # params.yaml as it stands: compositions are another test's matter, and Hydra would write over it.
    project.run("dvc", "config", "hydra.enabled", "false")
    project.set(**TINY)
    (root / "dvc.lock").unlink(missing_ok=True)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("git", "config", "user.email", "test@example.invalid")
    project.run("git", "config", "user.name", "test")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "start")
    project.run("dvc", "repro")
    yield project
    project.stop_workers()


def test_it_ends_with_registered_versions_and_a_report(project: Project) -> None:
    registered = json.loads((project.root / "outputs/register.json").read_text())
    assert {v["key"] for v in registered["versions"] if v["version"]} == {"unet", "segnet_basic"}
    assert registered["challenger"] in ("unet", "segnet_basic")
    page = (project.root / "reports/report.html").read_text()
    assert "segnet_basic" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)


def test_a_second_repro_does_nothing(project: Project) -> None:
    assert project.would_run() == set()
    assert "Data and pipelines are up to date" in project.run("dvc", "repro").stdout


def test_the_kubeflow_dag_gives_the_same_bytes(project: Project) -> None:
    project.run(sys.executable, "-m", "pipeline", "run")
    for key in TINY["models"]:
        for name in (f"outputs/models/{key}/model.safetensors", f"outputs/evaluation/{key}/metrics.json"):
            there = project.root / "outputs-local/latest" / name
            assert there.read_bytes() == (project.root / name).read_bytes(), name


def test_the_data_hash_of_the_lineage_is_dvcs(project: Project) -> None:
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    expected = lock["stages"]["download"]["outs"][0]["md5"]
    script = (
        "from pathlib import Path; from components.lineage import collect; from components.params import Params;"
        "print(collect(Params.read(), Path('data')).data_md5)"
    )
    assert project.run("python", "-c", script).stdout.strip() == expected


@pytest.mark.parametrize(
    ("section", "touched"),
    [
        ({"models": {**TINY["models"], "unet": {"options": {"width": 3}}}},
         "code train@unet evaluate@unet summary register report"),
        ({"evaluate": {"flip": True}}, "evaluate@unet evaluate@segnet_basic summary register report"),
        ({"register": {**TINY["register"], "rules": {"miou": {"floor": 0.1}}}}, "register report"),
        ({"train": {**TINY["train"], "epochs": 3}},
         "train@unet train@segnet_basic evaluate@unet evaluate@segnet_basic summary register report"),
    ],
)  # fmt: skip
def test_a_change_runs_only_what_it_touches(section: dict[str, Any], touched: str, project: Project) -> None:
    before = (project.root / "params.yaml").read_text()
    try:
        project.set(**section)
        first = set(touched.split())
        # A dry run does not know what the first stages will give; it may stop at stages that depend on them.
        assert project.would_run() <= first
        assert project.would_run() & first
    finally:
        (project.root / "params.yaml").write_text(before)


@pytest.fixture(scope="module")
def compared(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone of the project with its results committed and pulled, and an experiment."""
    remote, root = (tmp_path_factory.mktemp(name) for name in ("remote", "clone"))
    project.run("dvc", "remote", "add", "--local", "--default", "here", str(remote))
    project.run("dvc", "push")
    clone = Project(root / "clone")
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone.root)], check=True, timeout=60)
    shutil.copy(project.root / "dvc.lock", clone.root / "dvc.lock")
    for key, value in (("user.email", "test@example.invalid"), ("user.name", "test")):
        clone.run("git", "config", key, value)
    clone.run("git", "add", "dvc.lock")
    clone.run("git", "commit", "--quiet", "--message", "results")
    clone.run("dvc", "remote", "add", "--local", "--default", "here", str(remote))
    clone.run("dvc", "pull", check=False)  # register.json is each clone's own
    clone.run("dvc", "exp", "run", "--name", "faster", "--set-param", "train.lr=0.02")
    yield clone
    clone.stop_workers()


def test_a_clone_that_pulled_runs_nothing_but_its_own_registration(compared: Project) -> None:
    clone = Project(compared.root.parent / "again")
    subprocess.run(["git", "clone", "--quiet", str(compared.root), str(clone.root)], check=True, timeout=60)
    shutil.copy(compared.root / ".dvc/config.local", clone.root / ".dvc/config.local")
    clone.run("dvc", "pull", check=False)
    said = clone.run("dvc", "repro").stdout
    assert set(re.findall(r"Running stage '([^']+)'", said)) == {"register", "report"}
    assert (clone.root / "reports/report.html").is_file()


def test_experiments_stand_side_by_side_in_columns_that_a_person_reads(compared: Project) -> None:
    table = compared.run(
        "dvc", "exp", "show", "--only-changed", "--drop", "^(data|outputs|reports)", "--no-pager"
    ).stdout
    heading = next(line for line in table.splitlines() if "Experiment" in line)
    columns = heading.split()
    assert columns[0] == "Experiment" and {"best.miou", "miou.unet", "miou.segnet_basic", "train.lr"} < set(columns)
    assert len(columns) <= 10 and max(len(line) for line in table.splitlines()) < 140
    (row,) = [line for line in table.splitlines() if "faster" in line]
    assert "!" not in table and "0.02" in row and len(re.findall(r"0\.\d+", row)) >= 4


def test_metrics_are_compared_across_commits_experiments_and_clones(compared: Project) -> None:
    for revisions in (["HEAD"], ["HEAD", "faster"]):
        done = compared.run("dvc", "metrics", "diff", *revisions)
        assert "failed" not in done.stdout + done.stderr
        changed = {line.split()[1]: line.split()[2:] for line in done.stdout.splitlines()[1:]}
        assert {"best.miou", "miou.unet", "miou.segnet_basic"} & changed.keys()
        assert all(len(numbers) == 3 and "-" not in numbers for numbers in changed.values())
    details = compared.run(
        "dvc", "metrics", "diff", "HEAD", "faster", "--targets", "outputs/evaluation/unet/metrics.json"
    )
    assert "per_class.sky" in details.stdout or "pixel_accuracy" in details.stdout


def test_plots_compare_revisions_on_a_page_that_needs_no_network(compared: Project, browser: Any) -> None:
    compared.run(sys.executable, "-m", "components.plots", ".dvc/tmp/plots.html")
    before = compared.run("git", "status", "--short").stdout
    for command in (["show"], ["diff", "HEAD", "faster"]):
        compared.run("dvc", "plots", *command)
    assert compared.run("git", "status", "--short").stdout == before, "nothing untracked is left"
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((compared.root / "outputs/plots/index.html").as_uri())
    page.wait_for_selector("canvas, svg.marks", timeout=60_000)
    assert page.locator("canvas, svg.marks").count() == 4
    assert "faster" in page.content() and "Validation mIoU, unet" in page.content()
    assert [url for url in asked if url.startswith("http")] == []
    page.close()


def test_a_queued_experiment_takes_the_data_from_beside_the_project(compared: Project) -> None:
    photos = compared.root / "photos"
    shutil.copytree(compared.root / "data/train/images", photos / "images")
    shutil.copytree(compared.root / "data/train/labels", photos / "labels")
    names = [c["name"] for c in json.loads((compared.root / "data/dataset.json").read_text())["classes"]]
    (photos / "classes.txt").write_text("\n".join(names))
    name = "own-data"
    # What follows `validate` never asks where the data came from.
    compared.run("dvc", "exp", "run", "--queue", "--name", name, "--set-param", "data.source=photos", "validate")
    compared.run("dvc", "exp", "run", "--run-all")
    said = compared.run("dvc", "queue", "status").stdout
    logs = compared.run("dvc", "queue", "logs", name).stdout
    assert re.search(rf"{name}\s.*Success", said), said + logs[-2000:]
    assert "Running stage 'validate'" in logs and "Running stage 'download'" in logs


def test_queued_experiments_run_side_by_side_and_share_one_store(project: Project) -> None:
    for lowest in ("0.001", "0.002"):
        project.run("dvc", "exp", "run", "--queue", "--set-param", f"register.rules.miou.floor={lowest}")
    project.run("dvc", "exp", "run", "--run-all", "--jobs", "2")
    shown = project.run("dvc", "exp", "show", "--json").stdout
    assert "0.001" in shown
    assert "0.002" in shown
    # They change the gate only: the runs are the ones that are there already.
    script = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "print(len(mlflow.search_runs(experiment_names=['e2e'])))"
    )
    assert project.run("python", "-c", script).stdout.strip().splitlines()[-1] == "2"


def test_what_trace_tells_is_enough_to_make_the_same_metrics_again(project: Project, tmp_path: Path) -> None:
    """From the registry alone: a clone at the commit, the settings of the run, the data with that hash."""
    told = project.run("python", "-m", "pipeline", "trace", "models:/e2e@challenger").stdout
    commit, md5, run_id = (
        re.search(pattern, told)[1]  # type: ignore[index]
        for pattern in (r"git commit (\w{40})\n", r"dvc (\w{32}\.dir)", r"run +[\w-]+, (\w{32}), finished")
    )
    clone = Project(tmp_path / "clone")
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone.root)], check=True, timeout=60)
    clone.run("git", "checkout", "--quiet", commit)
    out = clone.root / "params.yaml"
    project.run("python", "-m", "pipeline", "trace", "models:/e2e@challenger", "--params-out", str(out))
    key = next(iter(yaml.safe_load(out.read_text())["models"]))
    steps = (["download"], ["train", "--no-tracking", "--model", key], ["evaluate", "--model", key])
    script = f"from components.__main__ import main; print([main(step) for step in {list(steps)}])"
    assert clone.run("python", "-c", script).stdout.endswith("[0, 0, 0]\n")
    script = (
        "from pathlib import Path; from components.lineage import folder_md5, params_hash;"
        f"from components.params import Params; print(folder_md5(Path('data')), params_hash(Params.read(), '{key}'))"
    )
    made, hashed = clone.run("python", "-c", script).stdout.split()
    assert made == md5
    assert f"hash {hashed}" in told
    again = clone.root / f"outputs/evaluation/{key}/metrics.json"
    (logged,) = (project.root / "mlartifacts").glob(f"{run_id}/artifacts/evaluation/metrics.json")
    assert again.read_bytes() == logged.read_bytes()
