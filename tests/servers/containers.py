"""Container engines, the images built by them, and the pipeline run in containers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 3600
DEBIAN_BASE = "localhost/segmodels-test-base:bookworm"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Sandboxes refuse higher limits, a network of the container's own and systemd.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
LOCKED_DOWN = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host")


@dataclass
class Engine:
    """A container engine, and how it is called here."""

    name: str
    env: dict[str, str]
    build: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"timeout": 300, "capture_output": True, "text": True} | options
        done = subprocess.run([self.name, *arguments], env=self.env, **options)
        if check and done.returncode != 0:
            pytest.fail(f"{self.name} {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done

    def image(self, target: str) -> str:
        """Builds a target; gives its name."""
        command = [str(ROOT / "infra/images/build"), target]
        done = subprocess.run(command, env=self.env | self.build, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout.splitlines()[-1].partition(",")[0]

    def python(self, image: str, code: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", *LOCKED_DOWN, *options, image, "python", "-c", code, **more)


class NotInstalledError(Exception):
    """There is no container engine that works."""


def find_engine() -> Engine:
    """Docker, or podman, with a base image that needs no registry where it can be made.

    Raises:
        NotInstalledError: There is neither.
    """
    name = next((name for name in ("docker", "podman") if usable(name)), None)
    if name is None:
        raise NotInstalledError("no container engine is installed (docker, podman): the images are not built")
    env = dict(os.environ)
    build = {"ENGINE": name, "OPTIONS": f"--secret id=ca,src={AUTHORITIES}"}
    if name != "podman" or os.getuid() != 0 or shutil.which("debootstrap") is None:
        return Engine(name, env, build)
    folder = Path(tempfile.mkdtemp(prefix="segmodels-containers-"))
    (folder / "containers.conf").write_text(CONTAINERS_CONF)
    env["CONTAINERS_CONF"] = str(folder / "containers.conf")
    build["OPTIONS"] += " --isolation chroot --network host --layers"
    build["BASE"] = DEBIAN_BASE
    made = Engine(name, env, build)
    if made("image", "exists", DEBIAN_BASE, check=False).returncode != 0:
        make_base(made, folder / "root")
    return made


def usable(name: str) -> bool:
    """Whether it is installed and works; a docker client without its daemon does not."""
    return shutil.which(name) is not None and subprocess.run([name, "info"], capture_output=True).returncode == 0


def make_base(engine: Engine, root: Path) -> None:
    """Debian 12 with its Python 3.11, in place of the official image of the same."""
    packages = "--include=ca-certificates,python3,python3-venv"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        engine("import", "-", DEBIAN_BASE, stdin=tar.stdout, timeout=BUILD_SECONDS)
    shutil.rmtree(root)


@contextlib.contextmanager
def speaking_docker(engine: Engine) -> Iterator[str]:
    """The address at which the engine speaks docker's protocol."""
    if engine.name == "docker":
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    with tempfile.TemporaryDirectory(prefix="segmodels-podman-") as folder:
        path = Path(folder) / "podman.sock"
        command = ["podman", "system", "service", "--time=0", f"unix://{path}"]
        with subprocess.Popen(command, env=engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            yield f"unix://{path}"
            service.terminate()


# kfp removes containers by itself before it has asked how they ended, and podman then says nothing: a step that failed
# passed for one that succeeded. This one function asks first.
RUN_IN_CONTAINERS = """
import json, os, sys
from kfp import local
from kfp.local import docker_task_handler

def run_docker_container(client, image, command, volumes, **options):
    container = client.containers.create(image=image, command=command, volumes=volumes, **options)
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            print(line.decode(), end="")
        return container.wait()["StatusCode"]
    finally:
        container.remove(force=True)

docker_task_handler.run_docker_container = run_docker_container

image, root = sys.argv[1:]
import components.task

components.task.IMAGE = image  # the components name it when they are imported

from components.params import Params
from pipeline import dag

local.init(local.DockerRunner(**json.loads(os.environ["RUN_OPTIONS"])), pipeline_root=root)
cluster = json.loads(os.environ["CLUSTER"])
dag.build(Params.read(), dag.Cluster(image=image, **cluster) if cluster else None)()
"""


def run_in_containers(
    folder: Path,
    image: str,
    docker_host: str,
    *,
    environment: Mapping[str, str] | None = None,
    cluster: Mapping[str, str] | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """The DAG of the folder's `params.yaml`, each task in a container that may write below the folder alone.

    Args:
        folder: Where it runs.
        image: Of every task.
        docker_host: The engine's address.
        environment: What every task is told; by default MLflow is a file below the folder.
        cluster: Fields of `pipeline.dag.Cluster`.
        prepare: Called when the folder `run`, which the containers see, is there.
    """
    root = folder / "run"
    root.mkdir()
    root.chmod(0o777)
    prepare()
    told = environment or {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    options = {
        "user": "10001:10001",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "network_mode": "host",
        "environment": {"OMP_NUM_THREADS": "1", **told},
    }
    given = {"DOCKER_HOST": docker_host, "RUN_OPTIONS": json.dumps(options), "CLUSTER": json.dumps(dict(cluster or {}))}
    (folder / "run.py").write_text(RUN_IN_CONTAINERS)
    command = [sys.executable, str(folder / "run.py"), image, str(root)]
    env = os.environ | given | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS)
