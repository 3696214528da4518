"""What `submit` fixes, and what it refuses because nobody could fetch it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.errors import StepError
from pipeline.dag import Cluster
from pipeline.pinning import pinned

FIXED = Cluster(image="registry.example/segmodels@sha256:" + "0123456789abcdef" * 4)
STRICT = {"allow_dirty": False, "allow_tag": False, "from_source": False}


def run(*command: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "GIT_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose data was made by DVC and pushed; every test leaves it as it was."""
    root = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        stage = {"cmd": "mkdir -p data && cp params.yaml data/", "params": ["data"], "outs": ["data"]}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"download": stage}}))
        (root / "params.yaml").write_text("data: {source: photos}\nmodels: {unet: {}}\n")
        run("git", "init", "--quiet")
        run("git", "config", "user.email", "test@example.invalid")
        run("git", "config", "user.name", "test")
        run("dvc", "init", "--quiet")
        run("dvc", "remote", "add", "--default", "storage", str(root.with_name("remote")))
        run("dvc", "repro", "--quiet")
        run("dvc", "push", "--quiet")
        run("git", "add", "--all")
        run("git", "commit", "--quiet", "--message", "data")
    return root


@pytest.fixture(autouse=True)
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    for name in ("GIT_COMMIT", "GIT_DIRTY"):
        monkeypatch.delenv(name, raising=False)


def test_the_version_of_the_data_is_that_of_dvc_lock(repository: Path) -> None:
    fixed = pinned(FIXED, **STRICT)
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    assert fixed.data_md5 == lock["stages"]["download"]["outs"][0]["md5"]
    assert fixed.data_md5.endswith(".dir")
    assert Path(fixed.data_remote) == repository.with_name("remote")


def test_a_dirty_tree_is_refused_unless_allowed(repository: Path) -> None:
    (repository / "new.py").write_text("")
    try:
        with pytest.raises(StepError, match="files differ from the last commit; commit them, or submit with --allow"):
            pinned(FIXED, **STRICT)
        assert pinned(FIXED, **{**STRICT, "allow_dirty": True}).data_md5
    finally:
        (repository / "new.py").unlink()


def test_a_tag_that_may_move_is_refused_unless_allowed() -> None:
    tagged = Cluster(image="registry.example/segmodels:1.0")
    with pytest.raises(StepError, match=r"the tag of registry\.example/segmodels:1\.0 may move"):
        pinned(tagged, **STRICT)
    assert pinned(tagged, **{**STRICT, "allow_tag": True}).data_md5


def test_data_that_was_not_pushed_is_refused_unless_it_comes_from_its_source(repository: Path) -> None:
    remote = repository.with_name("remote")
    hidden = remote.with_name("hidden")
    remote.rename(hidden)
    try:
        with pytest.raises(StepError, match=r"lacks 1 objects of the data \(files/md5/.*\); `dvc push download`"):
            pinned(FIXED, **STRICT)
        assert pinned(FIXED, **{**STRICT, "from_source": True}) == FIXED
    finally:
        hidden.rename(remote)


def test_settings_that_no_longer_fit_the_data_are_refused(repository: Path) -> None:
    before = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(before.replace("photos", "others"))
    try:
        with pytest.raises(StepError, match=r"the data or its settings have changed since dvc\.lock was written"):
            pinned(FIXED, **{**STRICT, "allow_dirty": True})
    finally:
        (repository / "params.yaml").write_text(before)


def test_without_a_remote_it_says_how_to_get_one(repository: Path) -> None:
    config = repository / ".dvc/config"
    before = config.read_text()
    config.write_text("")
    try:
        with pytest.raises(StepError, match="no DVC remote holds the data; `dvc remote add -d storage"):
            pinned(FIXED, **{**STRICT, "allow_dirty": True})
    finally:
        config.write_text(before)
