"""Mutation testing: how many small bugs the tests notice, module by module (`make mutants`, docs/mutants.md).

    python benchmarks/mutants.py [MODULE …] [--sample N] [--survivors] [--work FOLDER]

mutmut changes one thing at a time (an operator, a number, a keyword, a condition, a text) and runs the tests that reach
it. Each module of the list is held against its own tests alone, so that a survivor says what to write where.
`--survivors` lists what lived: file, line, change.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
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
    "segmodels/tasks/semantic/metrics.py": ["tests/segmodels/tasks/semantic/test_metrics.py"],
    "segmodels/tasks/semantic/losses.py": ["tests/segmodels/tasks/semantic/test_losses.py"],
    "segmodels/inference/predictor.py": [
        "tests/segmodels/inference/test_predictor.py",
        "tests/segmodels/inference/test_averaging.py",
    ],
    "segmodels/evaluation/evaluate.py": [
        "tests/segmodels/evaluation/test_evaluate.py",
        "tests/segmodels/evaluation/test_evaluation_files.py",
    ],
    "segmodels/tasks/semantic/task.py": [
        "tests/segmodels/tasks/test_per_image.py",
        "tests/segmodels/evaluation/test_evaluate.py",
        "tests/segmodels/evaluation/test_evaluation_files.py",
    ],
    "segmodels/tasks/per_image.py": [
        "tests/segmodels/tasks/test_per_image.py",
        "tests/segmodels/evaluation/test_compare.py",
    ],
    "segmodels/evaluation/compare.py": ["tests/segmodels/evaluation/test_compare.py"],
    "segmodels/training/optimizers.py": [
        "tests/segmodels/training/test_optimizers.py",
        "tests/segmodels/training/test_stages.py::test_rates_by_pattern_are_multiplied_and_biases_have_a_factor_of_their_own",
        "tests/segmodels/training/test_stages.py::test_weights_decay_and_biases_and_norms_where_it_is_said",
        "tests/segmodels/training/test_stages.py::test_rmsprop_of_lasagne_has_its_epsilon_under_the_root",
        "tests/segmodels/training/test_stages.py::test_the_rate_steps_at_its_milestones",
    ],
    "segmodels/data/augment.py": [
        "tests/segmodels/data/test_augment.py",
        "tests/segmodels/data/test_augmentation.py",
    ],
    "components/register/gate.py": ["tests/components/register/test_gate.py"],
    "components/register/champion.py": ["tests/components/register/test_champion.py"],
    "components/lineage.py": ["tests/components/test_lineage.py"],
    "components/tracking.py": ["tests/components/test_tracking_store.py", "tests/components/test_tracking.py"],
    "components/download/archives.py": [
        "tests/components/download/test_archives.py",
        "tests/components/download/test_archive_limits.py",
    ],
}
# Their fixtures do what the tests look at, and mutmut counts what a fixture reaches for the first test alone.
SHARED = (
    "tests/segmodels/evaluation/test_evaluate.py",
    "tests/segmodels/evaluation/test_evaluation_files.py",
    "tests/components/register/test_champion.py",
)
# They start processes of their own from a folder where mutmut finds no settings.
LEFT_OUT = (
    "tests/components/test_tracking.py::test_two_workers_may_create_the_store_at_once",
    "tests/components/test_tracking.py::test_importing_tracking_does_not_import_mlflow",
)
COPIED = ("components", "segmodels", "pipeline", "tests", "infra", "conf", "docs", "benchmarks")
FILES = ("pyproject.toml", "README.md", "params.yaml", "dvc.yaml", "Makefile")
# mutmut leaves decorated functions alone; with these the decoration is one call, which can as well follow the function.
DECORATORS = ("contextmanager", "property", "torch.no_grad()", "torch.inference_mode()")


def prepare(module: str, work: Path) -> None:
    """A copy of the tree with mutmut's settings for one module."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, work / name)
    (work / module).write_text(undecorated((work / module).read_text()))
    package = module.split("/")[0]
    also = [name for name in (*COPIED, *FILES) if name != package]
    tests = ", ".join(f'"{test}"' for test in MODULES[module])
    with (work / "pyproject.toml").open("a") as file:
        file.write(
            f'\n[tool.mutmut]\nsource_paths = ["{package}"]\nonly_mutate = ["{module}"]\n'
            f"also_copy = {also!r}\npytest_add_cli_args_test_selection = [{tests}]\n"
            f"pytest_add_cli_args = {[f'--deselect={name}' for name in LEFT_OUT]!r}\n"
        )


def undecorated(source: str) -> str:
    """The same module with `f = decorator(f)` on the line that ends `f`; every line keeps its number."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and [ast.unparse(d) for d in node.decorator_list][1:] == []:
            for decorator in node.decorator_list:
                called, end = ast.unparse(decorator), node.end_lineno
                # The line after a function is empty, or the file ends.
                if called in DECORATORS and end is not None and "".join(lines[end : end + 1]).strip() == "":
                    indent = " " * node.col_offset
                    lines[decorator.lineno - 1] = indent + "#"
                    lines[end : end + 1] = [f"{indent}{node.name} = {called}({node.name})"]
    return "\n".join(lines) + "\n"


def mutmut(work: Path, *arguments: str) -> str:
    """What the command says."""
    # One thread: mutants are forks of a process that has loaded torch, and each has a core.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def widen(work: Path) -> None:
    """Where a test of a `SHARED` file reaches a function, all tests of the file do."""
    path = work / "mutants" / "mutmut-stats.json"
    known = json.loads(path.read_text())
    for tests in known["tests_by_mangled_function_name"].values():
        files = {test.partition("::")[0] for test in tests}.intersection(SHARED)
        more = [test for test in known["duration_by_test"] if test.partition("::")[0] in files and test not in tests]
        tests.extend(more)
    path.write_text(json.dumps(known))


def states(work: Path) -> dict[str, str]:
    """Mutant -> what became of it."""
    listed = mutmut(work, "results", "--all", "true")
    return dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", listed, re.MULTILINE))


def run(module: str, work: Path, sample: int, children: int) -> dict[str, str]:
    """The states of a module's mutants, or of so many of them, drawn with the same seed every time."""
    prepare(module, work)
    # With a name that no mutant has mutmut makes the mutants, learns which tests reach them, and stops.
    said = mutmut(work, "run", "--max-children", str(children), "none")
    names = sorted(states(work))
    if not names or not (work / "mutants" / "mutmut-stats.json").is_file():
        raise SystemExit(f"{module}: mutmut made nothing of it:\n{said[-2000:]}")
    widen(work)
    chosen = names if not sample or sample >= len(names) else random.Random(0).sample(names, sample)
    said = mutmut(work, "run", "--max-children", str(children), *chosen)
    after = states(work)
    if any(after[name] == "not checked" for name in chosen):
        raise SystemExit(f"{module}: mutmut stopped early:\n{said[-2000:]}")
    return {name: after[name] for name in chosen}


def change(module: str, work: Path, mutant: str) -> tuple[str, str, str]:
    """Place, line before and line after of a mutant."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    with contextlib.chdir(work):
        difference = get_diff_for_mutant(mutant, path=module).splitlines()
    hunk = next(i for i, line in enumerate(difference) if line.startswith("@@"))
    gone = [line[1:] for line in difference[hunk:] if line.startswith("-")]
    came = [line[1:] for line in difference[hunk:] if line.startswith("+")]
    path = re.sub("^x[_ǁ]", "", mutant.rpartition(".")[2].partition("__mutmut_")[0]).split("ǁ")
    lines = (ROOT / module).read_text().splitlines()
    scope: ast.AST = ast.parse("\n".join(lines))
    for name in path:
        scope = next(n for n in ast.walk(scope) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)
    assert isinstance(scope, ast.FunctionDef)
    first = int(re.findall(r"\d+", difference[hunk])[0]) + next(
        i for i, line in enumerate(difference[hunk + 1 :]) if line.startswith("-")
    )
    about = scope.lineno + first - 1
    same = [i for i, line in enumerate(lines, 1) if gone and line.strip() == gone[0].strip()]
    line = min(same, key=lambda number: abs(number - about)) if same else about
    return f"{module}:{line}", " ".join(map(str.strip, gone)), " ".join(map(str.strip, came))


def only_text(before: str, after: str) -> bool:
    """Whether a mutant changed a text, as messages are, and nothing else."""
    text = r"\b[rbfu]*(\"[^\"]*\"|'[^']*')"
    return re.sub(text, "", before) == re.sub(text, "", after) or before.lower() == after.lower()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--sample", type=int, default=0, help="mutants a module, the same ones every time; 0: all")
    parser.add_argument("--work", type=Path, help="keep the copies there, for `mutmut show`")
    parser.add_argument("--survivors", action="store_true")
    args = parser.parse_args()
    for name in args.modules:
        if name not in MODULES:
            parser.error(f"'{name}' has no tests listed here; known are {', '.join(MODULES)}")
    common.header("mutmut", "pytest")
    print("| module | mutants | killed | survived | of these texts | not reached | killed, % | minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    total, lived = [0] * 5, list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        for module in args.modules or MODULES:
            work = (args.work or Path(temporary)) / module.replace("/", "-").removesuffix(".py")
            began = time.monotonic()
            found = run(module, work, args.sample, max(1, len(os.sched_getaffinity(0))))
            unreached = sum(state == "no tests" for state in found.values())
            killed = sum(state in ("killed", "timeout", "suspicious", "segfault") for state in found.values())
            alive = [change(module, work, name) for name, state in sorted(found.items()) if state == "survived"]
            texts = sum(only_text(before, after) for _, before, after in alive)
            lived += [f"{place}\n    - {before}\n    + {after}" for place, before, after in alive]
            figures = [len(found), killed, len(found) - killed - unreached, texts, unreached]
            total = [a + b for a, b in zip(total, figures, strict=True)]
            minutes = (time.monotonic() - began) / 60
            print(f"| {module} | {_row(figures)} | {minutes:.1f} |", flush=True)
    print(f"| all | {_row(total)} | |")
    if args.survivors:
        print("\n" + "\n".join(lived))


def _row(figures: list[int]) -> str:
    return f"{' | '.join(map(str, figures))} | {100 * figures[1] / max(figures[0], 1):.0f}"


if __name__ == "__main__":
    main()
