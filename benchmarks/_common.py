"""What every benchmark prints first, how it takes turns, and how it measures time and memory."""

from __future__ import annotations

import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from segmodels.runtime import available_cores

T = TypeVar("T")


def header(*packages: str) -> None:
    """The machine, the day, the versions and the command, as a Markdown list."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"- machine: {', '.join([*gpus(), cpu()])}, {available_cores()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"- date: {datetime.date.today().isoformat()}")
    print(f"- versions: Python {platform.python_version()}{', ' * bool(versions)}{versions}")
    print(f"- command: python {shlex.join(sys.argv)}\n", flush=True)


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """The GPU's name where there is one; none where the benchmark does without torch."""
    if "torch" not in sys.modules:
        return []
    import torch

    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else []


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work; they take turns, so that what else runs on the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    """Waits until the GPU has done what it was given; nothing on a CPU."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def bf16_is_fast(device: str) -> bool:
    """Whether training's own choice of precision on this device would be bf16."""
    from segmodels.inference.predictor import fast_precision

    return fast_precision(device) == "bf16"


def peak_gib(work: Callable[[], object], device: str) -> float:
    """GiB that a piece of work holds at most, beyond what was held before it.

    On a GPU what torch allocated; on a CPU resident memory, which only grows: measure in a process of its own.
    """
    import torch

    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**30


def apart(work: Callable[..., T], *args: object) -> T:
    """The result of a function of a module in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *args).result()


def _status(field: str) -> int:
    """A line of Linux's table of this process, in bytes. (getrusage's peak would be the parent's, too.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}; memory on a CPU is measured on Linux alone")
