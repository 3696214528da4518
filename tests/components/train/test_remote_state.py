"""The state of a training in a real object store: a pod that is killed anywhere, and the next one on another node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.download import step as download
from components.errors import StepError
from components.params import Params
from components.train import remote_state
from components.train.remote_state import RemoteState
from tests.servers.line import Line
from tests.servers.swift import Swift

SETTINGS = """
seed: 3
data: {source: streets, streets: {train: 24, val: 2, test: 2, height: 48, width: 64}}
train: {epochs: 4, batch_size: 2, precision: "32"}
models:
  unet: {options: {width: 2}}
"""
# The step as a pod runs it; after its second epoch it waits for a file.
POD = """
import sys, time
from pathlib import Path
from components.errors import complain
from components.lineage import collect
from components.params import Params
from components.train import step
from segmodels.runtime import set_up_process

set_up_process()
out, release = Path(sys.argv[1]), Path(sys.argv[2])

def on_epoch(row):
    while row["epoch"] == 2 and not release.exists():
        time.sleep(0.05)

params = Params.read()
try:
    step.run(params, "unet", data=Path("data"), out=out, lineage=collect(params, Path("data")), on_epoch=on_epoch)
except Exception as error:
    sys.exit(complain(error))
"""
PATIENCE = 240


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with settings and data."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(SETTINGS)
    download.run(Params.read(folder / "params.yaml"), out=folder / "data")
    return folder


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> bytes:
    """The weights of a training that nothing stopped."""
    (project / "go").touch()
    pod = start(project, project / "undisturbed", project / "cache", "", project / "go")
    assert pod.wait(PATIENCE) == 0
    return (project / "undisturbed/model.safetensors").read_bytes()


def start(project: Path, out: Path, cache: Path, state: str, release: Path) -> subprocess.Popen[str]:
    """A pod: what it keeps is its own, and the state goes to the store."""
    env = os.environ | {"SEGMODELS_CACHE": str(cache), "SEGMODELS_STATE": state, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", POD, str(out), str(release)]
    return subprocess.Popen(command, cwd=project, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def names(swift: Swift, bucket: str) -> set[str]:
    found = swift.client().list_objects_v2(Bucket=bucket.removeprefix("s3://")).get("Contents", ())
    return {entry["Key"].rpartition("/")[2] for entry in found}


def wait_for(condition: Callable[[], bool], pod: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert pod.poll() is None, pod.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("stop", ["SIGKILL", "SIGTERM"])
def test_a_pod_on_another_node_goes_on_and_ends_with_the_same_weights(
    stop: str, project: Path, undisturbed: bytes, swift: Swift, bucket: str, tmp_path: Path
) -> None:
    first = start(project, tmp_path / "model", tmp_path / "node-1", bucket, tmp_path / "go")
    try:
        wait_for(lambda: "state.pt" in names(swift, bucket), first)
        first.send_signal(getattr(signal, stop))
        (tmp_path / "go").touch()
        told, _ = first.communicate(timeout=PATIENCE)
    finally:
        first.kill()
    if stop == "SIGTERM":
        assert first.returncode == 143
        assert "the state is saved, run the same command again to go on" in told
    assert not (tmp_path / "model").exists()
    second = start(project, tmp_path / "model", tmp_path / "node-2", bucket, tmp_path / "go")
    told, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, told
    assert "the training's state was brought from s3://" in told
    assert "goes on after epoch" in told
    assert (tmp_path / "model/model.safetensors").read_bytes() == undisturbed
    assert names(swift, bucket) == set()


def test_a_store_that_is_away_for_twenty_seconds_does_not_stop_a_training(
    project: Path, undisturbed: bytes, swift: Swift, bucket: str, tmp_path: Path
) -> None:
    pod = start(project, tmp_path / "model", tmp_path / "node", bucket, tmp_path / "go")
    try:
        wait_for(lambda: "state.pt" in names(swift, bucket), pod)
        swift.stop()
        back = threading.Timer(20, swift.start)
        back.start()
        (tmp_path / "go").touch()
        told, _ = pod.communicate(timeout=PATIENCE)
        back.join()
    finally:
        pod.kill()
    assert pod.returncode == 0, told
    assert (tmp_path / "model/model.safetensors").read_bytes() == undisturbed
    assert names(swift, bucket) == set()


def test_a_state_that_cannot_be_read_stops_the_training_before_it_begins_anew(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_state, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StepError, match=rf"^{bucket}/unet: the training's state cannot be read \(.*run the step again"):
        RemoteState(tmp_path, f"{bucket}/unet").fetch()
    with pytest.raises(StepError, match="names no bucket"):
        RemoteState(tmp_path, "/somewhere")


def test_what_is_stored_is_whole_whenever_training_goes_on_meanwhile(
    bucket: str, swift: Swift, tmp_path: Path, line: Line
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()

    def epoch(number: int) -> None:
        """What training does: best weights, the state that names them, then older weights go."""
        for name in (f"best-{number}.safetensors", "state.pt"):
            (here / "part").write_text(str(number % 10) * 100_000)
            os.replace(here / "part", here / name)
        for path in here.glob("best-*"):
            if path.name != f"best-{number}.safetensors":
                path.unlink()

    remote = RemoteState(here, f"{bucket}/unet")
    with remote.mirrored():
        for number in range(1, 12):
            epoch(number)
            remote.notify()
            another = RemoteState(there / str(number), f"{bucket}/unet")
            if another.fetch():
                found = (another.folder / "state.pt").read_text()[0:1]
                brought = {path.name: path.read_text()[0:1] for path in another.folder.glob("best-*.safetensors")}
                assert found in brought.values()
        assert remote.push()
    assert names(swift, bucket) == set()


def test_two_pods_of_one_training_leave_each_others_state_alone(bucket: str, tmp_path: Path) -> None:
    pods = [RemoteState(tmp_path / name, f"{bucket}/unet") for name in ("a", "b")]
    for pod, content in zip(pods, ("older", "newer"), strict=True):
        pod.folder.mkdir()
        (pod.folder / "state.pt").write_text(content)
        (pod.folder / f"best-{content}.safetensors").write_text(content)
        assert pod.push()
        time.sleep(1.1)  # the store's clock counts seconds
    third = RemoteState(tmp_path / "c", f"{bucket}/unet")
    assert third.fetch()
    assert sorted(p.name for p in third.folder.iterdir()) == ["best-newer.safetensors", "state.pt"]
