"""Two trainings on one machine at once, against one alone: with turns, and as processes that ignore each other.

    python benchmarks/two_at_once.py [--model enet] [--epochs 20] [--repeats 2]

Each training is a process of its own, as a user starts it; the seconds are those of its loop. Without turns the two
share no folder for their locks, so that each takes all cores whenever it wants.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import _common as common
import numpy as np
from PIL import Image

SIZE = (96, 128)


def write_photos(root: Path, count: int = 24) -> Path:
    """A folder of images and labels."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for index in range(count):
        label = np.zeros(SIZE, np.uint8)
        label[index : 40 + index, 30:90], label[70:] = 1, 2
        image = (label[..., None] * 60 + rng.integers(0, 60, (*SIZE, 3))).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{index:02d}.jpg")
        Image.fromarray(label).save(root / "labels" / f"{index:02d}.png")
    (root / "classes.txt").write_text("ground\ncar\nroad\n")
    return root


def train(photos: Path, model: str, epochs: int, locks: list[Path]) -> list[float]:
    """Seconds of trainings that are started together, one for each folder of locks."""
    with tempfile.TemporaryDirectory() as place:
        running = []
        for number, folder in enumerate(locks):
            out = Path(place, f"m{number}")
            command = [sys.executable, "-m", "segmodels.cli", "train", str(photos), "--model", model, "--out", str(out)]
            command += ["--epochs", str(epochs), "--batch-size", "4", "-s", "channels_last=true"]
            environment = os.environ | {"TMPDIR": str(folder)}
            running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        if any(process.wait() for process in running):
            raise SystemExit("a training failed")
        return [json.loads(Path(place, f"m{n}", "speed.json").read_text())["seconds"] for n in range(len(locks))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="enet")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    common.header("torch")
    with tempfile.TemporaryDirectory() as place:
        photos = write_photos(Path(place, "photos"))
        folders = [Path(place, name) for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        a, b = folders
        cases = {"alone": [a], "two at once": [a, a], "two without turns": [a, b]}
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.repeats):
            for name, locks in cases.items():
                seconds[name] += train(photos, args.model, args.epochs, locks)
    alone = statistics.median(seconds["alone"])
    print(f"\n{args.model}, {args.epochs} epochs of 17 images, batch 4\n")
    print("| | seconds each | times as long as alone |\n| --- | ---: | ---: |")
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.1f} | {statistics.median(found) / alone:.2f} |")


if __name__ == "__main__":
    main()
