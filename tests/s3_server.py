"""A real S3 server on this machine for tests: OpenStack Swift with its S3 interface, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
VERSION = "2.38.3"
ENVIRONMENT = ROOT / ".cache" / f"swift-{VERSION}"
USER, PASSWORD = "test:tester", "testing"
_KINDS = ("account", "container", "object")

# One process for all rings: swift-ring-builder would be started nine times.
_RINGS = """
from swift.common.ring import RingBuilder
for path, port in {rings}:
    builder = RingBuilder(4, 1, 0)
    place = dict(region=1, zone=1, ip="127.0.0.1", port=port, device="d1", weight=1.0)
    builder.add_dev({{**place, "replication_ip": "127.0.0.1", "replication_port": port}})
    builder.rebalance()
    builder.get_ring().save(path)
"""


@dataclass(frozen=True)
class Server:
    """Where the server listens, and how clients of S3 are told of it."""

    port: int
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Runs a server with an empty store under `folder`; skips the test where Swift is not to be had."""
    programs = _programs()
    ports = dict(zip((*_KINDS, "proxy"), _free_ports(4), strict=True))
    _configure(folder, programs, ports)
    log = folder / "log"
    processes = []
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    try:
        with log.open("w") as out:
            for kind in (*_KINDS, "proxy"):
                command = [programs / "python", programs / f"swift-{kind}-server", folder / f"{kind}.conf", "-v"]
                processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))
        server = Server(ports["proxy"], log)
        _wait(server, processes)
        yield server
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _programs() -> Path:
    """Where Swift's programs are, installed on first use."""
    programs = ENVIRONMENT / "bin"
    if (programs / "swift-proxy-server").exists():
        return programs
    part = ENVIRONMENT.with_name(f"{ENVIRONMENT.name}.{os.getpid()}")
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    steps = ([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(part)],)
    steps += ([uv, "pip", "install", "--quiet", "--python", str(part), f"swift=={VERSION}"],)
    try:
        for step in steps:
            subprocess.run(step, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(part, ignore_errors=True)
        pytest.skip(f"OpenStack Swift cannot be installed ({type(error).__name__})")
    try:
        os.replace(part, ENVIRONMENT)
    except OSError:  # another worker was faster
        shutil.rmtree(part, ignore_errors=True)
    return programs


def _configure(folder: Path, programs: Path, ports: dict[str, int]) -> None:
    (folder / "node" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n")
    rings = [(str(folder / f"{kind}.ring.gz"), ports[kind]) for kind in _KINDS]
    subprocess.run([programs / "python", "-c", _RINGS.format(rings=rings)], check=True, capture_output=True)
    for kind in _KINDS:
        (folder / f"{kind}.conf").write_text(
            f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {ports[kind]}\nworkers = 0\nuser = {_user()}\n"
            f"swift_dir = {folder}\ndevices = {folder}/node\nmount_check = false\nfallocate_reserve = 0\n"
            f"log_statsd_host =\n[pipeline:main]\npipeline = {kind}-server\n"
            f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        )
    (folder / "proxy.conf").write_text(
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {ports['proxy']}\nworkers = 0\nuser = {_user()}\n"
        f"swift_dir = {folder}\n[pipeline:main]\n"
        "pipeline = catch_errors cache listing_formats bulk s3api tempauth slo proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n"
        "[filter:catch_errors]\nuse = egg:swift#catch_errors\n[filter:cache]\nuse = egg:swift#memcache\n"
        "[filter:listing_formats]\nuse = egg:swift#listing_formats\n[filter:bulk]\nuse = egg:swift#bulk\n"
        "[filter:slo]\nuse = egg:swift#slo\nmin_segment_size = 1\n"
        "[filter:s3api]\nuse = egg:swift#s3api\ns3_acl = false\nlocation = us-east-1\nmin_segment_size = 1\n"
        "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\n"
    )


def _user() -> str:
    import getpass

    return getpass.getuser()


def _wait(server: Server, processes: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(process.poll() is not None for process in processes):
            break
        try:
            urlopen(server.environment["AWS_ENDPOINT_URL"], timeout=5)
            return
        except HTTPError:  # it asks who we are, and so is there
            return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {server.log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
