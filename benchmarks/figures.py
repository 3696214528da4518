"""Writes `segmodels/catalog/figures.csv`, from which `segmodels list` prints: `python benchmarks/figures.py`.

    python benchmarks/figures.py [--only NAME …] [--no-time] [--repeats 7]

Parameters and floating-point operations are counted without memory. Milliseconds are the median of one float32 image
of 360x480, on the GPU where there is one: measure on a quiet machine. The file is written after each architecture, so
an interrupted run leaves what it has.
"""

from __future__ import annotations

import argparse
import datetime
from dataclasses import replace

import _common as common
import torch

from segmodels.catalog import figures
from segmodels.catalog.registry import list_models, model_info
from segmodels.evaluation import speed


def main() -> None:
    """Prints the rows that it writes."""
    args = _arguments()
    common.header("torch", "timm")
    names = [model_info(name).name for name in args.only] if args.only else list_models()
    before = figures.read() if figures.FILE.exists() else {}
    # What is no longer registered goes.
    entries = {name: entry for name, entry in before.items() if name in list_models()}
    print("| architecture | parameters | in training | GFLOPs | ms |\n|---|---:|---:|---:|---:|")
    for name in names:
        entry = speed.figures(name)
        if args.time:
            taken = round(speed.street_milliseconds(name, repeat=args.repeats), 1)
            today = datetime.date.today().isoformat()
            entry = replace(entry, milliseconds=taken, machine=machine(), date=today)
        elif name in before:
            old = before[name]
            entry = replace(entry, milliseconds=old.milliseconds, machine=old.machine, date=old.date)
        entries[name] = entry
        figures.write(entries.values())
        counts = f"{entry.parameters:,} | {entry.parameters_training:,} | {entry.gflops:.1f}"
        print(f"| {name} | {counts} | {entry.milliseconds or ''} |", flush=True)


def machine() -> str:
    """What the milliseconds depend on besides the code."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{common.cpu()}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="update these rows and leave the others")
    parser.add_argument("--no-time", dest="time", action="store_false", help="leave the milliseconds as they are")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
