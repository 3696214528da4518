"""The Dockerfile, the build script and the overlays name the same images; needs no container engine."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from infra.k8s import check

BUILD = (check.ROOT / "infra/images/build").read_text()


def test_the_targets_of_the_dockerfile_are_those_that_the_build_script_knows():
    targets = set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", (check.ROOT / "infra/images/Dockerfile").read_text()))
    assert set(re.findall(r"\[(\w+)\]=", BUILD)) == targets - {"tools", "common", "light-packages", "gpu-packages"}


@pytest.mark.parametrize("overlay", ["kserve", "local", "production"])
def test_the_overlays_run_images_that_the_build_script_makes(overlay):
    path = check.HERE / "overlays" / overlay / "kustomization.yaml"
    named = {entry["name"] for entry in yaml.safe_load(path.read_text())["images"]}
    assert named
    assert named <= set(re.findall(r"\[\w+\]=([\w-]+)", BUILD))


def test_the_image_that_trains_has_all_that_the_library_needs() -> None:
    dockerfile = (check.ROOT / "infra/images/Dockerfile").read_text().replace("\\\n", " ")
    installed = [set(line.split()) for line in re.findall(r"/install (?!--)(.*)", dockerfile)]
    project = tomllib.loads((check.ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=\[]", name)[0] for name in project["dependencies"]}
    assert any(needed <= names for names in installed), "pyproject.toml's dependencies stand in the Dockerfile, too"
