"""Files in an object store, `s3://bucket/prefix`: listed, fetched, and stored whole or not at all.

Credentials, region and endpoint (`AWS_ENDPOINT_URL`) are those of the environment. fsspec does the talking, so other
stores work where their library is installed.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from segmodels.data.folder import DatasetError
from segmodels.files import relative

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")
_ATTEMPTS = 4
_PART = 8 << 20
# A multipart upload has at most 10,000 parts.
_PARTS = 9_000


class RemoteError(DatasetError):
    """The store refuses or does not answer; the message names the address."""


def is_remote(text: str) -> bool:
    """Tell whether it is an address, not a path."""
    return _SCHEME.match(text) is not None


class Store:
    """What lies below an address; names are relative to it.

    Args:
        url: `s3://bucket/prefix`, or of an object.

    Raises:
        RemoteError: The address names no bucket, or its kind is not known.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        scheme, _, rest = url.partition("://")
        if not rest.strip("/"):
            raise RemoteError(f"{url}: names no bucket; write {scheme}://bucket/prefix")
        self.url = url.rstrip("/")
        # Neither listings nor connections of an earlier call: the store and the environment may have changed.
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "s3":
            settings = {"connect_timeout": 10, "read_timeout": 60}
            options["config_kwargs"] = {**settings, "retries": {"mode": "standard", "max_attempts": _ATTEMPTS}}
        with self._told(""):
            self._fs, self._root = fsspec.core.url_to_fs(self.url, **options)

    def address(self, name: str | PurePosixPath) -> str:
        """Return the whole address of a name."""
        return f"{self.url}/{name}"

    @functools.cached_property
    def files(self) -> frozenset[str]:
        """The names of all files below the address, as they were when it was first asked.

        Raises:
            RemoteError: The store refuses or does not answer.
        """
        with self._told(""):
            try:
                keys = self._fs.find(self._root)
            except FileNotFoundError:
                return frozenset()
        names = frozenset(name[len(self._root) :].lstrip("/") for name in keys if not name.endswith("/"))
        for name in names - {""}:
            # Names of objects become paths below the folder of the results.
            relative(name, f"{self.url}: key")
        return names

    @property
    def is_file(self) -> bool:
        """Whether the address is that of an object."""
        return self.files == {""}

    def parent(self) -> Store:
        """Return what the address lies in."""
        return Store(self.url.rpartition("/")[0])

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to read, of which only what is asked for is transferred."""
        with self._told(name), self._fs.open(self._path(name), "rb", block_size=1 << 16) as file:
            yield file

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to `path`."""
        with self._told(name):
            self._fs.get_file(self._path(name), str(path))

    def put(self, path: Path, name: str) -> None:
        """Copy a file, or all files of a folder, here.

        A file appears when all of it is there. Of a folder the first file comes last, so that where it exists the
        others do, too (`has`).
        """
        with self._told(name):
            if not path.is_dir():
                self._upload(path, self._path(name))
                return
            first, *others = sorted(path.iterdir())
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(f"{name}/{first.name}"))
            if others:
                self._fs.put([str(p) for p in others], [self._path(f"{name}/{p.name}") for p in others])
            self._upload(first, self._path(f"{name}/{first.name}"))

    def has(self, name: str, *, first: str = "") -> bool:
        """Tell whether a file exists, or a folder whose first file is `first`."""
        return (f"{name}/{first}" if first else name) in self.files

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    def _upload(self, path: Path, target: str) -> None:
        size = max(_PART, path.stat().st_size // _PARTS)
        file = self._fs.open(target, "wb", block_size=size, autocommit=False)
        try:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, _PART)
            file.close()
            file.commit()
        except BaseException:
            # Closing would store what there is; the parts that were sent are dropped instead.
            file.closed = True
            with contextlib.suppress(Exception):
                file.discard()
            raise

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors as sentences; each store's library has its own."""
        shown = self.address(name) if name else self.url
        try:
            yield
        except DatasetError:
            raise
        except FileNotFoundError:
            raise RemoteError(f"{shown}: no such bucket or object; check the address") from None
        except PermissionError as error:
            raise RemoteError(
                f"{shown}: access is denied ({_line(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except Exception as error:
            raise RemoteError(
                f"{shown}: {_line(error)}; check the address, AWS_ENDPOINT_URL and the network, then run this again"
            ) from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
