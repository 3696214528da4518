"""What every benchmark prints first, and how it takes turns."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def header(*packages: str) -> None:
    """The machine, the day, the versions and the command, as a Markdown list."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"- machine: {cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
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
