"""The wheel: what its core needs is enough to train, to predict, to save and to load."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Of the extras: none of them may be there.
APART = (
    "mlflow",
    "pandas",
    "kfp",
    "dvc",
    "boto3",
    "fastapi",
    "onnx",
    "av",
    "rasterio",
    "s3fs",
    "great_expectations",
)
SCRIPT = f"""
import importlib.util, json, sys
found = [name for name in {APART!r} if importlib.util.find_spec(name)]
import segmodels
assert "torch" not in sys.modules
from segmodels.data.streets import write_dataset
from segmodels.settings.schema import TrainSettings
write_dataset("data", seed=0, train=6, val=2, test=0, height=48, width=64)
settings = TrainSettings(epochs=1, batch_size=2, accelerator="cpu", precision="32")
trained = segmodels.fit("data", "model", architecture="unet", settings=settings, options={{"width": 2}})
mask = segmodels.Predictor("model", "cpu").predict("data/val/images/000000.png")
model, config = segmodels.load_model("model")
print(json.dumps([found, segmodels.__version__, list(mask.shape), config.architecture, trained.epoch]))
"""


@pytest.fixture(scope="module")
def uv() -> str:
    """uv and the cache that `make setup` filled: nothing is downloaded."""
    found = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    if not Path(found).is_file() or not (ROOT / ".uv/cache").is_dir():
        pytest.skip("no uv with the packages of `make setup`")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("segmodels/", "components/", "pipeline/")) or "/" not in name:
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "src" / name)
    for form in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; print(build_meta.build_{form}({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", code], cwd=folder / "src", check=True, capture_output=True)
    assert len(list(folder.glob("segmodels-*.tar.gz"))) == 1
    (made,) = folder.glob("segmodels-*.whl")
    return made


def test_the_wheel_has_all_that_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = ["py.typed", "catalog/figures.csv", "catalog/recipes.csv", "catalog/fidelity.csv", "serving/page.html"]
    assert {f"segmodels/{name}" for name in [*wanted, "drift/report.html.j2"]} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def core(wheel: Path) -> set[str]:
    """The names of what the wheel needs without an extra, and of what that needs."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    wanted = [Requirement(line.partition(": ")[2]) for line in text.splitlines() if line.startswith("Requires-Dist: ")]
    names: set[str] = set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name in names or (one.marker and not any(one.marker.evaluate({"extra": e}) for e in ("", *one.extras))):
            continue
        names.add(name)
        told = importlib.metadata.requires(name) or []
        for text in told:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *one.extras)):
                wanted.append(Requirement(text.partition(";")[0]))
    return names


def locked(names: set[str]) -> str:
    """The lines of requirements.lock for these packages."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    return "\n".join(block for block in blocks if canonicalize_name(block.partition("==")[0]) in names) + "\n"


def test_the_core_alone_trains_predicts_saves_and_loads(uv: str, wheel: Path, tmp_path: Path) -> None:
    environment = os.environ | {"UV_CACHE_DIR": str(ROOT / ".uv/cache"), "UV_OFFLINE": "1"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    python = tmp_path / "env/bin/python"

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run(uv, "venv", "--quiet", "--python", sys.executable, "env")
    (tmp_path / "core.lock").write_text(locked(core(wheel)))
    into = ("--quiet", "--no-deps", "--python", str(python))
    run(uv, "pip", "install", *into, "--require-hashes", "--requirement", "core.lock")
    run(uv, "pip", "install", *into, str(wheel))
    run(uv, "pip", "check", "--quiet", "--python", str(python))
    found, version, size, architecture, epoch = json.loads(run(str(python), "-c", SCRIPT).splitlines()[-1])
    assert (found, size, architecture, epoch) == ([], [48, 64], "unet", 1)
    assert version == wheel.name.split("-")[1]
    help_text = run(str(python), "-m", "segmodels.cli", "--help")
    assert "validate" in help_text
    refused = subprocess.run(
        [str(python), "-m", "segmodels.cli", "serve", "model"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert (
        refused.stderr
        == "error: uvicorn is not installed; `pip install fastapi uvicorn prometheus-client python-multipart`\n"
    )
