"""Servers that tests of several parts need."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.servers import postgres as postgres_server
from tests.servers import swift as swift_server
from tests.servers.line import Line, line_to
from tests.servers.postgres import Postgres
from tests.servers.swift import Swift

_NUMBERS = itertools.count()


class ByFile(LoadScopeScheduling):
    """A file stays with one worker, which makes its fixtures once; what is done for every network is spread.

    `xdist_group`, which is made for this, adds to a test's name where pytest 9.2 no longer looks.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if path.rpartition("/")[2].startswith("test_every") else path


# What a file needs beside two minutes: markers by the folder or file that it stands in.
MARKED = {
    "tests/e2e/": ("e2e", "slow"),
    "tests/infra/test_images.py": ("images", "slow"),
    # Every architecture written as a program; several processes that train together; trainings that are killed.
    "tests/segmodels/models/test_every_export.py": ("slow",),
    "tests/segmodels/training/test_launch.py": ("slow",),
    "tests/components/train/test_trainjob.py": ("slow",),
    "tests/components/train/test_remote_state.py": ("slow",),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.nodeid.partition("::")[0]
        for place, markers in MARKED.items():
            if path.startswith(place):
                for marker in markers:
                    item.add_marker(marker)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """An object store with an S3 interface."""
    try:
        with swift_server.serving(tmp_path_factory.mktemp("swift") / "store") as store:
            yield store
    except swift_server.NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A database server."""
    try:
        with postgres_server.serving() as server:
            yield server
    except postgres_server.NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pages are not tested")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: pages are not tested")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def bucket(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket of the store, to which the environment leads; gives its address."""
    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    return swift.bucket(f"bucket-{next(_NUMBERS)}")


@pytest.fixture
def line(swift: Swift, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The environment's way to the store, which can be slow and can be cut."""
    with line_to(swift.url) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made
