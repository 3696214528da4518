"""Recipes: where each value of a paper's is written (`recipes.csv`), and what a training from scratch needs.

A source is a place in a repository (`owner/name: file`) or in the paper; `ours` is a value for which there is none.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What a training from scratch sets otherwise than the common defaults, with which these networks do not learn: they are
# deep, without norms, or begin from scores of zero. Found on CamVid (docs/learning.md), not taken from the papers.
_SMALL_STEPS = (
    *("fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce", "crfasrnn", "deeplabv1", "parsenet", "dilation8", "dilation10"),
    *("spn", "setr_naive", "setr_pup", "setr_mla"),
)
_FROM_SCRATCH: dict[str, dict[str, Any]] = {
    **{name: {"lr": 1e-4} for name in _SMALL_STEPS},
    **{f"segformer_b{size}": {"lr": 3e-4} for size in range(6)},
    # Un-pooling makes much of small differences: with running averages of the first epochs their results are noise.
    **{name: {"norm_statistics": "exact"} for name in ("segnet", "bayesian_segnet")},
    "deconvnet": {"norm_statistics": "exact", "lr": 5e-4},
}
TABLE = Path(__file__).with_name("recipes.csv")


def flat(recipe: Mapping[str, Any], testing: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as one value a setting: `lr`, `augment.crop`, `stages.2.lr`, `testing.scales`; stages count from
    1.
    """
    return dict(_flat(recipe, "")) | dict(_flat(testing, "testing."))


def from_scratch(architecture: str) -> dict[str, Any]:
    """Return what a training from scratch of an architecture sets otherwise than `TrainSettings`."""
    return dict(_FROM_SCRATCH.get(architecture, {}))


def sources(architecture: str) -> dict[str, str]:
    """Return where each setting of an architecture's recipe comes from, keyed as `flat` has them."""
    return dict(_table().get(architecture, {}))


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    sources: dict[str, dict[str, str]] = {}
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            sources.setdefault(row["architecture"], {})[row["setting"]] = row["source"]
    return sources


def _flat(values: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    settings: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key == "stages":
            for number, stage in enumerate(value, start=1):
                settings += _flat(stage, f"{path}stages.{number}.") or [(f"{path}stages.{number}", {})]
        elif isinstance(value, Mapping) and key in ("augment", "extra", "options", "crf"):
            settings += _flat(value, f"{path}{key}.")
        else:
            settings.append((path + key, value))
    return settings
