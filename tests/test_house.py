"""The house: where modules stand, which way they import, and how long they are."""

from __future__ import annotations

import graphlib
import re
import subprocess
import tomllib
from pathlib import Path

import grimp
import pytest

from tests.touched import touched

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
# Longer files, each with the word why.
LONG = {
    "components/tracking.py": "MLflow's store and its runs: every request goes through one way of trying again",
    "pipeline/doctor.py": "one function for each line that the doctor prints",
    "pipeline/runs.py": "Kubeflow's answers of two versions, read side by side",
    "segmodels/tasks/base.py": "what a task is, from its figures to its exported outputs, read in one go",
    "segmodels/training/loop.py": "one class: every part of it shares the place in the run",
    "segmodels/data/streets/sprites.py": "one drawing for each kind of thing",
    "tests/components/test_tracking_store.py": "one real server, started once",
    "tests/segmodels/models/caffe_oracles.py": "tables of layers",
    "tests/segmodels/models/port_oracles.py": "tables of names",
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("segmodels", "components", "pipeline", exclude_type_checking_imports=True)


def test_no_module_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imported).prepare()  # CycleError has the circle


def test_every_package_has_its_place_in_the_order_of_imports(graph: grimp.ImportGraph) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (order,) = (one["layers"] for one in settings["contracts"] if one["type"] == "layers")
    listed = {name.strip() for layer in order for name in layer.split("|")}
    assert listed == {"pipeline", "components", *graph.find_children("segmodels")}


def test_nothing_but_the_task_itself_knows_a_task_by_name() -> None:
    """Twenty files once said mIoU; whatever is measured, shown and gated follows from the task."""
    known = re.compile(r"miou|\btask(\.name)? (==|!=|in) [\[({]?[\"']")
    found = {}
    for package in ("segmodels", "components", "pipeline"):
        for path in sorted((ROOT / package).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix not in (".py", ".j2", ".html") or name.startswith("segmodels/tasks/semantic/"):
                continue
            lines = [line.strip() for line in path.read_text().splitlines() if known.search(line)]
            if lines:
                found[name] = lines
    assert found == {}


def test_long_files_say_why() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.splitlines() if (ROOT / name).is_file()]
    assert len(files) > 100
    long = {name for name in files if len((ROOT / name).read_text().splitlines()) > LONGEST}
    assert long == set(LONG)


def test_a_change_touches_the_tests_that_name_its_module() -> None:
    scan = touched(["segmodels/data/validation/scan.py"])
    assert "tests/components/validate/test_step.py" in scan
    assert "tests/segmodels/test_files.py" not in scan
    assert touched(["segmodels/files.py"]).count("tests/segmodels/test_files.py") == 1
    assert touched(["README.md", "tests/test_readme.py"]) == ["tests/test_readme.py"]
