"""Every architecture by its name in `params.yaml`, through DVC and Kubeflow: `python benchmarks/every_name.py`.

    python benchmarks/every_name.py [--full] [--only NAME …] [--ways dvc|kubeflow …] [--keep FOLDER]

A clone whose `params.yaml` names all architectures and a dozen tiny images of `streets` is run both ways, and each
model's weights and metrics are compared byte by byte. Networks are as small as in the tests of every architecture; with
`--full` nothing but the name is given, which takes an hour and tens of GB, less at a time with `--only`.
Ends with an error that names the models that are missing or differ.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common
import yaml

from segmodels.catalog.registry import list_models, model_info

ROOT = Path(__file__).resolve().parents[1]
# Way -> the command and where it leaves its outputs.
WAYS = {
    "dvc": (["dvc", "repro"], "outputs"),
    "kubeflow": ([sys.executable, "-m", "pipeline", "run"], "outputs-local/latest/outputs"),
}
RESULTS = ("models/{}/model.safetensors", "evaluation/{}/metrics.json")


def main() -> int:
    """Prints what each way took, then whether all models are there and the same; returns the exit status."""
    args = _arguments()
    common.header("torch", "dvc", "kfp")
    with tempfile.TemporaryDirectory(prefix="segmodels-names-") as folder:
        clone = (args.keep or Path(folder)) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / "params.yaml").write_text(yaml.safe_dump(settings(args.only or list_models(), args.full)))
        print(f"\n| {len(args.only or list_models())} architectures by | seconds |\n|---|---:|")
        for way in args.ways:
            print(f"| {' '.join(WAYS[way][0][-3:])} | {run(clone, WAYS[way][0]):.0f} |", flush=True)
        failures = compare(clone, args.only or list_models(), args.ways)
    for sentence in failures:
        print(f"error: {sentence}", file=sys.stderr)
    if not failures:
        print("\nevery model is there" + (", byte for byte the same both ways" if len(args.ways) == 2 else ""))
    return 1 if failures else 0


def settings(names: list[str], full: bool) -> dict[str, Any]:
    """The shipped `params.yaml` with these architectures, one epoch and images that take no time."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"] = {name: {} if full else {"options": _plain(model_info(name).small)} for name in names}
    params["data"]["streets"] = {"train": 8, "val": 2, "test": 2, "height": 64, "width": 96}
    params["train"] |= {"epochs": 1, "batch_size": 4}
    params["register"] |= {"rules": {"miou": {"floor": 0.0}}}
    return params


def _plain(value: Any) -> Any:
    """Mappings and lists for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def run(clone: Path, command: list[str]) -> float:
    """Seconds that a command takes in a clone; ends the program with its last lines where it fails."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    started = time.monotonic()
    done = subprocess.run(command, cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return time.monotonic() - started


def compare(clone: Path, names: list[str], ways: list[str]) -> list[str]:
    """A sentence for each result that is missing, or is not the same both ways."""
    failures = []
    for result in (pattern.format(name) for name in names for pattern in RESULTS):
        files = [clone / WAYS[way][1] / result for way in ways]
        missing = [str(file.relative_to(clone)) for file in files if not file.is_file()]
        if missing:
            failures.append(f"missing: {', '.join(missing)}")
        elif len({file.read_bytes() for file in files}) > 1:
            failures.append(f"{result} differs")
    return failures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures; default all")
    parser.add_argument("--full", action="store_true", help="nothing but names: each paper's own configuration")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="a folder for the clone, which is kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
