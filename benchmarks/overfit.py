"""Whether every architecture can learn: eight CamVid images by heart, from scratch: `python benchmarks/overfit.py`.

    python benchmarks/overfit.py [--data FOLDER] [--only NAME …] [--size 120 160] [--small] [--steps 1000] [--out CSV]

All eight images are one batch, without augmentation and without dropout where a keyword turns it off; AdamW without
weight decay. An architecture is done when, in evaluation mode, more than 95 % of the pixels that are not void have
their class. Batch norm's running statistics are computed anew before each evaluation: one pass of the eight images in
evaluation mode, in which batch norms alone take the batch's statistics and keep them.

Coarse logits cannot draw every pole, however good the network, and of labels at an eighth of the image's size, from
which some papers have their networks learn, nothing finer can be known. Such architectures see the images at a multiple
of the size (`ENLARGED`).

Every result goes to a CSV file at once, and a run goes on with what is missing there. Ends with an error that names
the architectures that did not get there.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import torch
from torch import Tensor, nn

from segmodels.artifacts.model_folder import IMAGENET_MEAN, IMAGENET_STD
from segmodels.catalog.registry import create_model, list_models, model_info
from segmodels.data.augment import normalize
from segmodels.data.folder import IGNORE_INDEX, INFO_FILE, DatasetInfo
from segmodels.data.formats import convert
from segmodels.data.loading import Decoded
from segmodels.inference.predictor import channels_last

IMAGES = 8
EVALUATE_EVERY, WARMUP = 10, 20
# How many times as large the images are where logits, or the labels that they learn from, are coarse. At 120x160 free
# logits at a stride of 16 reach 94.2 % of the pixels, at 32 89.3 %, and at 8 by labels at 4 and at 8 91.2 and 85.0 %.
ENLARGED = {
    "fcn16s": 2,
    "setr_naive": 2,
    "deeplabv3": 2,
    "fcn32s": 3,
    "icnet": 3,
    "deeplabv1": 6,
    "deeplabv2": 6,
    "layer_cascade": 6,
}

# VGG-16 without batch norm; from scratch it falls silent at higher rates than this.
VGG = ("crfasrnn", "deeplabv1", "dilation", "fcn8s", "fcn16s", "fcn32s", "parsenet", "spn")
# Peak learning rate by the beginning of the name, the longest that fits.
RATES = {
    **dict.fromkeys(VGG, 1e-4),
    "unet": 2e-4,
    "setr": 1e-4,
    "segformer": 3e-4,
    "enet": 3e-3,
    "segnet_basic": 2e-3,
    "bayesian_segnet_basic": 2e-3,
    "": 1e-3,
}
# The same where networks are small: at a quarter of its width VGG-16 does not fall silent, nor does a small ViT.
SMALL_RATES = RATES | dict.fromkeys(VGG, 1e-3) | {"setr": 3e-4}
# Regularisation, which is turned off.
OFF = ("dropout", "drop_path")
# Other strides in testing than in training are no property of what was learnt here.
CHANGES: dict[str, dict[str, Any]] = {"deeplabv3": {"test_output_stride": None}}
# A quarter to an eighth of the computation, by the beginning of the name; others are small as they are.
SMALL: dict[str, dict[str, Any]] = {
    "bayesian_segnet_basic": {"width": 32},
    "bayesian_segnet": {"width": 0.25},
    "segnet_basic": {"width": 32},
    "segnet": {"width": 0.25},
    **{name: {"width": 0.25} for name in ("crfasrnn", "deconvnet", "deeplabv1", "dilation", "parsenet")},
    **{name: {"width": 0.25} for name in ("fcn8s", "fcn16s", "fcn32s")},
    "spn": {"base_options": {"width": 0.25}, "width": 0.25},
    "deeplabv2": {"backbone": "resnet18"},
    "deeplabv3plus": {"backbone": "resnet18", "channels": 128},
    "deeplabv3": {"backbone": "resnet18", "channels": 128, "multi_grid": None},
    "fcn": {"backbone": "resnet18"},
    "fpn": {"backbone": "resnet18", "channels": 128},
    "pointrend": {"backbone": "resnet18", "channels": 128},
    "pspnet": {"backbone": "resnet18", "channels": 128, "deep_stem": False},
    "refinenet": {"backbone": "resnet18", "channels": 64, "deep_channels": 128},
    "icnet": {"width": 0.5},
    "layer_cascade": {"width": 0.25, "modules": (2, 3, 2)},
    "fcdensenet": {"growth_rate": 8, "first": 24},
    "segformer_b0": {},
    "segformer": {"widths": (32, 64, 160, 256), "channels": 256},
    "setr": {"backbone": "vit_small_patch16_224", "channels": 64},
    "unet": {"width": 16},
    "": {},
}


@dataclass(frozen=True)
class Result:
    """How one architecture fared; its fields are the columns of the CSV file.

    Attributes:
        architecture: Name in the registry.
        size: HxW of the images.
        width: `full` or `small`.
        rate: Peak learning rate.
        steps: Optimiser steps.
        seconds: Of training, evaluations among them.
        accuracy: Last pixel accuracy in evaluation mode, in 0..1.
        note: Why it ended early; empty where it did not.
        machine: Where.
    """

    architecture: str
    size: str
    width: str
    rate: float
    steps: int
    seconds: float
    accuracy: float
    note: str
    machine: str


def main() -> int:
    """Prints a line for each architecture, then the table; returns the exit status."""
    args = _arguments()
    names = [model_info(name).name for name in args.only] if args.only else list_models()
    common.header("torch", "timm")
    results, before = {}, read(args.out)
    for name in names:
        factor = ENLARGED.get(name, 1)
        size = (factor * args.size[0], factor * args.size[1])
        known = before.get((name, "x".join(map(str, size)), _width(args)))
        if known is None or not (known.accuracy > args.accuracy or known.steps >= args.steps):
            known = learn(name, *eight(args.data, args.work, size), args)
            append(args.out, known)
            print(f"{name}: {100 * known.accuracy:.1f} % after {known.steps} steps, {known.seconds:.0f} s", flush=True)
        results[name] = known
    print_table(list(results.values()), args.accuracy)
    short = [name for name in names if not results[name].accuracy > args.accuracy]
    if short:
        print(f"error: not learnt within {args.steps} steps: {', '.join(short)}", file=sys.stderr)
    return 1 if short else 0


@cache
def eight(data: Path, work: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Images `[8, 3, H, W]`, labels `[8, H, W]`, evenly spread over the training split, and the number of classes."""
    if not (data / INFO_FILE).is_file():
        if not work.exists():
            convert(data, out=work)
        data = work
    decoded = Decoded(data, "train", size=size)
    chosen = np.linspace(0, len(decoded) - 1, IMAGES).round().astype(int)
    samples = [decoded[int(i)] for i in chosen]
    images, labels = (torch.stack([sample[name] for sample in samples]) for name in ("image", "labels"))
    pixels = normalize(images, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    classes = DatasetInfo.read(data).num_classes
    return pixels.contiguous(memory_format=torch.channels_last), labels.long(), classes


def learn(name: str, images: Tensor, labels: Tensor, classes: int, args: argparse.Namespace) -> Result:
    """Trains an architecture until it knows the images, or the steps are over."""
    rate = chosen(SMALL_RATES if args.small else RATES, name)
    images, labels = images.to(args.device), labels.to(args.device)
    torch.manual_seed(0)
    model: Any = channels_last(create_model(name, classes, **options(name, args.small)).to(images.device))
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, rate, weight_decay=0.0)
    cast = torch.autocast(args.device, torch.bfloat16, enabled=common.bf16_is_fast(args.device))
    accuracy, step, note, started = 0.0, 0, "", time.perf_counter()
    while step < args.steps and not accuracy > args.accuracy and not note:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARMUP)
        model.train()
        optimizer.zero_grad()
        try:
            with cast:
                outputs = model(images)
            loss = model.loss(outputs, {"labels": labels})
            loss.backward()
        except torch.OutOfMemoryError:
            note = "out of memory"
            break
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        step += 1
        if step % EVALUATE_EVERY == 0 or step == args.steps:
            note = "" if math.isfinite(loss.item()) else "diverged"
            with cast:
                accuracy = evaluate(model, images, labels)
            if args.verbose:
                print(f"  {name} step {step}: loss {loss.item():.3f}, {100 * accuracy:.1f} %", flush=True)
    seconds = time.perf_counter() - started
    size, width = "x".join(map(str, images.shape[-2:])), _width(args)
    machine = ", ".join([*common.gpus(), common.cpu()])
    return Result(name, size, width, rate, step, round(seconds, 1), round(accuracy, 4), note, machine)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Pixel accuracy in evaluation mode, with running statistics of these images."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average of what is seen
            norm.train()
        model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    # One by one: what is measured does not depend on the neighbours.
    predicted = torch.cat([model(image[None])["out"].argmax(1) for image in images])
    return _accuracy(predicted, labels)


def options(name: str, small: bool) -> dict[str, Any]:
    """The keywords with which an architecture is built."""
    off = {key: 0.0 for key in OFF if key in model_info(name).options}
    return {**off, **CHANGES.get(name, {}), **(chosen(SMALL, name) if small else {})}


def chosen(table: dict[str, Any], name: str) -> Any:
    """The entry of the name, or of the longest beginning of it."""
    return table[max((key for key in table if name.startswith(key)), key=len)]


def read(file: Path) -> dict[tuple[str, str, str], Result]:
    """What earlier runs wrote, by architecture, size and width; the last counts."""
    if not file.exists():
        return {}
    kinds: dict[str, Any] = {"rate": float, "steps": int, "seconds": float, "accuracy": float}
    with open(file, newline="") as lines:
        rows = [Result(**{key: kinds.get(key, str)(row[key]) for key in row}) for row in csv.DictReader(lines)]
    return {(row.architecture, row.size, row.width): row for row in rows}


def append(file: Path, result: Result) -> None:
    """Adds a line to the CSV file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.exists()
    with open(file, "a", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Result)], lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerow(asdict(result))


def print_table(results: list[Result], wanted: float) -> None:
    print("\n| architecture | images | lr | steps | seconds | pixel accuracy | |\n|---|---:|---:|---:|---:|---:|---|")
    for r in results:
        verdict = "learnt" if r.accuracy > wanted else f"**not learnt** {r.note}".strip()
        print(f"| {r.architecture} | {r.size} | {r.rate:g} | {r.steps} | {r.seconds:.0f}", end="")
        print(f" | {100 * r.accuracy:.2f} | {verdict} |")


def _width(args: argparse.Namespace) -> str:
    return "small" if args.small else "full"


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    counted = labels != IGNORE_INDEX
    return (predicted == labels)[counted].float().mean().item()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid, or a dataset folder")
    parser.add_argument("--work", type=Path, default=Path(".cache/overfit/camvid"), help="where it is converted to")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures; default all")
    parser.add_argument("--size", type=int, nargs=2, default=[120, 160], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--small", action="store_true", help="narrower networks and smaller encoders")
    parser.add_argument("--steps", type=int, default=1000, help="at most")
    parser.add_argument("--accuracy", type=float, default=0.95)
    parser.add_argument("--out", type=Path, default=Path(".cache/overfit/results.csv"), help="CSV file, added to")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--verbose", action="store_true", help="print every evaluation")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
