"""Names and values of metrics as MLflow takes them."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_NAME = 240  # MLflow takes 250 characters


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers, under names that MLflow takes."""
    names = mlflow_names(metrics)
    return {names[k]: float(v) for k, v in metrics.items() if v is not None and math.isfinite(float(v))}


def mlflow_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow takes for each metric or parameter, different ones for different names.

    MLflow takes letters and digits of any script, spaces and `_ - . : /`, as a path that leads nowhere else. What two
    names would share gets the beginning of each one's hash.
    """
    taken = {name: _taken(name) for name in names}
    shared = Counter(taken.values())
    return {
        name: f"{short}-{_digest(name)}" if shared[short] > 1 and short != name else short
        for name, short in taken.items()
    }


def _taken(name: str) -> str:
    plain = re.sub(r"[^\w\-. :/]", "_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("/", "..")):
        plain = plain.replace("/", "_")
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 7]}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:6]
