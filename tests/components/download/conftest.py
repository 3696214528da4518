"""A real web server that can cut connections, be busy, and change its file; and a small archive of data for it."""

from __future__ import annotations

import io
import re
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import numpy as np
import pytest
from PIL import Image

from components.params import Params


@dataclass
class Request:
    """What a client asked for, and what it was sent."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Server:
    """The file that is served, and the troubles ahead; each trouble is met once.

    Attributes:
        cuts: The connection is reset after so many bytes of the body.
        statuses: Sent instead of the file.
    """

    url: str = ""
    content: bytes = b""
    etag: str | None = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        server, request = self.state, Request(self.path, dict(self.headers))
        server.requests.append(request)
        request.status = server.statuses.pop(0) if server.statuses else self.status()
        content, start = server.content, 0
        if request.status == 206:
            start = self.start()
        body = content[start:] if request.status in (200, 206) else b""
        self.send_response(request.status)
        if server.etag:
            self.send_header("ETag", server.etag)
        if request.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if request.status == 503:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts and body else None
        self.wfile.write(body[:cut])
        request.sent = len(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 0, 0))
            self.connection.close()
            self.close_connection = True

    def status(self) -> int:
        etag = self.state.etag
        if etag and self.headers.get("If-None-Match") == etag:
            return 304
        if not self.state.ranges or "Range" not in self.headers:
            return 200
        if self.headers.get("If-Range", etag) != etag:
            return 200
        return 206 if self.start() < len(self.state.content) else 416

    def start(self) -> int:
        match = re.match(r"bytes=(\d+)-", self.headers["Range"])
        return int(match[1]) if match else 0

    def log_message(self, *args: object) -> None:
        pass

    def finish(self) -> None:
        if not self.wfile.closed and not self.close_connection:
            super().finish()


@pytest.fixture
def server(archive: bytes) -> Iterator[Server]:
    """Serves `archive` as /mine.zip on a free port."""
    state = Server(content=archive)
    handler = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.handle_error = lambda *args: None  # type: ignore[method-assign]
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_address[1]}/mine.zip"
        yield state
        http.shutdown()


@pytest.fixture(scope="session")
def archive() -> bytes:
    """A zip of twelve images with labels, about 3 MB."""
    packed = io.BytesIO()
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(packed, "w") as file:
        for i in range(12):
            image = noise.integers(0, 256, (300, 280, 3), np.uint8)
            label = np.arange(300 * 280).reshape(300, 280) % 3
            for name, pixels in (
                (f"images/{i}.png", image),
                (f"labels/{i}.png", label.astype(np.uint8)),
            ):
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "PNG", compress_level=1)
                file.writestr(f"mine/{name}", data.getvalue())
    return packed.getvalue()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SEGMODELS_CACHE",
        "AWS_ENDPOINT_URL",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def settings(**data: object) -> Params:
    return Params.model_validate({"models": {"enet": {}}, "data": data})


@pytest.fixture
def params() -> object:
    """Makes settings from those of the section `data`."""
    return settings
