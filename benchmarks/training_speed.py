"""Training steps a second of each architecture: fp32, bf16 and compiled, with the memory that they take.

    python benchmarks/training_speed.py [--models enet unet …] [--size 360 480] [--batch 8] [--steps 10]

Needs torch and segmodels alone. On a GPU the memory is the peak that torch allocated; on a CPU it is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time

import _common as common
import torch

from segmodels.inference import channels_last
from segmodels.registry import create_model, list_models

CLASSES = 11


def main() -> None:
    args = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common.header("torch")
    print(f"images a second, batch {args.batch}, {args.size[0]}x{args.size[1]}, median of {args.steps} steps")
    variants = {"fp32": (torch.float32, False), "bf16": (torch.bfloat16, False)}
    if args.compile:
        variants["bf16 compiled"] = (torch.bfloat16, True)
    print(f"{'architecture':24}" + "".join(f"{name:>24}" for name in variants))
    for name in args.models or list_models():
        cells = []
        for dtype, compiled in variants.values():
            try:
                rate, memory = measure(name, device, dtype, compiled, args)
                cells.append(f"{rate:.1f}" + (f" ({memory:.1f} GiB)" if device.type == "cuda" else ""))
            except torch.OutOfMemoryError:
                cells.append("out of memory")
        print(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def measure(
    name: str, device: torch.device, dtype: torch.dtype, compiled: bool, args: argparse.Namespace
) -> tuple[float, float]:
    """Images a second and peak memory in GiB of whole training steps: forward, loss, backward, AdamW."""
    torch.manual_seed(0)
    model = channels_last(create_model(name, CLASSES).to(device)).train()
    forward = torch.compile(model) if compiled else model
    images = torch.randn(args.batch, 3, *args.size, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (args.batch, *args.size), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for step in range(args.steps + 3):
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            outputs = forward(images)
        model.loss(outputs, target).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 3:
            times.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return args.batch / statistics.median(times), memory


def _arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=None if on_gpu else ["enet"], help="all on a GPU, ENet on a CPU")
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480] if on_gpu else [180, 240])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 3)
    parser.add_argument("--compile", action="store_true", help="also compiled; costs a minute for each architecture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
