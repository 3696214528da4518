"""What the training loop and the evaluation cost beside their network: `python benchmarks/loop.py [--device cuda]`.

The network alone takes the same batch again and again: forward, loss, backward, optimiser. The loop trains on a dataset
folder, as a user's training does; its steady epochs count, the first one does not. Both have the same precision and
memory format. The evaluation is that of `segmodels evaluate`, its network's part one pass over the same images.

    python benchmarks/loop.py --data DATA --width 64 --crop 352 480 --batch 8 --device cuda
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.data.device import on_device
from segmodels.data.folder import DatasetInfo, read_image, samples
from segmodels.data.loading import EpochSampler, training_loader
from segmodels.data.streets import write_dataset
from segmodels.evaluation.evaluate import evaluate
from segmodels.inference.predictor import Predictor, channels_last
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training import loop as loops
from segmodels.training.fit import fit
from segmodels.training.state import ResumeState
from segmodels.training.trial import Choice


def alone(data: Path, settings: TrainSettings, options: dict[str, Any], architecture: str, steps: int) -> float:
    """Return images a second of the network's training steps on one batch."""
    config = ModelConfig(architecture, DatasetInfo.read(data).classes, options=options)
    with tempfile.TemporaryDirectory() as state:
        loop = loops.Loop(config, settings, data, 0, "alone", ResumeState(Path(state), ""), None, 0, None, None)
    loop.choice = Choice(bool(settings.channels_last), settings.precision, False)  # type: ignore[arg-type]
    if settings.channels_last:
        channels_last(loop.network)
    loop.fabric = loops.fabric_for(settings, loop.choice)
    loop.device = loop.fabric.device
    loop._set_up()
    batch = next(iter(training_loader(loop.train_set, EpochSampler(len(loop.train_set), 0), settings.batch_size, 0)))
    batch = on_device(batch, loop.device)
    loop.network.train()
    best = float("inf")
    for step in range(steps + 3):
        loop.batch, loop.progress = 0, None
        began = time.perf_counter()
        loop._step(batch)
        loop._update()
        if loop.device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 3:
            best = min(best, time.perf_counter() - began)
    return settings.batch_size / best


def trained(
    data: Path, out: Path, settings: TrainSettings, options: dict[str, Any], architecture: str
) -> tuple[float, float]:
    """Return images a second of the steady epochs' training steps, and of whole epochs with validation and saving."""
    passes: list[float] = []
    whole: list[float] = []
    plain = loops.Loop._train_epoch

    def timed(self: loops.Loop) -> None:
        whole.append(time.perf_counter())
        began = time.perf_counter()
        plain(self)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        passes.append(self._epoch_images / (time.perf_counter() - began))

    loops.Loop._train_epoch = timed  # type: ignore[method-assign]
    try:
        fit(data, out, architecture=architecture, settings=settings, options=options, checked=True)
    finally:
        loops.Loop._train_epoch = plain  # type: ignore[method-assign]
    images = len(samples(data, "train")) // settings.batch_size * settings.batch_size
    epochs = [images / (b - a) for a, b in itertools.pairwise(whole)][1:]
    return max(passes[1:]), max(epochs, default=float("nan"))


def main() -> None:
    """Print a table of three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="dataset folder; by default 200 frames of streets at 360x480")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(352, 480))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        data = args.data or Path(work, "streets")
        if args.data is None:
            write_dataset(data, seed=0, train=64, val=16, test=120, height=360, width=480)
        settings = TrainSettings(
            epochs=args.epochs,
            batch_size=args.batch,
            precision=args.precision,
            channels_last=True,
            accelerator="cpu" if args.device == "cpu" else "gpu",
            augment=AugmentSettings(crop=(args.crop[0], args.crop[1])),
        )
        options = {"width": args.width, "batch_norm": True} if args.architecture == "unet" else {}
        network = alone(data, settings, options, args.architecture, args.steps)
        steps, epochs = trained(data, Path(work, "model"), settings, options, args.architecture)
        began = time.perf_counter()
        quality = evaluate(Path(work, "model"), data, Path(work, "evaluation"), device=args.device)
        evaluation = time.perf_counter() - began
        predictor = Predictor(Path(work, "model"), args.device)
        images = [read_image(sample.image) for sample in samples(data, quality.split)]
        predictor.batch_maps(images[:4])
        began = time.perf_counter()
        for start in range(0, len(images), 4):
            predictor.batch_maps(images[start : start + 4]).cpu()
        passing = time.perf_counter() - began
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.architecture} on {name}, torch {torch.__version__}")
    print(f"the network alone     {network:8.1f} images/s")
    print(f"the loop's steps      {steps:8.1f} images/s, {100 * steps / network:.0f} % of it")
    print(f"whole epochs          {epochs:8.1f} images/s, with validation and saving")
    print(f"evaluation            {evaluation:8.1f} s for {len(images)} images; the network's part {passing:.1f} s")


if __name__ == "__main__":
    main()
