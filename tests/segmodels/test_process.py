"""Memory that was freed is used again, and a process that collects less ends as any other."""

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
from segmodels.runtime import keep_freed_memory
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


def test_what_is_to_be_done_at_the_end_is_done() -> None:
    script = (
        "import atexit, gc, weakref\n"
        "from segmodels.runtime import COLLECT_AFTER, set_up_process\n"
        "set_up_process()\n"
        "assert gc.get_threshold()[0] == COLLECT_AFTER\n"
        "class Cycle: pass\n"
        "cycle = Cycle(); cycle.itself = cycle\n"
        "weakref.finalize(cycle, print, 'finalized')\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["frozen 0", "finalized"]
