"""From `data.source` to a local archive or folder, with its checksum compared."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from components.download import held
from components.download.progress import progress
from components.download.transfer import LineError, transfer
from components.errors import StepError
from components.lock import only_one, project_folder
from segmodels.files import refused_path

CONNECTIONS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    """What was fetched: a folder or an archive, and where it came from as `dataset.json` records it."""

    path: Path
    source: dict[str, Any]


def fetch(source: str, cache: Path, *, sha256: str | None, retries: int, backoff: float = 0.5) -> Fetched:
    """Make a source lie on this machine.

    Args:
        source: A folder, an archive, an http(s), file or s3 address, or what `components.download.held` knows.
        cache: Where downloads lie, whole ones and parts.
        sha256: What the archive must have, in hexadecimal digits, or None.
        retries: How often a broken connection is tried again.
        backoff: Seconds before the first retry.

    Raises:
        StepError: The source is not to be had, or its checksum is another.
    """
    scheme = urlsplit(source).scheme.lower() if "://" in source and not source.startswith(held.DVC) else ""
    sha256 = sha256.strip().lower() if sha256 else None
    if scheme in ("http", "https"):
        with only_one(_place(cache, source)):
            return _http(source, cache, sha256, retries, backoff)
    if scheme == "s3":
        with only_one(_place(cache, source)):
            return _s3(source, cache, sha256, retries, backoff)
    if source.startswith((held.DVC, *held.MLFLOW)):
        return _held(source, cache, sha256)
    if scheme not in ("", "file"):
        raise StepError(f"data.source: {source}: {scheme}:// is not known; http, https, s3 and file are")
    return _local(source, scheme, sha256)


def _local(source: str, scheme: str, sha256: str | None) -> Fetched:
    path = Path(url2pathname(unquote(urlsplit(source).path)) if scheme else source).expanduser()
    if not path.is_absolute() and not path.exists():
        path = project_folder() / path
    if path.is_dir():
        if sha256:
            raise StepError(f"data.sha256: {source} is a folder; a checksum belongs to an archive: leave it out")
        return Fetched(path, {"path": source})
    if not path.is_file():
        raise StepError(
            f"data.source: {source}: no such file or folder; give `streets`, a folder, an archive, "
            "or an http, https, s3, file, dvc+ or MLflow address (docs/datasets.md)"
        )
    digest = sha256_of(path)
    if sha256 and digest != sha256:
        raise StepError(_mismatch(source, sha256, digest))
    return Fetched(path, {"path": source, "sha256": digest})


def _held(source: str, cache: Path, sha256: str | None) -> Fetched:
    if sha256:
        raise StepError("data.sha256: a revision of a repository or of MLflow says what it is; leave the checksum out")
    target = _place(cache, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    bring = held.from_dvc if source.startswith(held.DVC) else held.from_mlflow
    with only_one(target):
        return Fetched(target, bring(source, target))


def _http(url: str, cache: Path, sha256: str | None, retries: int, backoff: float) -> Fetched:
    from components.download import http

    target = _place(cache, url)
    label = http.shown(url)
    digest = _download(http.opener(url), target, label, sha256, retries, backoff)
    return Fetched(target, {"url": label, "sha256": digest})


def _s3(url: str, cache: Path, sha256: str | None, retries: int, backoff: float) -> Fetched:
    from components import s3 as store
    from components.download import s3

    client = store.client()
    bucket, key = store.split(url)
    sizes = patiently(lambda: s3.objects(client, bucket, key), url, retries, backoff)
    target = _place(cache, url)
    if key in sizes:
        digest = _download(s3.opener(client, bucket, key), target, url, sha256, retries, backoff)
        return Fetched(target, {"url": url, "sha256": digest})
    if not sizes:
        raise StepError(f"{url}: there is no such object, and none below it; check data.source")
    if sha256:
        raise StepError(f"data.sha256: {url} is a folder; a checksum belongs to an archive: leave it out")
    names = {name: _below(url, name.removeprefix(key.rstrip("/")).lstrip("/")) for name in sizes}
    objects = target.with_name(target.name + ".objects")

    def bring(name: str) -> int:
        stored = objects / hashlib.sha256(name.encode()).hexdigest()
        opener = s3.opener(client, bucket, name)
        transfer(
            opener,
            stored,
            label=f"s3://{bucket}/{name}",
            retries=retries,
            backoff=backoff,
            quiet=True,
        )
        (target / names[name]).parent.mkdir(parents=True, exist_ok=True)
        os.link(stored, target / names[name])
        return sizes[name]

    shutil.rmtree(target, ignore_errors=True)
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        progress(url, sum(sizes.values())) as advance,
    ):
        for size in pool.map(bring, names):
            advance(size)
    return Fetched(target, {"url": url})


def _download(
    opener: Any,
    target: Path,
    label: str,
    sha256: str | None,
    retries: int,
    backoff: float,
) -> str:
    """Bring the file to `target`; one with another checksum is put aside, and used when that was the right one."""
    aside = target.with_name(target.name + ".mismatch")
    if sha256:
        for known in (target, aside):
            if known.is_file() and sha256_of(known) == sha256:
                os.replace(known, target)
                return sha256
    transfer(
        opener,
        target,
        label=label,
        retries=retries,
        backoff=backoff,
        verified=sha256 is not None,
    )
    digest = sha256_of(target)
    if sha256 and digest != sha256:
        os.replace(target, aside)
        raise StepError(_mismatch(label, sha256, digest) + f" (what was downloaded is kept as {aside})")
    return digest


def patiently(ask: Callable[[], T], label: str, retries: int, backoff: float) -> T:
    """Return what `ask` gives, asked again while the line is bad.

    Raises:
        StepError: There was no answer.
    """
    for attempt in range(retries + 1):
        try:
            return ask()
        except LineError as error:
            reason = str(error)
        if attempt < retries:
            time.sleep(backoff * 2**attempt)
    raise StepError(f"{label}: no answer after {retries + 1} attempts: {reason}; check the network and run it again")


def _mismatch(label: str, wanted: str, digest: str) -> str:
    return f"{label}: its sha256 is {digest}, but data.sha256 wants {wanted}; correct the one that is wrong"


def _place(cache: Path, url: str) -> Path:
    """Return a file name of the address's own, readable and without what a file name must not have."""
    name = re.sub(r"[^\w.-]+", "_", PurePosixPath(unquote(urlsplit(url).path)).name)[-80:].lstrip(".")
    return cache / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name or 'download'}"


def _below(url: str, name: str) -> str:
    if why := refused_path(name):
        raise StepError(f"{url}: refused, nothing was converted: key {name[:120]!a} {why}")
    return name


def sha256_of(path: Path) -> str:
    """Return the file's sha256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
