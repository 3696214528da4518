"""The resume state of a training in the object store, so that a pod on another node goes on where the last one stopped.

What lies under an address belongs to one training (key, settings, data); below it each pod writes under a name of its
own, since a node that was given up may still be running one. `state.pt` is the last object to be written, and names the
best weights that lie beside it; so whenever a pod is killed, what is there is whole.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components import s3
from components.errors import StepError

STATE = "state.pt"
BEST = "best-*.safetensors"
# Metadata of the stored state: the weights that belong to it.
BESIDE = "beside"
# Standard mode waits up to 20 s between attempts, so this survives a store that is away for half a minute.
ATTEMPTS = 8


class RemoteState:
    """A folder's resume state below an address of the object store.

    Raises:
        StepError: The address names no bucket.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url.rstrip("/")
        self._bucket, self._prefix = s3.split(self.url)
        self._client: Any = s3.client(ATTEMPTS)
        self._writer = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}
        self._wanted, self._ended = threading.Event(), threading.Event()

    def fetch(self) -> bool:
        """Bring the state here where this folder has none; say whether it did.

        Raises:
            StepError: The store is not to be had: training anew would lose what lies there.
        """
        if (self.folder / STATE).is_file():
            return False
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for _ in range(ATTEMPTS):
                brought = self._brought()
                if brought is not None:
                    break
                time.sleep(1)
            else:
                raise StepError(f"{self.url}: the training's state is not whole; remove what lies there to train anew")
        except (ClientError, BotoCoreError, OSError) as error:
            raise StepError(
                f"{self.url}: the training's state cannot be read ({_reason(error)}); run the step again when the "
                "object store is back, or remove what lies there to train anew"
            ) from None
        if brought:
            print(f"the training's state was brought from {self.url}", flush=True)
        return brought

    def push(self) -> bool:
        """Store the state that the folder has now; say whether the store has it."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            while not self._pushed():
                pass
        except (Boto3Error, BotoCoreError, ClientError, OSError) as error:
            print(
                f"note: {self.url}: the training's state was not stored ({_reason(error)}); training goes on",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True

    @contextlib.contextmanager
    def mirrored(self) -> Iterator[RemoteState]:
        """While the body runs, `notify` has the state stored by another thread; it is stored once more when the body
        fails or is told to stop, and removed when it ends well."""
        thread = threading.Thread(target=self._mirror, daemon=True)
        thread.start()
        try:
            yield self
        except BaseException:
            self._end(thread)
            if (self.folder / STATE).is_file():
                self.push()
            raise
        self._end(thread)
        self._remove()

    def notify(self) -> None:
        """Note that the folder has a new state."""
        self._wanted.set()

    def _remove(self) -> None:
        """Remove the training from the store; what cannot be removed stays and does no harm."""
        from botocore.exceptions import BotoCoreError, ClientError

        with contextlib.suppress(ClientError, BotoCoreError):
            keys = [entry["Key"] for entry in self._objects()]
            for key in sorted(keys, key=lambda key: not key.endswith(STATE)):  # first what makes the others count
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def _end(self, thread: threading.Thread) -> None:
        self._ended.set()
        self._wanted.set()
        thread.join()

    def _brought(self) -> bool | None:
        """Bring the latest state; False where there is none, None where it was replaced meanwhile."""
        from botocore.exceptions import ClientError

        states = [entry for entry in self._objects() if entry["Key"].endswith(f"/{STATE}")]
        if not states:
            return False
        state = max(states, key=lambda entry: entry["LastModified"])["Key"]
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob("*.part"):
            part.unlink()
        try:
            known = self._client.head_object(Bucket=self._bucket, Key=state)
            # Not by a listing: some stores take a while until theirs are up to date.
            names = [*filter(None, known["Metadata"].get(BESIDE, "").split(",")), STATE]
            for name in names:
                key = state.removesuffix(STATE) + name
                self._client.download_file(self._bucket, key, str(self.folder / f"{name}.part"))
            if self._client.head_object(Bucket=self._bucket, Key=state)["ETag"] != known["ETag"]:
                return None
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return None
            raise
        for name in names:  # last what makes the others count
            os.replace(self.folder / f"{name}.part", self.folder / name)
        return True

    def _mirror(self) -> None:
        while self._wanted.wait() and not self._ended.is_set():
            self._wanted.clear()
            if (self.folder / STATE).is_file():
                self.push()

    def _pushed(self) -> bool:
        """Store best weights, then the state; False where training replaced the state meanwhile."""
        path = self.folder / STATE
        try:
            with path.open("rb") as state:
                version = _version(state.fileno())
                if self._sent.get(STATE) == version:
                    return True
                beside = sorted(best.name for best in self.folder.glob(BEST))
                for name in beside:
                    with (self.folder / name).open("rb") as weights:
                        self._send(name, weights)
                # Best weights go only after a newer state has come: while it is the same, all that it names is here.
                if _version(path) != version:
                    return False
                self._send(STATE, state, {BESIDE: ",".join(beside)})
        except FileNotFoundError:
            return not path.is_file()
        # What the stored state names stays, also where the folder has forgotten it by now.
        for name in self._sent.keys() - {STATE, *beside}:
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
            del self._sent[name]
        return True

    def _send(self, name: str, file: Any, metadata: Mapping[str, str] | None = None) -> None:
        version = _version(file.fileno())
        if self._sent.get(name) != version:
            # boto3 closes what it is given.
            with open(os.dup(file.fileno()), "rb") as copy:
                extra = {"Metadata": dict(metadata or {})}
                self._client.upload_fileobj(copy, self._bucket, self._key(name), ExtraArgs=extra)
            self._sent[name] = version

    def _objects(self) -> list[dict[str, Any]]:
        """Return what all pods have stored of this training."""
        prefix = f"{self._prefix}/".lstrip("/")
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return [entry for page in pages for entry in page.get("Contents", ())]

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{self._writer}/{name}".lstrip("/")


def _version(file: int | Path) -> tuple[int, int]:
    """Differs where a file was replaced."""
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    return status.st_ino, status.st_mtime_ns


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
