"""A served model: a process of its own on a free port of loopback, and a client."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.artifacts.sources import Source
from segmodels.data.folder import ClassInfo
from segmodels.serving.app import create_app
from segmodels.serving.engine import Engine
from segmodels.serving.follow import Follower
from segmodels.serving.metrics import Metrics
from segmodels.serving.service import Limits, Service

CLASSES = (ClassInfo("ground", (120, 80, 40)), ClassInfo("box", (200, 30, 30)), ClassInfo("sky", (90, 160, 220)))
SECONDS = 120  # nothing here takes that long; a server that hangs fails the test


@dataclass
class Reply:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def classes(self) -> np.ndarray:
        """The class ids of a class map."""
        with Image.open(io.BytesIO(self.body)) as image:
            assert image.mode == "P"
            return np.asarray(image)

    @property
    def model(self) -> tuple[str, str, str]:
        """Name, version and hash of the weights, as the headers have them."""
        return tuple(self.headers[f"X-Model-{part}"] for part in ("Name", "Version", "SHA256"))  # type: ignore[return-value]


def ask(port: int, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Sends a request on a connection of its own; bytes are an image unless the headers say what they are."""
    headers = dict(headers or {})
    if body is not None:
        headers.setdefault("Content-Type", "image/png")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())  # type: ignore[arg-type]
    finally:
        connection.close()


@dataclass
class Server:
    """A running `segmodels serve`."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """As the function of this name."""
        return ask(self.port, path, body, headers)

    def metric(self, name: str) -> float:
        """The value of a metric, all labels added up."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def wait(self, is_so: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Waits until something is so, but not for longer than so many seconds."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return self.ask("/ready").status == 200
        except OSError:
            return False


def write_model(folder: Path, always: int | None = None, seed: int = 0) -> Path:
    """A small U-Net of three classes with random weights, or one that sees the same class everywhere."""
    torch.manual_seed(seed)
    config = ModelConfig("unet", CLASSES, {"width": 4, "batch_norm": True}, metrics={"val_miou": 0.5})
    weights = config.build().state_dict()
    if always is not None:
        weights["classifier.weight"].zero_()
        weights["classifier.bias"].copy_(10 * torch.eye(len(CLASSES))[always])
    save_model(folder, config, weights)
    return folder


@contextlib.contextmanager
def serving(target: str | Path, log: Path, *options: str, **env: str) -> Iterator[Server]:
    """Serves a target until the end of the block; the port is one that the kernel finds."""
    code = "import sys; from segmodels.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(target), "--port=0", "--device=cpu", "--precision=32"]
    safe = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **env}
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--poll=0.2", *options], stdout=out, stderr=out, env=os.environ | safe)
    server = Server(0, process, log)
    try:
        server.wait(lambda: "running on http" in log.read_text())
        server.port = int(log.read_text().partition("running on http://127.0.0.1:")[2].split()[0])
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)


@contextlib.contextmanager
def in_process(source: Source) -> Iterator[tuple[Service, int]]:
    """Serves a source from a thread of this process until the end of the block; gives its port as well."""
    engine, metrics = Engine(None, 0, lambda count, seconds: None), Metrics()
    follower = Follower(source, engine, metrics, interval=0.1, device="cpu", precision="32")
    service = Service(engine, follower, metrics, Limits(), threads=2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(create_app(service), log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            until(lambda: engine.model is not None)
            yield service, listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def until(is_so: Callable[[], bool]) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def form(files: Mapping[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form with files, and its header."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}
