"""A dataset of pictures that are as varied as photos: small scenes of `streets`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segmodels.data.formats import convert
from segmodels.data.streets import write_dataset
from tests.samples import CAMVID


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rendered") / "data"
    write_dataset(root, seed=0, train=40, val=10, test=10, height=96, width=128)
    return root


@pytest.fixture
def streets(rendered: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(rendered, tmp_path / "streets")
    return tmp_path / "streets"


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("camvid") / "data"
    convert(CAMVID, out=root)
    return root
