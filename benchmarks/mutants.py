"""Mutation testing: how many small bugs the tests notice, module by module (`make mutants`).

    python benchmarks/mutants.py [MODULE …] [--work FOLDER] [--survivors]

mutmut changes one thing at a time (an operator, a number, a keyword, a condition) and runs the tests that reach it.
Each module of the list is held against its own tests alone, so that a survivor says what to write where. The table has
the share that was killed; `--survivors` prints what lived, as differences.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common as common

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "segmodels/metrics.py": ["tests/segmodels/test_metrics.py"],
    "segmodels/losses.py": ["tests/segmodels/test_losses.py"],
    "segmodels/inference.py": ["tests/segmodels/test_inference.py"],
    "segmodels/evaluation.py": ["tests/segmodels/test_evaluation.py"],
    "segmodels/per_image.py": ["tests/segmodels/test_per_image.py", "tests/segmodels/test_bootstrap.py"],
    "segmodels/bootstrap.py": ["tests/segmodels/test_bootstrap.py"],
    "segmodels/optimization.py": ["tests/segmodels/test_stages.py"],
    "segmodels/data/transforms.py": ["tests/segmodels/data/test_transforms.py"],
    "components/register/gate.py": ["tests/components/register/test_gate.py"],
    "components/lineage.py": ["tests/components/test_lineage.py"],
    "components/tracking.py": ["tests/components/test_tracking.py"],
    "components/download/archives.py": ["tests/components/download/test_archives.py"],
}
COPIED = ("components", "segmodels", "pipeline", "tests", "infra", "conf", "docs", "benchmarks")
FILES = ("pyproject.toml", "README.md", "params.yaml", "dvc.yaml", "Makefile")


def prepare(module: str, work: Path) -> None:
    """A copy of the tree with mutmut's settings for one module."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, work / name)
    package = module.split("/")[0]
    also = [name for name in (*COPIED, *FILES) if name != package]
    tests = ", ".join(f'"{test}"' for test in MODULES[module])
    with (work / "pyproject.toml").open("a") as file:
        file.write(
            f'\n[tool.mutmut]\nsource_paths = ["{package}"]\nonly_mutate = ["{module}"]\n'
            f"also_copy = {also!r}\npytest_add_cli_args_test_selection = [{tests}]\n"
        )


def mutmut(work: Path, *arguments: str) -> str:
    """What the command says."""
    # One thread: mutants are forks of a process that has loaded torch, and each has a core.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--work", type=Path, help="keep the copies there, for `mutmut show`")
    parser.add_argument("--survivors", action="store_true")
    args = parser.parse_args()
    for name in args.modules:
        if name not in MODULES:
            parser.error(f"'{name}' has no tests listed here; known are {', '.join(MODULES)}")
    common.header("mutmut", "pytest")
    print("| module | mutants | killed | survived | not reached | killed, % | minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    total, lived = [0, 0], list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        for module in args.modules or MODULES:
            work = (args.work or Path(temporary)) / module.replace("/", "-").removesuffix(".py")
            prepare(module, work)
            began = time.monotonic()
            said = mutmut(work, "run", "--max-children", str(max(1, len(os.sched_getaffinity(0)))))
            listed = re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", mutmut(work, "results", "--all", "true"), re.MULTILINE)
            if not listed:
                raise SystemExit(f"{module}: mutmut made nothing of it:\n{said[-2000:]}")
            states = [state for _, state in listed]
            unreached = states.count("no tests")
            killed = sum(state in ("killed", "timeout", "suspicious", "segfault") for state in states)
            survived = len(states) - killed - unreached
            lived += [f"{module}: {mutant}\n{mutmut(work, 'show', mutant)}" for mutant, s in listed if s == "survived"]
            total[0], total[1] = total[0] + killed, total[1] + len(states)
            share, minutes = 100 * killed / len(states), (time.monotonic() - began) / 60
            figures = (len(states), killed, survived, unreached, f"{share:.0f}", f"{minutes:.1f}")
            print(f"| {module} | {' | '.join(map(str, figures))} |", flush=True)
    print(f"| all | {total[1]} | {total[0]} | | | {100 * total[0] / total[1]:.0f} | |")
    if args.survivors:
        print("\n" + "\n".join(lived))


if __name__ == "__main__":
    main()
