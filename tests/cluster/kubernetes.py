"""A Kubernetes for tests, through kubectl: applying, waiting, looking, and a way to a service inside it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers import ports

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds


@dataclass(frozen=True)
class Kubernetes:
    """A cluster as `KUBECONFIG` names it."""

    config: str

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs kubectl."""
        usual: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": PATIENCE,
            "cwd": ROOT,
            "env": self.environment,
        }
        done = subprocess.run(["kubectl", *arguments], **{**usual, **options})
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr[-3000:]}"
        return done

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"KUBECONFIG": self.config}

    def get(self, *what: str) -> Any:
        """A resource, or a list of them."""
        return json.loads(self("get", *what, "--output=json").stdout)

    def exists(self, *what: str) -> bool:
        return self("get", *what, check=False).returncode == 0

    def apply(self, *resources: Mapping[str, Any]) -> None:
        self("apply", "--server-side", "--force-conflicts", "--filename=-", input=yaml.safe_dump_all(resources))

    def create(self, resource: Mapping[str, Any]) -> str:
        """Makes a resource; gives its name."""
        made = self("create", "--filename=-", "--output=json", input=json.dumps(resource)).stdout
        return str(json.loads(made)["metadata"]["name"])

    def anew(self, resource: Mapping[str, Any]) -> str:
        """Makes a resource in place of an earlier one of that name, which is gone before; gives the name."""
        what = (
            resource["kind"].lower(),
            resource["metadata"]["name"],
            f"--namespace={resource['metadata']['namespace']}",
        )
        self.delete(*what)
        self.wait(lambda: not self.exists(*what))
        return self.create(resource)

    def delete(self, *what: str) -> None:
        self("delete", *what, "--ignore-not-found", "--wait=false", "--grace-period=0", "--force", check=False)

    def wait(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """What a condition gives once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"did not come about within {seconds} s"
            time.sleep(0.5)
        return found

    def pod(self, namespace: str, name: str) -> Any:
        return self.get("pod", name, f"--namespace={namespace}")

    def phase(self, namespace: str, name: str) -> str:
        return str(self.pod(namespace, name)["status"]["phase"])

    def ended(self, namespace: str, name: str, seconds: float = PATIENCE) -> str:
        """The phase in which a pod ends."""
        return str(
            self.wait(
                lambda: (phase := self.phase(namespace, name)) in ("Succeeded", "Failed") and phase, seconds=seconds
            )
        )

    def log(self, namespace: str, name: str) -> str:
        return self("logs", name, f"--namespace={namespace}", check=False).stdout

    @contextlib.contextmanager
    def forwarded(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """An address here that leads to a service there."""
        here = ports.free()
        command = ["kubectl", "port-forward", f"--namespace={namespace}", f"service/{service}", f"{here}:{port}"]
        ended = threading.Event()
        opened: queue.Queue[str] = queue.Queue()
        ways: list[subprocess.Popen[str]] = []

        def keep() -> None:
            # It ends with the first connection that breaks.
            while not ended.wait(0.2):
                ways[:] = [
                    subprocess.Popen(
                        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment
                    )
                ]
                with ways[0] as way:
                    assert way.stdout is not None
                    for line in way.stdout:
                        opened.put(line)

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            line = opened.get(timeout=PATIENCE)
            assert line.startswith("Forwarding from"), line
            yield f"http://localhost:{here}"
        finally:
            ended.set()
            for way in ways:
                way.terminate()
            keeper.join(timeout=30)
