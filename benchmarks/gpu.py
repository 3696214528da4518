"""Training speed of every architecture on a GPU: `python benchmarks/gpu.py`.

    python benchmarks/gpu.py [--only NAME …] [--batch 8] [--steps 10] [--no-compile] [--out CSV]

Whole training steps at 360x480 (forward, loss, backward, AdamW) in float32 as torch runs it by default (convolutions
in TF32), bf16, bf16 with channels-last, and that compiled; with the peak memory that torch allocated. Needs nothing
but the library's own dependencies for training: torch, torchvision, timm, lightning, torchmetrics, safetensors.

Every figure goes to a CSV file at once, and a run goes on with what is missing there; compiling takes minutes for some
architectures, so an interrupted run is nothing unusual. Without a GPU it measures on the CPU, for trying it out.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import _common as common
import torch

from segmodels.catalog.registry import create_model, list_models, model_info
from segmodels.inference.predictor import channels_last

CLASSES = 11
# Name -> bf16, channels-last, compiled.
VARIANTS = {
    "float32": (False, False, False),
    "bf16": (True, False, False),
    "bf16 channels-last": (True, True, False),
    "bf16 channels-last compiled": (True, True, True),
}
COLUMNS = ("architecture", "variant", "batch", "size", "images_per_second", "gib", "note", "device")


def main() -> None:
    """Prints a line for each figure, then the table of all that the file has for this device, batch and size."""
    args = _arguments()
    names = [model_info(name).name for name in args.only] if args.only else list_models()
    variants = [name for name, (_, _, compiled) in VARIANTS.items() if args.compile or not compiled]
    torch.backends.cudnn.benchmark = True
    common.header("torch", "torchvision", "timm")
    of = {"batch": str(args.batch), "size": f"{args.size[0]}x{args.size[1]}", "device": (common.gpus() or ["cpu"])[0]}
    known = {key(row): row for row in read(args.out) if of.items() <= row.items()}
    for name in names:
        for variant in variants:
            if (name, variant) in known:
                continue
            row = {"architecture": name, "variant": variant, **of, **measured(name, variant, args)}
            append(args.out, row)
            known[name, variant] = row
            print(f"{name}, {variant}: {cell(row)}", flush=True)
    print(f"\n{of['device']}, batch {args.batch}, {of['size']}: images a second (peak GiB)\n")
    print(f"| architecture | {' | '.join(variants)} |\n|---|{'---:|' * len(variants)}")
    for name in names:
        print(f"| {name} | {' | '.join(cell(known[name, variant]) for variant in variants)} |")


def measured(name: str, variant: str, args: argparse.Namespace) -> dict[str, str]:
    """Images a second and peak memory, or why there are none; what went wrong costs one figure, not the run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        rate = images_per_second(name, variant, args, device)
    except torch.OutOfMemoryError:
        return {"images_per_second": "", "gib": "", "note": "out of memory"}
    except Exception as error:
        if not VARIANTS[variant][2]:
            raise
        # The compiler's errors run over pages; their kind tells what to look for.
        return {"images_per_second": "", "gib": "", "note": f"does not compile: {type(error).__name__}"}
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"images_per_second": f"{rate:.2f}", "gib": f"{memory:.2f}" if memory else "", "note": ""}


def images_per_second(name: str, variant: str, args: argparse.Namespace, device: str) -> float:
    """Median over the steps after three of warm-up."""
    bf16, last, compiled = VARIANTS[variant]
    torch.manual_seed(0)
    model: Any = create_model(name, CLASSES).to(device).train()
    images = torch.randn(args.batch, 3, *args.size, device=device)
    if last:
        model, images = channels_last(model), images.contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (args.batch, *args.size), device=device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    forward = torch.compile(model) if compiled else model
    times = []
    for step in range(args.steps + 3):
        common.synchronize(device)
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            outputs = forward(images)
        model.loss(outputs, {"labels": target}).backward()
        optimizer.step()
        common.synchronize(device)
        if step >= 3:
            times.append(time.perf_counter() - started)
    return args.batch / statistics.median(times)


def key(row: dict[str, str]) -> tuple[str, str]:
    return row["architecture"], row["variant"]


def cell(row: dict[str, str]) -> str:
    """`123.4 (5.6)`, or what kept it from being measured."""
    if row["note"]:
        return row["note"]
    return f"{float(row['images_per_second']):.1f}" + (f" ({float(row['gib']):.1f})" if row["gib"] else "")


def read(file: Path) -> list[dict[str, str]]:
    """What earlier runs wrote."""
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def append(file: Path, row: dict[str, str]) -> None:
    """Adds a line to the CSV file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = file.exists()
    with open(file, "a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerow(row)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures; default all")
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--out", type=Path, default=Path(".cache/gpu/speed.csv"), help="CSV file, added to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
