"""`python benchmarks/validate.py 1000 10000`: seconds and memory of a validation, the first time and the second.

Each size is a dataset of small noisy pictures, written to a temporary folder; each run is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _common as common
import numpy as np
from PIL import Image

from segmodels.data.folder import ClassInfo
from segmodels.data.writer import DatasetWriter
from segmodels.runtime import available_cores

CLASSES = tuple(ClassInfo(f"class {i}", (20 * i, 255 - 20 * i, 90)) for i in range(11))
ONCE = """
import re, sys, time
from pathlib import Path
from segmodels.data.validation.checks import check
start = time.perf_counter()
said = check(Path(sys.argv[1]))
seconds = time.perf_counter() - start
# Not getrusage, which counts the process that this one was started by, too.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(seconds, int(peak) / 1024, len(said))
"""


def write(root: Path, count: int, height: int, width: int) -> None:
    """Write `count` samples, seven of ten for training."""

    def sample(index: int) -> tuple[str, str, np.ndarray, np.ndarray]:
        draw = np.random.default_rng(index)
        coarse = draw.integers(0, 256, (9, 12, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        image = image ^ draw.integers(0, 8, image.shape, np.uint8)
        label = Image.fromarray(draw.integers(0, len(CLASSES), (5, 6), np.uint8))
        split = ("train", "val", "test")[(index % 10 > 6) + (index % 10 > 8)]
        return split, f"{index:06}", image, np.asarray(label.resize((width, height), Image.Resampling.NEAREST))

    with (
        DatasetWriter(root, "made", CLASSES, source={"path": "made here"}) as writer,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for start in range(0, count, 1000):
            for made in pool.map(sample, range(start, min(count, start + 1000))):
                writer.add(*made)


def main() -> None:
    """Print a table with a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="+", help="samples of a dataset")
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    given = parser.parse_args()
    common.header("numpy", "pillow")
    print("| samples | first run, s | second run, s | peak memory, MB |\n| --- | --- | --- | --- |")
    for count in given.counts:
        with tempfile.TemporaryDirectory(prefix="segmodels-") as work:
            write(Path(work, "data"), count, given.height, given.width)
            time.sleep(3)  # what was just written is not kept
            environment = os.environ | {"SEGMODELS_CACHE": str(Path(work, "cache"))}
            command = [sys.executable, "-c", ONCE, str(Path(work, "data"))]
            runs = [
                subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
                for _ in range(2)
            ]
            seconds, memory = [float(run[0]) for run in runs], max(float(run[1]) for run in runs)
            print(f"| {count:,} | {seconds[0]:.1f} | {seconds[1]:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
