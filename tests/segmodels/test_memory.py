"""Memory that was freed is used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

BLOCK = 64 << 20
# The second block of a size: how many page faults it takes, once the first is freed.
FAULTS = f"""
import resource
from segmodels.memory import keep_freed_memory
kept = keep_freed_memory()
first = b"x" * {BLOCK}
del first
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
second = b"x" * {BLOCK}
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = BLOCK // 4096


def run(**environment: str) -> tuple[str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=kept | environment, capture_output=True, text=True, check=True, timeout=60
    )
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory their own way")
def test_freed_memory_is_used_again() -> None:
    said, faults = run()
    assert said == "True"
    assert faults < PAGES / 100


def test_what_the_environment_says_is_left_as_it_is() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
