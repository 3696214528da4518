"""MLflow's server on loopback, on a database of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import ports

START_SECONDS = 300


@dataclass
class MLflow:
    """A server that can be ended and started again at the same address.

    Attributes:
        url: Its address.
        folder: Of its artifacts and its log.
        database: Its address for SQLAlchemy.
        store: Where artifacts lie; in the folder by default.
        environment: What the server alone sees.
    """

    url: str
    folder: Path
    database: str
    store: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        command += [
            f"--backend-store-uri={self.database}",
            f"--artifacts-destination={self.store or self.folder / 'artifacts'}",
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= self.environment
        log = self.folder / "log.txt"
        with log.open("a") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MLflow's server: {log.read_text()[-3000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


@contextlib.contextmanager
def serving(
    folder: Path, database: str, store: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[MLflow]:
    """A server on a database; its artifacts lie in the folder, or in a store that its environment gives access to."""
    server = MLflow(f"http://127.0.0.1:{ports.free()}", folder, database, store, dict(environment or {}))
    try:
        server.start()
        yield server
    finally:
        server.stop()
