"""A way to a server that can be slow, be cut in the middle, or lead nowhere for a while."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE = 1 << 14


@dataclass
class Line:
    """Passes bytes on, on loopback.

    Attributes:
        url: Where it begins.
        cuts: Each once, a connection is closed when so many bytes have come back over it.
        bytes_per_second: Limit of what comes back over a connection; None is none.
        received: How many bytes came back in all.
        on_cut: Called when a connection has been cut.
    """

    url: str
    cuts: list[int] = field(default_factory=list)
    bytes_per_second: float | None = None
    received: int = 0
    on_cut: Callable[[], None] = lambda: None


@contextlib.contextmanager
def line_to(url: str) -> Iterator[Line]:
    """A line to a server on loopback."""
    target = (urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = Line(f"http://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listening, target, line), daemon=True).start()
        yield line
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, target: tuple[str, int], line: Line) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(target)
        except OSError:
            _cut(client)
            continue
        threading.Thread(target=_forward, args=(client, server), daemon=True).start()
        threading.Thread(target=_return, args=(server, client, line), daemon=True).start()


def _forward(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := client.recv(PIECE):
            server.sendall(piece)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def _return(server: socket.socket, client: socket.socket, line: Line) -> None:
    came = 0
    with contextlib.suppress(OSError):
        while piece := server.recv(PIECE):
            came += len(piece)
            line.received += len(piece)
            if line.cuts and came > line.cuts[0]:
                line.cuts.pop(0)
                _cut(client)
                server.close()
                line.on_cut()
                return
            client.sendall(piece)
            if line.bytes_per_second:
                time.sleep(len(piece) / line.bytes_per_second)
    for end in (client, server):
        with contextlib.suppress(OSError):
            end.close()


def _cut(connection: socket.socket) -> None:
    # Another thread waits in recv and would keep the connection open.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
