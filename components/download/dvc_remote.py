"""A version of the dataset folder from a DVC remote, without git and without DVC.

DVC keeps a folder as a manifest, `files/md5/ab/cdef….dir`, a JSON list of {md5, relpath}, and each file under its own
hash. So the hash of a folder, which git pins in `dvc.lock`, names every byte of it, and each is checked on arrival.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.download.fetch import CONNECTIONS, patiently
from components.download.progress import progress
from components.download.transfer import transfer
from components.errors import StepError
from segmodels.errors import shown
from segmodels.files import copy, file_md5, read_json, refused_path, replaced

SUFFIX = ".dir"


@dataclass(frozen=True)
class Remote:
    """A DVC remote: `s3://bucket/prefix` or a folder of this machine.

    Attributes:
        url: Its address.
        bring: (object, target) makes an object lie at the target; broken connections are tried again.
        missing: Which of some objects it lacks.
    """

    url: str
    bring: Callable[[str, Path], None]
    missing: Callable[[list[str]], list[str]]

    @classmethod
    def at(cls, url: str, *, retries: int = 7, backoff: float = 0.5) -> Remote:
        """Return the remote behind an address.

        Raises:
            StepError: The address is neither S3's nor a folder's.
        """
        if "://" in url and not url.startswith("s3://"):
            raise StepError(f"{url}: a DVC remote of this kind cannot be read in a pod; s3://bucket/prefix can")
        return _s3(url, retries, backoff) if url.startswith("s3://") else _folder(Path(url))


def object_name(md5: str) -> str:
    """Return where a remote keeps what has this hash."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def manifest(remote: Remote, md5: str, cache: Path) -> list[dict[str, str]]:
    """Return the files of a folder version, `{"md5", "relpath"}` each.

    Args:
        remote: Where it lies.
        md5: The folder's hash, `<md5>.dir`.
        cache: Where downloads lie.

    Raises:
        StepError: The remote does not have it, it is damaged, or a path in it points out of the folder.
    """
    if not md5.endswith(SUFFIX):
        raise StepError(f"{md5}: not the hash of a folder; dvc.lock has it as <md5>.dir")
    _hash(md5.removesuffix(SUFFIX), "dvc.lock:")
    path = cache / md5
    _bring(remote, md5, path)
    entries = read_json(path)
    where = f"{remote.url}: refused, nothing was written:"
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise StepError(f"{where} {object_name(md5)} is no list of files")
    for entry in entries:
        if why := refused_path(entry.get("relpath")):
            raise StepError(f"{where} {shown(entry.get('relpath'))} {why}")
        _hash(entry.get("md5"), where)
    return entries


def unpushed(remote: Remote, md5: str, cache: Path) -> list[str]:
    """Return the objects of a folder version that the remote lacks; the manifest alone where that is missing."""
    if remote.missing([object_name(md5)]):
        return [object_name(md5)]
    return remote.missing(sorted({object_name(entry["md5"]) for entry in manifest(remote, md5, cache)}))


def fetch(remote: Remote, md5: str, out: Path, cache: Path) -> None:
    """Write the folder `out` in exactly that version; what was there is replaced only when all of it is here.

    Raises:
        StepError: An object is missing, damaged or not to be had.
    """
    entries = manifest(remote, md5, cache)

    def place(entry: dict[str, str], part: Path) -> None:
        stored, target = cache / entry["md5"], part / entry["relpath"]
        _bring(remote, entry["md5"], stored)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Never the cache's own file: DVC would make it read-only, or link it into its cache.
        copy(stored, target)

    # One transfer for each content: two files may have the same.
    unique = {entry["md5"]: entry for entry in entries}
    again = [entry for entry in entries if unique[entry["md5"]] is not entry]
    with (
        replaced(out) as part,
        ThreadPoolExecutor(CONNECTIONS) as pool,
        progress(remote.url, len(entries), samples=True) as advance,
    ):
        for group in (unique.values(), again):
            for _ in pool.map(partial(place, part=part), group):
                advance(1)


def _hash(given: object, where: str) -> None:
    """Refuse what is no hash: it becomes the name of a file in the cache."""
    if not (isinstance(given, str) and re.fullmatch(r"[0-9a-f]{32}", given)):
        raise StepError(f"{where} {shown(given)} is no md5")


def _bring(remote: Remote, md5: str, target: Path) -> None:
    """Make the object lie at the target; one that is there already is believed only with its hash."""
    wanted = md5.removesuffix(SUFFIX)
    if target.is_file() and file_md5(target) == wanted:
        return
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    remote.bring(object_name(md5), target)
    digest = file_md5(target)
    if digest != wanted:
        target.unlink()
        raise StepError(
            f"{remote.url}/{object_name(md5)}: its md5 is {digest}; the remote is damaged, `dvc push` the data again"
        )


def _folder(root: Path) -> Remote:
    def bring(name: str, target: Path) -> None:
        if not (root / name).is_file():
            raise StepError(f"{root / name}: no such file; `dvc push` the data, or check the remote's address")
        with replaced(target) as part:
            shutil.copyfile(root / name, part)

    return Remote(str(root), bring, lambda names: [name for name in names if not (root / name).is_file()])


def _s3(url: str, retries: int, backoff: float) -> Remote:
    from components import s3 as store
    from components.download import s3

    client: Any = store.client()
    bucket, prefix = store.split(url)

    def key(name: str) -> str:
        return f"{prefix.rstrip('/')}/{name}".lstrip("/")

    def bring(name: str, target: Path) -> None:
        transfer(
            s3.opener(client, bucket, key(name)),
            target,
            label=f"s3://{bucket}/{key(name)}",
            retries=retries,
            backoff=backoff,
            quiet=True,
        )

    def missing(names: list[str]) -> list[str]:
        there = patiently(lambda: s3.objects(client, bucket, key("files/md5/")), url, retries, backoff)
        return [name for name in names if key(name) not in there]

    return Remote(f"s3://{urlsplit(url).netloc}/{prefix}".rstrip("/"), bring, missing)
