"""Compare what two commits make of the default job, byte for byte: `python benchmarks/same_bytes.py BEFORE [AFTER]`.

Each commit is checked out into a clone of its own, where `dvc repro` runs with the packages of this environment.
Weights, figures and predictions are compared; what holds times or versions is not. A training finds out by timing in
which precision and memory format it is fastest; fix both, so that a busy machine cannot choose two.

    python benchmarks/same_bytes.py HEAD~1 [HEAD] --set train.precision=32 --set +train.channels_last=true
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = (
    "outputs/models/*/model.safetensors",
    "outputs/evaluation/*/metrics.json",
    "outputs/evaluation/*/confusion.csv",
    "outputs/evaluation/*/per_class.csv",
    "outputs/evaluation/*/per_image.npz",
    "outputs/evaluation/*/predictions/*",
    "outputs/summary.json",
)


def made(revision: str, folder: Path, settings: list[str]) -> dict[str, str]:
    """Run the default job of a commit; give name -> sha256 of what is compared."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", revision], cwd=folder, check=True)
    # A clone's experiments begin with a commit of its own, for which git wants a name.
    who = {f"GIT_{role}_{what}": "same-bytes" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **who, "PATH": path, "PYTHONPATH": str(folder)}
    changed = [part for setting in settings for part in ("--set-param", setting)]
    command = ["dvc", "exp", "run", *changed] if changed else ["dvc", "repro"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    files = sorted(path for pattern in COMPARED for path in folder.glob(pattern))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> int:
    """Print each file with its hash, or with the two that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of params.yaml")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        before, after = (made(getattr(args, name), Path(work, name), args.set) for name in ("before", "after"))
    for name in sorted(before | after):
        one, other = before.get(name, "nothing"), after.get(name, "nothing")
        print(f"{one[:16]}  {name}" if one == other else f"{one[:16]} is now {other[:16]}  {name}")
    differ = sum(before.get(name) != after.get(name) for name in before | after)
    print(f"{len(before | after)} files, {differ} differ")
    return 1 if differ or not before else 0


if __name__ == "__main__":
    sys.exit(main())
