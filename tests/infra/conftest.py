from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# `infra` is no part of the wheel, so nothing has installed it.
sys.path.insert(0, str(ROOT))

Resources = list[dict[str, Any]]


@cache
def rendered(overlay: str) -> Resources:
    from infra.k8s import check

    return check.render(check.HERE / "overlays" / overlay)


@pytest.fixture
def overlay() -> Callable[[str], Resources]:
    """The resources of an overlay, a copy that a test may change."""
    return lambda name: copy.deepcopy(rendered(name))
