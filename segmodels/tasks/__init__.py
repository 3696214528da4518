"""Tasks: what is predicted, how it is learnt and measured.

Each is a package of its own here, with `INFO` in its `__init__.py` and the class of the task in `task.py`.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from segmodels.errors import nearest
from segmodels.tasks.base import TaskError, TaskInfo

if TYPE_CHECKING:
    from segmodels.tasks.base import Task

# What files mean that say no task: those of earlier releases, and all that this task writes.
DEFAULT = "semantic"


@functools.cache
def list_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, sorted; none of them is imported."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/task.py")))


def task_info(name: str) -> TaskInfo:
    """Return what a task is called and measured by; imports nothing heavy.

    Raises:
        TaskError: There is no such task.
    """
    if name not in list_tasks():
        raise TaskError(f"unknown task '{name}'{nearest(name, list_tasks())}")
    info: TaskInfo = importlib.import_module(f"segmodels.tasks.{name}").INFO
    return info


@functools.cache
def get_task(name: str) -> Task:
    """Return a task, ready to compute.

    Raises:
        TaskError: There is no such task.
    """
    task_info(name)
    task: Task = importlib.import_module(f"segmodels.tasks.{name}.task").TASK
    return task


def named(name: str) -> dict[str, str]:
    """Return what a file says of its task: nothing where it is the one that files mean which say none."""
    return {} if name == DEFAULT else {"task": name}
