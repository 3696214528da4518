"""OpenStack Swift with its S3 interface on loopback: a real object store, with real credentials, for tests.

It lives in an environment of its own below `.cache`, made from `swift.lock` where it is missing. Four processes: proxy,
account, container and object server, and none of the daemons that repair what a test never breaks.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import ports

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("swift.lock")
HOME = ROOT / ".cache" / "swift"
USER, SECRET = "test:tester", "testing"
START_SECONDS = 60

_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for name, port in zip(("account", "container", "object"), ports, strict=True):
    builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""

_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
min_segment_size = 1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
"""

_STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


class NotInstalledError(Exception):
    """Swift cannot be installed here; the message says why."""


@dataclass
class Swift:
    """A running store.

    Attributes:
        url: Its S3 address.
        folder: Where it keeps everything.
    """

    url: str
    folder: Path
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and everything above it reads."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self, secret: str = SECRET) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=USER,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def bucket(self, name: str) -> str:
        """Makes a bucket; gives its address."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def stop(self, name: str = "proxy") -> None:
        """Ends one of the servers; connections that are open are cut."""
        process = self._processes.pop(name)
        # The server leads a group: its workers end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start(self, name: str = "proxy") -> None:
        """Starts one of the servers, again."""
        conf = self.folder / f"{name}.conf"
        log = (self.folder / f"{name}.log").open("ab")
        command = [str(_bin() / f"swift-{name}-server"), str(conf)]
        self._processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        port = int(next(line for line in conf.read_text().splitlines() if line.startswith("bind_port")).split()[-1])
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"swift-{name}-server: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.05)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Swift]:
    """A store that keeps what it is given in an empty folder.

    Raises:
        NotInstalledError: Swift is not installed and cannot be fetched.
    """
    install()
    (folder / "nodes" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = a\nswift_hash_path_prefix = b\n"
        "[storage-policy:0]\nname = only\ndefault = yes\n"
    )
    names = ("proxy", "account", "container", "object")
    bound = {name: ports.free() for name in names}
    rings = [str(bound[name]) for name in names[1:]]
    subprocess.run([str(_bin() / "python"), "-c", _RINGS, str(folder), *rings], check=True, capture_output=True)
    for name in names:
        shared = {
            "bind_ip": "127.0.0.1",
            "bind_port": bound[name],
            "swift_dir": folder,
            "devices": folder / "nodes",
            "mount_check": "false",
            "workers": 0,
            "user": getpass.getuser(),
            "fallocate_reserve": 0,
            "log_level": "WARNING",
        }
        body = _PROXY.format(secret=SECRET) if name == "proxy" else _STORAGE.format(kind=name)
        (folder / f"{name}.conf").write_text(
            "[DEFAULT]\n" + "".join(f"{key} = {value}\n" for key, value in shared.items()) + body
        )
    store = Swift(f"http://127.0.0.1:{bound['proxy']}", folder)
    try:
        for name in reversed(names):
            store.start(name)
        yield store
    finally:
        for name in list(store._processes):
            store.stop(name)


def install() -> None:
    """Makes Swift's environment from its lock file, once.

    Raises:
        NotInstalledError: It cannot be fetched.
    """
    done = HOME / f"{LOCK.stat().st_size}-{sys.version_info.minor}"
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
        if not Path(uv).is_file():
            raise NotInstalledError("uv is not here to install OpenStack Swift; `make setup` fetches it")
        commands = (
            [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(HOME / "venv")],
            [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(HOME / "venv"), str(LOCK)],
        )
        for command in commands:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if ran.returncode != 0:
                reason = (ran.stderr.strip().splitlines() or ["uv says nothing"])[-1]
                raise NotInstalledError(f"OpenStack Swift cannot be installed: {reason}")
        done.touch()


def _bin() -> Path:
    return HOME / "venv" / "bin"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
