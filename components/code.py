"""`python -m components.code`: what each step's code is, as one small file for each step and architecture.

DVC runs a stage again when a file that it depends on has changed. A list of files by hand goes wrong in both ways: what
a step imports is forgotten, and what it does not import is named. Here the list follows from the imports, those within
functions too, and a step's own architecture is the only one that counts. What is hashed is the syntax tree without
docstrings: words and layout change nothing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.params import Params
from segmodels.files import replaced
from segmodels.tasks import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("segmodels", "components")
MODELS, TASKS = "segmodels.models", "segmodels.tasks"
# The modules that a step begins with; what they import follows.
COMMON = ("components.errors", "components.params", "segmodels.runtime")
# It imports the step that it runs, and names them all.
RUNS = "components.__main__"
STEPS = {
    "download": ("components.download.step",),
    "validate": ("components.validate.step",),
    "train": ("components.train.step",),
    "evaluate": ("components.evaluate.step",),
    "register": ("components.register.step", "components.register.pyfunc_model"),
    "report": ("components.report.step",),
}
OF_AN_ARCHITECTURE = ("train", "evaluate")
# The others read what the task needs and is called, and compute nothing.
OF_A_TASK = ("train", "evaluate", "register", "report")


def write(params: Params, out: Path, root: Path = ROOT) -> None:
    """Write `<step>.txt`, and `<step>/<key>.txt` for the steps that each entry of `models` has: `hash path` a line.

    Args:
        params: The settings; `models` names the architectures.
        out: The folder, replaced as a whole.
        root: The folder of the packages.
    """
    with replaced(out) as part:
        for step in STEPS:
            if step in OF_AN_ARCHITECTURE:
                for key, entry in params.models.items():
                    named = {params.architecture(key), *_texts(entry.options)}
                    _write(files(step, named, root, params.task), part / step / f"{key}.txt", root)
            else:
                _write(files(step, (), root, params.task), part / f"{step}.txt", root)


def files(step: str, architectures: Iterable[str] = (), root: Path = ROOT, task: str = DEFAULT) -> list[Path]:
    """Return the files that a step's result depends on, sorted.

    Args:
        step: A key of `STEPS`.
        architectures: Names of the registry whose modules count; other names are left out.
        root: The folder of the packages.
        task: Whose modules count; they are found by name, as those of architectures are.
    """
    modules = _modules(root)
    wanted = [*COMMON, *STEPS[step], f"{TASKS}.{task}"]
    if step in OF_A_TASK:
        wanted.append(f"{TASKS}.{task}.task")
    if step == "register":  # the package travels with the model that is logged
        wanted += [name for name in modules if name.partition(".")[0] == "segmodels"]
    named = _architectures(root)
    wanted += [named[name] for name in architectures if name in named]
    reached = {RUNS} & modules.keys()
    while wanted:
        name = wanted.pop()
        if name in reached or name not in modules:
            continue
        reached.add(name)
        wanted += [*_imported(name, root), name.rpartition(".")[0]]
        if name.startswith(MODELS + "."):
            # An architecture may be built on another one, which it names.
            wanted += [named[text] for text in _strings(modules[name]) if text in named]
    paths = {modules[name] for name in reached}
    paths |= {path for name in reached for path in _data(modules[name])}
    return sorted(paths)


def _write(paths: list[Path], out: Path, root: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{_hash(path)} {path.relative_to(root).as_posix()}\n" for path in paths]
    out.write_text("".join(lines))


@functools.cache
def _modules(root: Path) -> dict[str, Path]:
    """Return name -> file of every module."""
    paths = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


@functools.cache
def _architectures(root: Path) -> dict[str, str]:
    """Return name in the registry -> the module that registers it."""
    modules = {}
    for name, path in _modules(root).items():
        if not name.startswith(MODELS + "."):
            continue
        for node in ast.walk(_tree(path)):
            match node:
                case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=str() as named), *_]):
                    modules[named] = name
    return modules


@functools.cache
def _imported(name: str, root: Path) -> tuple[str, ...]:
    """Return the modules that a module imports anywhere, and the packages around them; not for type checkers alone."""
    modules = _modules(root)
    names: set[str] = set()
    package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in _run(_tree(modules[name])):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return tuple(sorted(names & modules.keys()))


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node that runs: not what stands under `if TYPE_CHECKING`."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            stack += node.orelse
            continue
        yield node
        stack += ast.iter_child_nodes(node)


def _data(path: Path) -> Iterator[Path]:
    """Yield the files beside a module that it names: templates, pages, tables."""
    texts = set(_strings(path))
    for other in path.parent.iterdir():
        if other.suffix != ".py" and other.is_file() and other.name in texts:
            yield other


@functools.cache
def _strings(path: Path) -> tuple[str, ...]:
    return tuple(
        node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


@functools.cache
def _hash(path: Path) -> str:
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def main() -> None:
    """Write the files of the settings in `params.yaml`."""
    parser = argparse.ArgumentParser(prog="python -m components.code", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("outputs/code"))
    args = parser.parse_args()
    write(Params.read(args.params), args.out)


if __name__ == "__main__":
    main()
