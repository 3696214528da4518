"""A process uses the cores that it was given, and two at once take turns."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segmodels.runtime import SPINS, available_cores

CPU_GROUP = Path("/sys/fs/cgroup/cpu")


def groups(tmp_path: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree of control groups as the kernel shows it, and what tells this process's place in it."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "self").write_text(lines)
    return tmp_path, tmp_path / "self"


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        # The tightest of the groups around the process counts.
        ("0::/pods/a\n", {"pods/cpu.max": "300000 100000\n", "pods/a/cpu.max": "max 100000\n"}, 3),
        # Inside a container the path is the one outside, which is not there.
        ("0::/kubepods/b\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "350000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
        ("5:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": "100000", "cpuset/a/cpu.cfs_period_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_cores_are_those_of_affinity_and_quota(
    lines: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_cores(*groups(tmp_path, lines, files)) == cores


@pytest.mark.skipif(not os.access(CPU_GROUP, os.W_OK), reason="needs a writable cgroup v1 hierarchy")
def test_a_real_quota_is_seen() -> None:
    group = CPU_GROUP / f"segmodels-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("150000")
        script = (
            f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "from segmodels.runtime import available_cores; print(available_cores())"
        )
        assert run(script) == "1"
    finally:
        group.rmdir()


def run(script: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean | environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_an_affinity_of_one_core_gives_one_thread_also_where_torch_is_there_already() -> None:
    for order in ("", "import torch; "):
        script = (
            "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            f"{order}from segmodels.runtime import set_up_process; set_up_process()\n"
            "import torch; print(torch.get_num_threads())"
        )
        assert run(script) == "1", order


def test_the_environment_is_believed() -> None:
    script = (
        "import os; from segmodels.runtime import set_up_process; set_up_process()\n"
        "import torch; print(torch.get_num_threads(), os.environ.get('GOMP_SPINCOUNT'))"
    )
    assert run(script, OMP_NUM_THREADS="1") == f"1 {SPINS}"
    assert run(script, OMP_NUM_THREADS="1", GOMP_SPINCOUNT="7") == "1 7"
    assert run(script, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE") == "1 None"


TURNS = """
import sys, time
from pathlib import Path
from segmodels.runtime import turn
log, threads = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(20):
    with turn(threads=threads):
        began = time.monotonic()
        time.sleep(0.01)
        with turn(threads=threads):  # a prediction within a step
            pass
        ended = time.monotonic()
    with log.open("a") as file:
        file.write(f"{began} {ended}\\n")
"""


def turns(tmp_path: Path, threads: int) -> list[list[tuple[float, float]]]:
    """When each of two processes held its cores."""
    logs = [tmp_path / name for name in "ab"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    workers = [subprocess.Popen([sys.executable, "-c", TURNS, str(log), str(threads)], env=environment) for log in logs]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    return [[tuple(map(float, line.split())) for line in log.read_text().splitlines()] for log in logs]  # type: ignore[misc]


def overlapping(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> int:
    return sum(a < d and c < b for a, b in one for c, d in other)


def test_two_processes_that_need_all_cores_take_turns(tmp_path: Path) -> None:
    one, other = turns(tmp_path, threads=available_cores())
    assert overlapping(one, other) == 0
    # Neither waits until the other has done all: while both are there, the turns alternate.
    order = sorted([(began, "a") for began, _ in one] + [(began, "b") for began, _ in other])
    shared = [name for began, name in order if max(one[0][0], other[0][0]) <= began <= min(one[-1][0], other[-1][0])]
    assert sum(x == y for x, y in itertools.pairwise(shared)) <= len(shared) // 4 + 1


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_where_there_are_cores_for_both_nobody_waits(tmp_path: Path) -> None:
    one, other = turns(tmp_path, threads=1)
    if one[0][0] < other[-1][1] and other[0][0] < one[-1][1]:  # both were there at once
        assert overlapping(one, other) > 0


def test_one_that_was_stopped_or_killed_while_it_held_the_cores_holds_nobody_up(tmp_path: Path) -> None:
    hold = (
        "import time; from segmodels.runtime import turn\n"
        "with turn(threads=99): print('holds', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    holder = subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
    waiter = [sys.executable, "-c", "from segmodels.runtime import turn\nwith turn(threads=1): print('went on')"]
    try:
        waiting = subprocess.Popen(waiter, env=environment, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
        holder.send_signal(signal.SIGSTOP)
        assert waiting.communicate(timeout=30)[0] == "went on\n"
        holder.send_signal(signal.SIGCONT)
        holder.kill()
        holder.wait()
        assert subprocess.run(waiter, env=environment, capture_output=True, timeout=30).stdout == b"went on\n"
    finally:
        holder.kill()
        holder.wait()


def test_processes_that_train_together_wait_for_nobody_who_holds_the_cores(tmp_path: Path) -> None:
    """Each waits for the others within a step: one that waited for its turn besides would hold all of them up."""
    hold = (
        "import time; from segmodels.runtime import turn\n"
        "with turn(threads=99): print('holds', flush=True); time.sleep(60)"
    )
    worker = (
        "import os; from segmodels.training import launch; from segmodels.runtime import turn\n"
        "os.environ[launch.WORKER] = str(os.getpid()); assert launch.is_worker()\n"
        "with turn(threads=1): print('went on')"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    holder = subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
        done = subprocess.run(
            [sys.executable, "-c", worker], env=environment, capture_output=True, text=True, timeout=50
        )
        assert done.stdout == "went on\n", done.stderr
    finally:
        holder.kill()
        holder.wait()
