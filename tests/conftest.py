"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """A PostgreSQL on loopback with the user and database `mlflow`, whose password is `hunter2`; gives its port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps the server's programs off the PATH
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: MLflow is not tested on it")
    bin_ = Path(initdb).parent
    # PostgreSQL refuses to run as root, and only root gets into pytest's folders.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="segmodels-postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    (folder / "password").write_text("hunter2")
    (folder / "password").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    init = ["--username=mlflow", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-D", data]
    subprocess.run([*user, initdb, *init], check=True, capture_output=True, timeout=300)
    server = [*user, str(bin_ / "pg_ctl"), "-D", data, "-w", "-t", "120", "-l", f"{data}/log"]
    listen = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    subprocess.run([*server, "-o", listen, "start"], check=True, timeout=300)
    try:
        environment = os.environ | {"PGPASSWORD": "hunter2"}
        create = [str(bin_ / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, env=environment, timeout=120)
        yield port
    finally:
        subprocess.run([*server, "-m", "fast", "stop"], check=True, timeout=300)
        shutil.rmtree(folder)
