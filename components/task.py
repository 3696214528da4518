"""What a pipeline's task needs around a step: its settings, its lineage, and errors as one sentence.

The components (`components/<step>/component.py`) are a few lines that import this and the step when they run, so that
compiling a pipeline imports neither. Nothing here knows Kubeflow.
"""

from __future__ import annotations

import inspect
import json
import linecache
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import StepError, complain
from segmodels.runtime import set_up_process

if TYPE_CHECKING:
    from components.params import Params

IMAGE = f"segmodels:{version('segmodels')}"
EACH = "each"


@contextmanager
def task(settings: str, git_commit: str, git_dirty: str, image_digest: str) -> Iterator[Params]:
    """Where a task runs its step; what the user can mend ends the process with one sentence.

    Args:
        settings: The settings as JSON, at least those that the step reads.
        git_commit: The commit that the pipeline was built from; an image that names its own (`GIT_COMMIT`) is believed.
        git_dirty: Whether files differed from it.
        image_digest: Digest of the image, or `none`.

    Yields:
        The settings.
    """
    if not os.environ.get("GIT_COMMIT"):
        os.environ.update(GIT_COMMIT=git_commit, GIT_DIRTY=git_dirty)
    os.environ["IMAGE_DIGEST"] = image_digest
    set_up_process()
    try:
        from components.params import Params

        yield Params.parse(json.loads(settings), "settings")
    except Exception as error:
        raise SystemExit(complain(error)) from None


def arms(keys: Iterable[str]) -> dict[str, str]:
    """Return key under `models` -> its name in a pipeline: letters, digits and underscores; hyphens in the names of
    tasks.

    Raises:
        StepError: A key has no such name, or two have the same.
    """
    names: dict[str, str] = {}
    for key in keys:
        name = re.sub(r"[^0-9a-z]+", "_", key.lower()).strip("_")
        if not name:
            raise StepError(f"models: '{key}' has no letter or digit that Kubernetes takes; rename it")
        for other in names:
            if names[other] == name:
                raise StepError(f"models: '{other}' and '{key}' have the same name in a pipeline; rename one of them")
        names[key] = name
    return names


def task_name(step: str, arm: str) -> str:
    """Return the name of an arm's task: `train-segnet-basic`."""
    return f"{step}-{arm.replace('_', '-')}"


def for_each(function: Callable[..., Any], keys: Iterable[str]) -> Callable[..., Any]:
    """Return `function` with every parameter `…_each` once for each key: `model_each` becomes `model_enet, …`.

    Kubeflow reads a component's inputs from its signature and has no input that takes a list of single outputs. Each
    such parameter stands on a line of its own; the body finds the arguments with `paths`.
    """
    names = arms(keys)
    lines: list[str] = []
    for line in textwrap.dedent(inspect.getsource(function)).splitlines(keepends=True):
        declares = re.match(rf"\s+\w+_{EACH}: ", line)
        lines += [line.replace(f"_{EACH}:", f"_{name}:") for name in names.values()] if declares else [line]
    source = "".join(lines)
    # Kubeflow asks for the source; linecache is where Python looks for that of code that was made at run time.
    file = f"<{function.__module__}.{function.__name__} for {', '.join(names)}>"
    linecache.cache[file] = (len(source), None, lines, file)
    made: dict[str, Any] = dict(function.__globals__)
    exec(compile(source, file, "exec", dont_inherit=True), made)
    expanded: Callable[..., Any] = made[function.__name__]
    return expanded


def paths(arguments: Mapping[str, Any], name: str, keys: Iterable[str]) -> dict[str, Path]:
    """Return key under `models` -> path of its artifact, from the arguments of a function that `for_each` made."""
    return {key: Path(arguments[f"{name}_{arm}"].path) for key, arm in arms(keys).items()}
