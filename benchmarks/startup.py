"""How soon the command lines answer, and what they import: `python benchmarks/startup.py`.

Each `--help` runs in a process of its own, beside an empty Python and DVC's. Ends with an error when one of
ours imports a heavy package.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

import _common as common

STEPS = ("download", "validate", "train", "evaluate", "register", "report")
HEAVY = {"torch", "torchvision", "torchmetrics", "lightning", "timm", "mlflow", "great_expectations", "pandas",
         "pyarrow", "boto3", "kfp", "dvc", "matplotlib", "scipy", "onnx", "onnxruntime", "av", "numpy"}  # fmt: skip
SEGMODELS = ("-c", "import sys; from segmodels.cli import main; sys.exit(main())")
OURS: dict[str, tuple[str, ...]] = {
    "python -m components": ("-m", "components", "--help"),
    **{f"python -m components {step}": ("-m", "components", step, "--help") for step in STEPS},
    "segmodels": (*SEGMODELS, "--help"),
    "segmodels predict": (*SEGMODELS, "predict", "--help"),
    "python -m pipeline": ("-m", "pipeline", "--help"),
}
PEERS: dict[str, tuple[str, ...]] = {
    "an empty Python": ("-c", "pass"),
    "dvc": ("-m", "dvc", "--help"),
}


def imported(command: tuple[str, ...]) -> list[str]:
    """The top-level packages that a command imports."""
    run = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    names = (line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:"))
    return sorted({name.partition(".")[0] for name in names})


def main() -> int:
    """Prints milliseconds and heavy imports; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    common.header("typer", "dvc")

    def start(command: tuple[str, ...]) -> None:
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)

    times = common.interleaved({name: partial(start, command) for name, command in (OURS | PEERS).items()}, repeats)
    guilty = []
    print("| `--help` of | ms | packages | heavy ones |\n|---|---|---|---|")
    for name, seconds in common.medians(times).items():
        packages = imported((OURS | PEERS)[name])
        heavy = sorted(HEAVY.intersection(packages))
        if heavy and name in OURS:
            guilty.append(f"{name} imports {', '.join(heavy)}")
        print(f"| {name} | {1000 * seconds:.0f} | {len(packages)} | {', '.join(heavy) or 'none'} |", flush=True)
    for sentence in guilty:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if guilty else 0


if __name__ == "__main__":
    sys.exit(main())
