"""PostgreSQL on loopback, from Debian's package or whatever is on the PATH."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ports

USER, PASSWORD = "mlflow", "hunter2"


class NotInstalledError(Exception):
    """There is no PostgreSQL here."""


@dataclass
class Postgres:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
    """

    port: int
    _programs: Path
    _control: list[str]
    _options: str

    def create(self, database: str) -> str:
        """Makes a database that belongs to the user; gives its address for SQLAlchemy."""
        command = [str(self._programs / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database]
        subprocess.run(command, check=True, env=os.environ | {"PGPASSWORD": PASSWORD}, timeout=120)
        return f"postgresql+psycopg2://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """Ends the server; what was begun and not committed is rolled back."""
        subprocess.run([*self._control, "-m", "fast", "stop"], check=True, capture_output=True, timeout=300)

    def start(self) -> None:
        """Starts the server, again."""
        command = [*self._control, "-o", self._options, "start"]
        # Its output would keep a pipe open for as long as it runs.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)


@contextlib.contextmanager
def serving() -> Iterator[Postgres]:
    """A server with a superuser `mlflow`, and nothing in it.

    Raises:
        NotInstalledError: There is no PostgreSQL here.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps the server's programs off the PATH
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        raise NotInstalledError("PostgreSQL is not installed")
    # It refuses to run as root, and only root gets into pytest's folders.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="segmodels-postgres-"))
    try:
        if user:
            shutil.chown(folder, "postgres")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        port = ports.free()
        data = str(folder / "data")
        init = [f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-D", data]
        subprocess.run([*user, initdb, *init], check=True, capture_output=True, timeout=300)
        programs = Path(initdb).parent
        control = [*user, str(programs / "pg_ctl"), "-D", data, "-w", "-t", "120", "-l", f"{data}/log"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        server = Postgres(port, programs, control, options)
        server.start()
        try:
            yield server
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, timeout=300)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
