"""What DVC takes for a step's code is what the step runs; words are no code, nor are other architectures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import code
from components.params import Params

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "data": {"source": "streets", "streets": {"train": 4, "val": 2, "test": 2, "height": 32, "width": 48}},
    "train": {"epochs": 1, "batch_size": 2, "precision": "32"},
    "evaluate": {"crf": {"iterations": 1}},
    "models": {"unet": {"options": {"width": 2}}, "spn": {"options": {"base": "enet", "width": 0.04, "channels": 4}}},
    "register": {"rules": {"miou": {"floor": 0.0}}},
}
# Runs a step and prints the files of the repository that it imported.
RUN = """
import sys
from pathlib import Path
from components.__main__ import main
status = main(sys.argv[2:])
root = Path(sys.argv[1])
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None)
    if file and Path(file).is_relative_to(root):
        print("USED", Path(file).relative_to(root).as_posix())
sys.exit(status)
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Step, and its architecture -> the files that a real run of it imported."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "GIT_", "DVC"))}
    environment = clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = {}
    for step in code.STEPS:
        for key in TINY["models"] if step in code.OF_AN_ARCHITECTURE else ("",):
            command = [sys.executable, "-c", RUN, str(ROOT), step, *(["--model", key] if key else [])]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            lines = [line.removeprefix("USED ") for line in done.stdout.splitlines() if line.startswith("USED ")]
            found[f"{step}/{key}" if key else step] = {name for name in lines if name.startswith(code.PACKAGES)}
    return found


def noted(folder: Path) -> dict[str, dict[str, str]]:
    """Step, and its architecture -> file -> hash."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): {
            file: digest for digest, file in (line.split(" ", 1) for line in path.read_text().splitlines())
        }
        for path in folder.rglob("*.txt")
    }


def test_no_step_uses_a_file_that_is_not_noted(used: dict[str, set[str]], tmp_path: Path) -> None:
    code.write(Params.parse(TINY), tmp_path / "code")
    files = noted(tmp_path / "code")
    assert files.keys() == used.keys()
    # The registry imports all architectures; what counts is the one that is built.
    own = {key: {p.relative_to(ROOT).as_posix() for p in code.files("train", [key])} for key in ("unet", "spn", "enet")}
    others = {name for name in set().union(*used.values()) if name.startswith("segmodels/models/")}
    for step, names in used.items():
        architecture = own["spn"] | own["enet"] if step.endswith("spn") else own["unet"]
        ignored = others - architecture if step.partition("/")[0] in (*code.OF_AN_ARCHITECTURE, "report") else set()
        ignored |= {name for name in names if name.startswith("segmodels/backbones/") and name not in architecture}
        ignored |= {name for name in names if name.startswith("segmodels/layers/") and name not in architecture}
        assert names - ignored <= files[step].keys(), (step, sorted(names - ignored - files[step].keys()))


def test_dvc_yaml_depends_on_what_is_noted() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for step in code.STEPS:
        name = f"outputs/code/{step}/${{key}}.txt" if step in code.OF_AN_ARCHITECTURE else f"outputs/code/{step}.txt"
        assert name in stages[step].get("do", stages[step])["deps"]
    assert set(stages["code"]["deps"]) == set(code.PACKAGES)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in code.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed(copy: Path, file: str, old: str, new: str) -> set[str]:
    """The steps whose code is another one after an edit."""
    script = (
        "import sys; from pathlib import Path; from components import code; from components.params import Params\n"
        "models = {'unet': {}, 'fpn': {}, 'pointrend': {}, 'crfasrnn': {}}\n"
        "code.write(Params.parse({'models': models}), Path(sys.argv[1]))"
    )
    results = []
    for name in ("before", "after"):
        command = [sys.executable, "-c", script, str(copy / name)]
        subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, check=True, timeout=120)
        results.append(noted(copy / name))
        if name == "before":
            text = (copy / file).read_text()
            assert old in text
            (copy / file).write_text(text.replace(old, new, 1))
    before, after = results
    return {step for step in before if before[step] != after[step]}


@pytest.mark.parametrize(
    ("file", "old", "new", "touched"),
    [
        # Words change nothing.
        ("segmodels/models/fpn.py", '\"\"\"', '\"\"\"Well, ', set()),
        ("segmodels/models/fpn.py", "\n\n\n", "\n\n\n# a remark\n\n\n", set()),
        # PointRend is built on FPN.
        ("segmodels/models/fpn.py", "import Tensor", "import Tensor, zeros",
         {"train/fpn", "evaluate/fpn", "train/pointrend", "evaluate/pointrend", "register"}),
        ("segmodels/layers/crf.py", "import annotations", "import annotations\nX = 1",
         {f"{step}/{key}" for step in ("train", "evaluate") for key in ("unet", "fpn", "pointrend", "crfasrnn")}
         | {"register"}),
        # A task's computations are those of the steps that compute; those of another task are nobody's.
        ("segmodels/tasks/semantic/metrics.py", "import annotations", "import annotations\nX = 1",
         {f"{step}/{key}" for step in ("train", "evaluate") for key in ("unet", "fpn", "pointrend", "crfasrnn")}
         | {"register", "report"}),
        ("segmodels/tasks/depth/task.py", "import annotations", "import annotations\nX = 1", {"register"}),
        ("components/report/report.html.j2", "<", "<!-- --><", {"report"}),
        ("components/validate/suite.py", "import annotations", "import annotations\nX = 1", {"validate"}),
    ],
)  # fmt: skip
def test_an_edit_touches_what_it_can_change(file: str, old: str, new: str, touched: set[str], copy: Path) -> None:
    assert changed(copy, file, old, new) == touched


def test_a_changed_default_is_a_change_of_every_training(copy: Path) -> None:
    touched = changed(copy, "segmodels/settings/schema.py", "lr: Positive = 2e-3", "lr: Positive = 1e-3")
    assert {"train/unet", "train/fpn", "evaluate/unet"} <= touched
