"""What the README prints is what the code says."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("page", "command"), [("architectures", "list --markdown"), ("datasets", "dataset layouts --markdown")]
)
def test_tables_of_the_docs_are_what_a_command_prints(page: str, command: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    table = text.split(f"<!-- segmodels {command} -->")[1].split("<!-- end -->")[0].strip()
    command_line = [sys.executable, "-m", "segmodels.cli", *command.split()]
    printed = subprocess.run(command_line, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert table == printed


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w/.-]+)\)", README))))
def test_linked_files_exist_and_are_small(path: str) -> None:
    assert (ROOT / path).stat().st_size < 300_000


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
def test_what_the_page_of_the_library_names_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
