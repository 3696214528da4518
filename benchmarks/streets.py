"""How fast `streets` renders on one core: `python benchmarks/streets.py`.

Frames a second are given by the clock, and by the time that the core spent on them: the second does not count
what else runs on the machine.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from segmodels.data.streets import TARGETS, render
from segmodels.data.streets.common import Dice
from segmodels.data.streets.layout import make_scene
from segmodels.data.streets.render import Shot

T = TypeVar("T")

STAGES = ("scene", "geometry", "shading", "billboards", "camera")


def stage_times(index: int, height: int, width: int) -> dict[str, float]:
    """Seconds that each stage of one frame takes."""
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        times[name] = time.perf_counter() - start
        return result

    scene = timed("scene", lambda: make_scene(Dice(0, "train", index)))
    shot = Shot(scene, 0.0, height, width)
    timed("geometry", shot.see)
    timed("shading", shot.shade)
    timed("billboards", shot.cover)
    timed("camera", lambda: shot.develop(Dice(0, "train", index, 1)))
    return times


def seconds(frames: int, height: int, width: int, targets: tuple[str, ...] = ()) -> tuple[list[float], float]:
    """Seconds that each of a number of frames takes by the clock, and the core's seconds for all."""
    times = []
    core = time.process_time()
    for index in range(frames):
        start = time.perf_counter()
        render(0, "train", index, height=height, width=width, targets=targets)
        times.append(time.perf_counter() - start)
    return times, time.process_time() - core


def main() -> None:
    """Prints frames a second, and the stages' milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100)
    frames = parser.parse_args().frames
    start = time.perf_counter()
    render(0, "train", 0)
    print(f"first frame of a process (draws the sprites): {time.perf_counter() - start:.2f} s\n")
    print("| size | targets | frames a second | a core second | slowest 5 % |\n|---|---|---|---|---|")
    for height, width, targets in ((120, 160, ()), (240, 320, ()), (240, 320, TARGETS), (360, 480, ())):
        times, core = seconds(frames, height, width, targets)
        slow = statistics.quantiles(times, n=20)[-1]
        kind = "all" if targets else "none"
        clock = 1 / statistics.mean(times)
        print(f"| {height}x{width} | {kind} | {clock:.1f} | {frames / core:.1f} | {1000 * slow:.0f} ms |")
    print("\n| stage at 240x320 | ms |\n|---|---|")
    samples = [stage_times(index, 240, 320) for index in range(frames)]
    for stage in STAGES:
        print(f"| {stage} | {1000 * statistics.mean(s[stage] for s in samples):.1f} |")


if __name__ == "__main__":
    main()
