"""Every architecture computes what its source says, or its card says what nothing independent confirms."""

from __future__ import annotations

from pathlib import Path

import pytest

from segmodels.catalog.cards import compared
from segmodels.catalog.registry import list_models, model_info
from tests.segmodels.models.oracles import Oracle, all_oracles, table

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("entry", all_oracles(), ids=lambda entry: f"{entry.architecture}-{entry.source[:40]}")
def test_results_are_those_of_the_source(entry: Oracle) -> None:
    assert entry.difference() <= entry.tolerance


def test_every_architecture_has_an_oracle_or_says_what_is_not_confirmed() -> None:
    compared = {entry.architecture for entry in all_oracles()}
    assert compared <= set(list_models())
    for name in set(list_models()) - compared:
        assert model_info(name).unconfirmed, name


def test_cards_and_the_page_say_what_is_compared() -> None:
    said = sorted((name, source) for name, rows in compared().items() for source, _ in rows)
    assert said == sorted((entry.architecture, entry.source) for entry in all_oracles())
    assert (ROOT / "docs/fidelity.md").read_text().endswith(f"\n\n{table()}\n")
