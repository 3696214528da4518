from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SETTINGS = Path(__file__).with_name("settings")
SET_BY_TASKS = ("GIT_COMMIT", "GIT_DIRTY", "IMAGE_DIGEST", "KFP_RUN_ID", "PYTHONUNBUFFERED")
READ_FROM_OUTSIDE = ("MLFLOW_TRACKING_URI", "SEGMODELS_IMAGE", "SEGMODELS_CACHE", "KF_PIPELINES_ENDPOINT")

Project = Callable[[str], Path]


@pytest.fixture(scope="package", autouse=True)
def quick_stacks() -> Iterator[None]:
    """Each task of a pipeline asks `inspect.stack` for its caller's name; here not for the source lines of all callers.

    Within pytest there are sixty, each looked up among thousands of modules: ten seconds in place of half a one.
    """
    stack = inspect.stack
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(inspect, "stack", lambda context=0: stack(context))
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Makes a project's folder with settings of this name, and works in it."""
    return maker(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def module_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The same for results that the tests of a file share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield maker(tmp_path_factory.mktemp("projects"), monkeypatch)


def maker(parent: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in SET_BY_TASKS:
        monkeypatch.setenv(name, "")
    for name in READ_FROM_OUTSIDE:
        monkeypatch.delenv(name, raising=False)

    def make(settings: str, folder: str = "project") -> Path:
        path = parent / folder
        path.mkdir()
        (path / "params.yaml").write_text((SETTINGS / f"{settings}.yaml").read_text())
        monkeypatch.chdir(path)
        return path

    return make
