"""What chaining the steps costs: `python benchmarks/overhead.py`.

    python benchmarks/overhead.py [--params FILE] [--containers]

The default job by `dvc repro`, by `python -m pipeline run` and, asked to, with every task in a container by Kubeflow's
DockerRunner on docker or podman. Each runs in a clone of its own. The steps' own time is that of their processes within
the same run, from the fork to the exit, in containers to where Python begins to end; of a Kubeflow task the import of
kfp is not the step's. Overhead is the rest of the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _common as common

from segmodels.runtime import available_cores

ROOT = Path(__file__).resolve().parents[1]
AIMS = {"dvc repro": 3, "python -m pipeline run": 5, "in containers": 15}
# Python imports it by itself, from whatever folder comes first.
NOTING = """
import atexit, json, os, time

words = open("/proc/self/cmdline").read().split("\\0")
kind = next((w for w in words if w in ("components", "kfp.dsl.executor_main")), None)
if kind:
    def note(*what):
        with open(os.environ["SEGMODELS_TIMES"], "a") as file:
            file.write(json.dumps(what) + "\\n")

    ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
    began = ticks / os.sysconf("SC_CLK_TCK")
    note(os.getpid())
    atexit.register(lambda: note(os.getpid(), kind, began, time.clock_gettime(time.CLOCK_BOOTTIME)))
"""


def main() -> None:
    """Prints a line for each way to run the job."""
    args = _arguments()
    common.header("kfp", "dvc")
    print("| run by | wall, s | steps, s | overhead | aim |\n|---|---:|---:|---:|---:|", flush=True)
    ways = list(AIMS) if args.containers else list(AIMS)[:2]
    with tempfile.TemporaryDirectory(prefix="segmodels-overhead-") as folder:
        kfp = _import_seconds("kfp.dsl.executor_main") - _import_seconds("json")
        for way in ways:
            wall, times = _run(way, Path(folder) / way.replace(" ", "-"), args.params)
            own = sum(seconds - kfp * (kind != "components") for kind, seconds in times)
            print(f"| {way} | {wall:.1f} | {own:.1f} | {100 * (wall / own - 1):.1f} % | {AIMS[way]} % |", flush=True)


def _run(way: str, clone: Path, params: Path) -> tuple[float, list[tuple[str, float]]]:
    """Wall seconds of a run, and what each process of a step took."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    shutil.copy(params, clone / "params.yaml")
    (clone / "noting").mkdir()
    (clone / "noting" / "sitecustomize.py").write_text(NOTING)
    times = clone / "noting" / "times"
    env = os.environ | {
        "PYTHONPATH": f"{clone / 'noting'}:{clone}",
        "SEGMODELS_TIMES": str(times),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if way == "in containers":
        return _in_containers(clone, env)
    command = ["dvc", "repro"] if way == "dvc repro" else [sys.executable, "-m", "pipeline", "run"]
    with _ends(times) as ends:
        started = time.monotonic()
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
        wall = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"{way} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return wall, _taken(times, ends)


@contextmanager
def _ends(times: Path) -> Iterator[dict[int, float]]:
    """Sees the processes that note themselves end: process id -> seconds since the machine's start."""
    ends: dict[int, float] = {}
    watched: dict[int, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for pid, *rest in _noted(times):
                if not rest and pid not in ends and pid not in watched.values():
                    watched[os.pidfd_open(pid)] = pid
            for file, _ in _readable(watched):
                ends[watched.pop(file)] = time.clock_gettime(time.CLOCK_BOOTTIME)
                os.close(file)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield ends
    finally:
        over.set()
        thread.join()


def _readable(files: Iterable[int]) -> list[tuple[int, int]]:
    """Those of the files that can be read now, with what happened to them."""
    asked = select.poll()
    for file in files:
        asked.register(file, select.POLLIN)
    return asked.poll(0)


def _noted(times: Path) -> list[list[Any]]:
    lines = times.read_text().splitlines(keepends=True) if times.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _taken(times: Path, ends: dict[int, float]) -> list[tuple[str, float]]:
    """What each process was and its seconds; to its exit where that was seen."""
    full = [line for line in _noted(times) if len(line) > 1]
    return [(kind, ends.get(pid, end) - began) for pid, kind, began, end in full]


def _in_containers(clone: Path, env: dict[str, str]) -> tuple[float, list[tuple[str, float]]]:
    sys.path.insert(0, str(ROOT))
    from tests.servers import containers

    engine = containers.find_engine()
    image = engine.image("gpu")
    # Of this machine's folders a container sees the run's alone.
    noting = clone / "run" / "noting"
    told = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/run/mlflow.db",
        "PYTHONPATH": str(noting),
        "SEGMODELS_TIMES": str(noting / "times"),
        "OMP_NUM_THREADS": str(available_cores()),
    }

    def prepare() -> None:
        shutil.copytree(clone / "noting", noting)
        noting.chmod(0o777)

    with containers.speaking_docker(engine) as address:
        started = time.monotonic()
        done = containers.run_in_containers(clone, image, address, environment=told, prepare=prepare)
        wall = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"in containers it failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return wall, _taken(noting / "times", {})


def _import_seconds(module: str) -> float:
    """Median seconds of a process that imports a module, as in a Kubeflow task: there kfp imports what tasks need."""
    taken, env = [], os.environ | {"_KFP_RUNTIME": "true"}
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True, env=env)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="settings of the job")
    parser.add_argument("--containers", action="store_true", help="also with every task in a container")
    return parser.parse_args()


if __name__ == "__main__":
    main()
