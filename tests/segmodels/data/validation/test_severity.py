"""How grave a rule is can be settled for each of them, and the documentation lists all."""

from __future__ import annotations

from pathlib import Path

import pytest

from segmodels.data.folder import DatasetError
from segmodels.data.validation.checks import check
from segmodels.data.validation.rules import every_rule, markdown

PAGE = Path(__file__).resolve().parents[4] / "docs/validation.md"


def test_a_warning_becomes_an_error_or_nothing_and_an_error_a_warning(streets: Path) -> None:
    (streets / "val/labels/lonely.png").write_bytes(b"")
    said = "val/labels/lonely.png: is the label of no image"
    assert said in check(streets)
    assert said not in check(streets, severity={"stray_file": "ignore"})
    with pytest.raises(DatasetError, match=said):
        check(streets, severity={"stray_file": "critical"})
    (streets / "val/images/000001.png").write_bytes(b"nothing")
    warnings = check(streets, severity={"unreadable_image": "warning"})
    assert any("000001.png: cannot be read" in warning for warning in warnings)


def test_a_rule_that_is_not_there_is_refused_with_the_nearest(streets: Path) -> None:
    with pytest.raises(DatasetError, match=r"no rule is called 'near_duplicates'; did you mean 'near_duplicate'\?"):
        check(streets, severity={"near_duplicates": "warning"})
    with pytest.raises(DatasetError, match=r"rare_class is 'loud'; say critical, warning, ignore"):
        check(streets, severity={"rare_class": "loud"})


def test_every_rule_has_a_name_of_its_own_and_stands_in_the_documentation() -> None:
    keys = [rule.key for rule in every_rule()]
    assert len(set(keys)) == len(keys)
    assert markdown() in PAGE.read_text()
