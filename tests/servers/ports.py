"""Ports of loopback for the servers of the tests.

A port that the kernel names when asked for any is free again until the server binds it, and may meanwhile be named to a
process beside this one. Servers that set SO_REUSEPORT would then share it, and each connection goes to one of the two.
Therefore each process takes from blocks of its own, below the ports that the kernel gives away.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

FIRST, END, BLOCK = 10_000, 32_000, 50


def free() -> int:
    """A port on which nothing listens, and that is given to nobody else while this process runs."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port of loopback is free")


def _ports() -> Iterator[int]:
    locks = Path(tempfile.gettempdir()) / f"segmodels-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for first in range(FIRST, END, BLOCK):
        with (locks / str(first)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield from range(first, first + BLOCK)


_PORTS = _ports()
