"""What the settings of a process gain: `python benchmarks/process.py`.

Python's and glibc's ways beside those of `segmodels.runtime`, each in processes of their own that take turns: to import
what trains and end; a training step (U-Net of width 16, four images of 240x320); a prediction (the same network, one
image of 360x480). "Held" is what the process has at most beyond its imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import _common as common
import numpy as np
import torch
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from segmodels.inference.predictor import channels_last, fast_precision
from segmodels.runtime import keep_freed_memory

TRAINS = "import segmodels.training.fit"
OURS = "from segmodels.runtime import set_up_process; set_up_process(); "


def imported(ours: bool) -> float:
    """Milliseconds of a process that imports what trains, and ends."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", OURS * ours + TRAINS], check=True)
    return 1000 * (time.perf_counter() - start)


def measured(work: str, kept: bool, steps: int) -> tuple[float, float]:
    """Median milliseconds of a piece of work and the GiB that the process holds at most; for a process of its own."""
    if kept and not keep_freed_memory():
        raise SystemExit(
            "error: this C library is no glibc, or MALLOC_… says how to allocate; there is nothing to compare"
        )
    torch.manual_seed(0)
    model = channels_last(create_model("unet", 11, width=16, batch_norm=True))
    dtype = torch.bfloat16 if fast_precision("cpu") == "bf16" else torch.float32
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(4, 3, 240, 320).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 11, (4, 240, 320))
    image = torch.randn(1, 3, 360, 480).to(memory_format=torch.channels_last)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            logits = model(batch)["out"]
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    @torch.inference_mode()
    def predict() -> None:
        with torch.autocast("cpu", dtype):
            logits = model(image)["out"]
        logits.float().softmax(1).amax(1)

    model.train(work == "training step")
    run = train if work == "training step" else predict
    times = []

    def repeat() -> None:
        for index in range(steps + 3):
            start = time.perf_counter()
            run()
            if index >= 3:
                times.append(time.perf_counter() - start)

    held = common.peak_gib(repeat, "cpu")
    return 1000 * statistics.median(times), held


def main() -> None:
    """Prints a line for each piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    common.header("torch")
    print("| | as they are, ms | ours, ms | ratio | held, GiB | held, GiB |\n|---|---:|---:|---:|---:|---:|")
    for ours in (False, True):
        imported(ours)
    starts = [(imported(False), imported(True)) for _ in range(args.repeats)]
    plain, tuned = np.median(starts, axis=0)
    print(f"| imports and end | {plain:.0f} | {tuned:.0f} | {tuned / plain:.2f} | | |", flush=True)
    for work in ("training step", "prediction"):
        runs: dict[bool, list[tuple[float, float]]] = {kept: [] for kept in (False, True)}
        for _ in range(args.repeats):
            for kept, done in runs.items():
                done.append(common.apart(measured, work, kept, args.steps))
        (plain, plain_gib), (tuned, tuned_gib) = (np.median(done, axis=0) for done in runs.values())
        row = f"{plain:.0f} | {tuned:.0f} | {tuned / plain:.2f} | {plain_gib:.2f} | {tuned_gib:.2f}"
        print(f"| {work} | {row} |", flush=True)


if __name__ == "__main__":
    main()
