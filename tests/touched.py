"""`python -m tests.touched`: the test files that a change touches, one a line; `make check` runs them.

A test file counts where it has changed, where it imports a changed module by name, or where it stands where that
module's tests stand (`segmodels/data/sizes.py`: `tests/segmodels/data/test_sizes.py`). What reaches a module through
others is left to `make test`.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("segmodels", "components", "pipeline")
# These are tests of everything, or need more than this machine.
APART = ("tests/cluster/", "tests/e2e/", "tests/infra/test_images.py")


def changed(root: Path = ROOT) -> set[str]:
    """Return the files that differ from the last commit, and those that are new."""
    commands = (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    said = (subprocess.run(["git", *c], cwd=root, capture_output=True, text=True, check=True).stdout for c in commands)
    return {line for text in said for line in text.splitlines()}


def touched(files: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return the test files that these files touch, sorted.

    Args:
        files: Paths relative to the repository.
        root: The repository.
    """
    paths = {PurePosixPath(file) for file in files}
    sources = {path for path in paths if path.suffix == ".py" and path.parts[0] in PACKAGES}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources}
    mirrored = {str(PurePosixPath("tests", *path.parent.parts, f"test_{path.name}")) for path in sources}
    found = set()
    for test in sorted((root / "tests").rglob("test_*.py")):
        name = test.relative_to(root).as_posix()
        if not name.startswith(APART) and (
            PurePosixPath(name) in paths or name in mirrored or modules & set(_imported(test))
        ):
            found.add(name)
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, and the names that may be modules."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    print("\n".join(touched(changed())))
