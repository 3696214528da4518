"""The image `light` has no torch: what it is for is done without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.components.conftest import Results

ROOT = Path(__file__).resolve().parents[2]
# Runs a step where torch and what comes with it are not installed.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "torchmetrics", "lightning", "timm", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from components.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
TINY = {"train": 12, "val": 3, "test": 3, "height": 48, "width": 64}


def run(folder: Path, step: str, settings: dict[str, object]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC", "GIT_"))}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, step],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_data_are_made_and_validated_without_torch(tmp_path: Path) -> None:
    settings = {"data": {"source": "streets", "streets": TINY}, "models": {"unet": {}}}
    run(tmp_path, "download", settings)
    run(tmp_path, "validate", settings)
    assert json.loads((tmp_path / "outputs/validation/validation.json").read_text())["splits"]["train"] == 12


def test_the_report_is_written_without_torch(results: Results) -> None:
    run(results.root, "report", {"models": {key: {} for key in results.models}})
    assert "unet" in (results.root / "reports/report.html").read_text()
