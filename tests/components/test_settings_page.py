"""The page of settings is what the schema says, and says something of every key."""

from __future__ import annotations

from components import settings_page


def test_the_page_is_up_to_date() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "python -m components.settings_page writes it"


def test_every_key_has_words() -> None:
    rows = [line for line in settings_page.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []
