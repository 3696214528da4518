"""A version of the data from a DVC remote that DVC itself has filled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.download import dvc_remote, step
from components.errors import StepError
from components.lineage import folder_md5
from components.params import Params
from segmodels.data.folder import ClassInfo, DatasetInfo
from segmodels.data.writer import DatasetWriter


def dvc(folder: Path, *arguments: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DVC")}
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=env, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A dataset folder, its hash, and the remote that it was pushed to."""
    import numpy as np

    root = tmp_path_factory.mktemp("repository")
    with DatasetWriter(root / "data", "boxes", (ClassInfo("a", (1, 2, 3)),), source={"kind": "made"}) as writer:
        for split in ("train", "val"):
            for number in range(3):
                image = np.full((40, 48, 3), 10 * number, np.uint8)
                writer.add(split, str(number), image, np.zeros((40, 48), np.uint8))
    dvc(root, "init", "--no-scm", "--quiet")
    dvc(root, "remote", "add", "-d", "storage", str(root / "remote"))
    dvc(root, "add", "--quiet", "data")
    dvc(root, "push", "--quiet")
    return root / "data", folder_md5(root / "data"), root / "remote"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_step_brings_exactly_the_version_that_was_pushed(pushed: tuple[Path, str, Path], tmp_path: Path) -> None:
    data, md5, remote = pushed
    result = step.run(Params.parse({"models": {"unet": {}}}), out=tmp_path / "data", remote=str(remote), md5=md5)
    assert result.format == "dvc"
    assert folder_md5(tmp_path / "data") == md5
    assert DatasetInfo.read(tmp_path / "data") == DatasetInfo.read(data)


def test_what_is_not_in_the_remote_is_named(pushed: tuple[Path, str, Path], cache: Path) -> None:
    _, md5, remote = pushed
    known = dvc_remote.Remote.at(str(remote))
    assert dvc_remote.unpushed(known, md5, cache) == []
    other = "0" * 32 + ".dir"
    assert dvc_remote.unpushed(known, other, cache) == [dvc_remote.object_name(other)]
    with pytest.raises(StepError, match="no such file; `dvc push` the data"):
        dvc_remote.manifest(known, other, cache)


def test_a_damaged_object_is_refused_and_the_old_folder_stays(
    pushed: tuple[Path, str, Path], cache: Path, tmp_path: Path
) -> None:
    _, md5, remote = pushed
    damaged = tmp_path / "remote"
    subprocess.run(["cp", "-r", str(remote), str(damaged)], check=True)
    victim = next(entry for entry in dvc_remote.manifest(dvc_remote.Remote.at(str(damaged)), md5, cache))
    path = damaged / dvc_remote.object_name(victim["md5"])
    path.chmod(0o644)
    path.write_bytes(b"rot")
    out = tmp_path / "data"
    out.mkdir()
    (out / "old").write_text("kept")
    with pytest.raises(StepError, match=r"its md5 is .*; the remote is damaged, `dvc push` the data again"):
        dvc_remote.fetch(dvc_remote.Remote.at(str(damaged)), md5, out, cache)
    assert (out / "old").read_text() == "kept"


def test_a_path_out_of_the_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    import hashlib

    manifest = b'[{"md5": "00", "relpath": "../escape"}]'
    md5 = hashlib.md5(manifest).hexdigest() + ".dir"
    target = tmp_path / "remote" / dvc_remote.object_name(md5)
    target.parent.mkdir(parents=True)
    target.write_bytes(manifest)
    with pytest.raises(StepError, match="points out of the folder"):
        dvc_remote.fetch(dvc_remote.Remote.at(str(tmp_path / "remote")), md5, tmp_path / "data", cache)
    assert not (tmp_path / "escape").exists()


def test_a_remote_that_pods_cannot_read_is_named() -> None:
    with pytest.raises(StepError, match=r"ssh://host/x: a DVC remote of this kind cannot be read in a pod"):
        dvc_remote.Remote.at("ssh://host/x")
