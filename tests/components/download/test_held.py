"""Data of a Git repository with DVC at a revision, and of a real MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from components.download import held
from components.download.fetch import fetch
from components.download.step import run
from components.errors import StepError
from components.params import Params
from segmodels.data.folder import DatasetInfo


def command(folder: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "GIT"))}
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(arguments, cwd=folder, env={**env, **who}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def own(folder: Path, count: int) -> None:
    """A folder of labelled images."""
    for name, mode in (("images", "RGB"), ("labels", "L")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            color = (index, 0, 0) if mode == "RGB" else index % 2
            Image.new(mode, (40, 40), color).save(folder / name / f"{index:02}.png")
    (folder / "classes.txt").write_text("a\nb\n")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A repository whose data had 8 images at the tag v1, and has 12 on main; and the two commits."""
    root = tmp_path_factory.mktemp("repository")
    command(root, "git", "init", "-q", "--initial-branch", "main")
    command(root, sys.executable, "-m", "dvc", "init", "-q")
    command(root, sys.executable, "-m", "dvc", "remote", "add", "-d", "storage", str(root.parent / "storage"))
    commits = []
    for count in (8, 12):
        own(root / "sets/own", count)
        command(root, sys.executable, "-m", "dvc", "add", "-q", "sets/own")
        command(root, "git", "add", ".")
        command(root, "git", "commit", "-q", "-m", f"{count} images")
        commits.append(command(root, "git", "rev-parse", "HEAD"))
        if count == 8:
            command(root, "git", "tag", "-a", "v1", "-m", "the first")
        command(root, sys.executable, "-m", "dvc", "push", "-q")
    return root, commits[0], commits[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("revision", ["v1", "main", "commit"])
def test_a_revision_is_the_data_of_its_commit(repository: tuple[Path, str, str], tmp_path: Path, revision: str) -> None:
    root, first, second = repository
    named = first if revision == "commit" else revision
    params = Params.parse({"data": {"source": f"dvc+{root}@{named}#sets/own"}, "models": {"unet": {}}})
    result = run(params, out=tmp_path / "data")
    assert sum(result.splits.values()) == (12 if revision == "main" else 8)
    source = DatasetInfo.read(tmp_path / "data").source
    assert source["commit"] == (second if revision == "main" else first)
    assert (source["dvc"], source["revision"], source["path"]) == (str(root), named, "sets/own")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("dvc+{root}@v9#sets/own", r"@v9#sets/own is not to be had \(it has no such branch or tag"),
        ("dvc+{root}@v1#sets/other", r"@v1#sets/other is not to be had \(.*sets/other"),
        ("dvc+{root}/nowhere@v1#sets", r"nowhere@v1#sets is not to be had"),
        ("dvc+{root}#sets/own", "write dvc\\+REPOSITORY@REVISION#PATH"),
        ("dvc+--upload-pack=x@v1#sets", "write dvc\\+REPOSITORY@REVISION#PATH"),
        ("dvc+{root}@v1#--force", "write dvc\\+REPOSITORY@REVISION#PATH"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    repository: tuple[Path, str, str], tmp_path: Path, source: str, said: str
) -> None:
    with pytest.raises(StepError, match=said) as error:
        fetch(source.format(root=repository[0]), tmp_path / "c", sha256=None, retries=0)
    assert "\n" not in str(error.value)


def test_passwords_are_not_told(tmp_path: Path) -> None:
    with pytest.raises(StepError) as error:
        fetch("dvc+https://me:secret@127.0.0.1:9/x.git@v1#data", tmp_path / "c", sha256=None, retries=0)
    assert "secret" not in str(error.value) and "127.0.0.1:9/x.git@v1#data" in str(error.value)
    assert held.Versioned.of("dvc+git@host:team/x.git@v1#a/b") == held.Versioned("git@host:team/x.git", "v1", "a/b")


def test_an_artifact_of_mlflow_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    own(tmp_path / "own", 12)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("data", artifact_location=(tmp_path / "store").as_uri())
    made = client.create_run(experiment)
    client.log_artifacts(made.info.run_id, str(tmp_path / "own"), "sets/own")
    source = f"runs:/{made.info.run_id}/sets/own"
    params = Params.parse({"data": {"source": source}, "models": {"unet": {}}})
    result = run(params, out=tmp_path / "data")
    assert sum(result.splits.values()) == 12
    assert DatasetInfo.read(tmp_path / "data").source["mlflow"] == source
    with pytest.raises(StepError, match=r"runs:/.*/nothing is not to be had"):
        fetch(f"runs:/{made.info.run_id}/nothing", tmp_path / "c", sha256=None, retries=0)
