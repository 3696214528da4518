"""`figures.csv` says what the code gives; mended by `python benchmarks/figures.py --no-time`."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from segmodels.catalog import figures
from segmodels.catalog.registry import list_models
from segmodels.evaluation import speed

TABLE = figures.read()


def test_it_has_every_architecture_once_sorted_by_name() -> None:
    assert list(TABLE) == list_models()
    assert len(figures.FILE.read_text().splitlines()) == 1 + len(TABLE)


@pytest.mark.parametrize("name", list_models())
def test_paper_parameters_and_operations_are_those_of_the_code(name: str) -> None:
    counted = replace(TABLE[name], milliseconds=None, machine="", date="")
    assert counted == speed.figures(name)


@pytest.mark.parametrize("entry", TABLE.values(), ids=TABLE.keys())
def test_milliseconds_come_with_the_machine_and_the_day(entry: figures.Entry) -> None:
    if entry.milliseconds is None:
        assert (entry.machine, entry.date) == ("", "")
        return
    assert entry.milliseconds > 0
    assert "torch" in entry.machine
    assert datetime.date.fromisoformat(entry.date) <= datetime.date.today() + datetime.timedelta(1)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    entries = [
        figures.Entry(
            "b", 'Commas, and "quotes"', 2015, "semantic", 1, 2, 0.125, 12.5, "a processor, 2 threads", "2026-01-31"
        ),
        figures.Entry("a", "A paper", 2016, "semantic", 3, 3, 1.0),
    ]
    figures.write(entries, file)
    assert list(figures.read(file).values()) == entries[::-1]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.csv"]
