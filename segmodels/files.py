"""Files: written whole or not at all, held by one process, hashed; and those that came from somewhere else.

What another process may read is written by `replaced`, and replaced at once. What two must not write at once is held
by `locked`. What may be made again lies in `cache_folder`.

A name that is read from a file, an archive, a manifest or a store goes through `name` or `relative` before it is joined
to a folder. JSON and YAML from outside are read by `read_json` and `read_yaml`, which bound their size and depth.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from segmodels.errors import UserError, printable, shown
from segmodels.runtime import available_cores

MAX_NAME, MAX_PATH, MAX_PARTS = 255, 1024, 32
MAX_DEPTH = 64
# Bytes of a description (dataset.json, model.json, profile.json, …), and of a file of settings.
MAX_JSON, MAX_YAML = 64 << 20, 1 << 20
# Values of a YAML document with every alias written out.
MAX_VALUES = 100_000
# ioctl_ficlone(2): the copy shares its blocks with the source until one of them is written.
_FICLONE = 0x40049409


class NameRefusedError(UserError, ValueError):
    """A name from outside that must not become a path."""


class ContentError(UserError, ValueError):
    """A file is not what its name promises, or is too large or too deep to be read."""


def name(given: Any, what: str) -> str:
    """Return a name from outside that is safe as one part of a path: as it is.

    Args:
        given: The name.
        what: What it names, for the message: `dataset.json: target`.

    Raises:
        NameRefusedError: It is empty, hidden, overlong, not text, or would lead elsewhere.
    """
    if why := _unsafe(given):
        raise NameRefusedError(f"{what} {_shown(given)} {why}; rename it: letters, digits, '_', '-' and '.' are safe")
    return str(given)


def relative(given: Any, what: str) -> PurePosixPath:
    """Return a path from outside that stays below the folder it is joined to: as it is, without `.` parts.

    Raises:
        NameRefusedError: It is absolute, points out of its folder, or one of its parts is no name.
    """
    if why := refused_path(given):
        raise NameRefusedError(f"{what} {_shown(given)} {why}")
    return PurePosixPath(given)


def refused_path(given: Any) -> str:
    """Return why a path from outside must not be joined to a folder; empty where it may."""
    if not isinstance(given, str) or not given:
        return "is no path"
    path = PurePosixPath(given)
    if path.is_absolute() or given[1:2] == ":" or given.startswith("\\"):
        return "has an absolute name"
    if ".." in path.parts:
        return "points out of the folder"
    if len(given) > MAX_PATH or len(os.fsencode(given)) > MAX_PATH or len(path.parts) > MAX_PARTS:
        return "has an overlong name"
    return next((why for part in path.parts if (why := _unsafe(part, hidden=True))), "")


def utf8(path: Path) -> Path:
    """Return a path that a person gave, or that was found, whose name is UTF-8: as it is.

    Raises:
        NameRefusedError: Its name has bytes that are no UTF-8, which no JSON, table or page could hold.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise NameRefusedError(f"{printable(path)}: its name is not UTF-8; rename the file") from None
    return path


def copy(source: Path, target: Path) -> None:
    """Copy a file's content; blocks are shared where the file system can (reflink), the file itself never is.

    A hard link would hand the owner's file to whoever manages the target: DVC makes what it caches read-only.
    """
    with source.open("rb") as read, target.open("wb") as written:
        try:
            import fcntl

            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
        except (OSError, ImportError):
            shutil.copyfileobj(read, written, 1 << 20)


@contextmanager
def replaced(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give a name beside a file or folder to write to; when the body ends well, that takes the target's place at once.

    Where the body fails the target stays as it was, and what was written goes. Folders above are made.

    Args:
        target: The file or folder.
        shared: Several processes may write it at once, each under a name of its own.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part" if shared else f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)
    try:
        yield part
        replace(part, target)
    finally:
        _remove(part)


def write_text(target: Path, text: str, *, shared: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; see `replaced`."""
    with replaced(target, shared=shared) as part:
        part.write_text(text, encoding="utf-8")


def replace(new: Path, target: Path) -> None:
    """Put a finished file or folder in the place of another one, which may exist."""
    if not target.is_dir() and (new.is_file() or not target.exists()):
        os.replace(new, target)
        return
    # The system replaces a file in one step, but no folder that holds anything.
    old = target.with_name(target.name + ".old")
    _remove(old)
    os.replace(target, old)
    os.replace(new, target)
    _remove(old)


@contextmanager
def locked(path: Path, busy: UserError | None = None) -> Iterator[None]:
    """Hold a lock file while the body runs; it goes with the process, so nothing is left after a kill.

    Args:
        path: The lock file; it stays.
        busy: Raised where another process holds it; None waits.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError:
            assert busy is not None
            raise busy from None
        yield


def cache_folder(name: str) -> Path:
    """Return the folder for what can be made or fetched again: in `SEGMODELS_CACHE`, or in the user's cache folder."""
    root = os.environ.get("SEGMODELS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "segmodels" / name


def folder_md5(folder: Path | str) -> str:
    """DVC 3's hash of a folder: the md5 of its manifest, with the suffix `.dir`."""
    paths = [Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names]
    with ThreadPoolExecutor(min(8, available_cores())) as pool:  # md5 runs outside the interpreter's lock
        hashes = list(pool.map(file_md5, paths))
    manifest = [
        {"md5": md5, "relpath": path.relative_to(folder).as_posix()} for path, md5 in zip(paths, hashes, strict=True)
    ]
    manifest.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(manifest, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def file_md5(path: Path) -> str:
    """Return the md5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, limit: int = MAX_JSON) -> str:
    """Return the text of a file.

    Raises:
        ContentError: It is no UTF-8, or has more than `limit` bytes.
        FileNotFoundError: There is no such file.
    """
    with open(path, "rb") as file:
        # Not simply `limit`: that much memory would be set aside for each small file.
        data = file.read(min(limit, max(os.fstat(file.fileno()).st_size, 1 << 16)) + 1)
    if len(data) > limit:
        raise ContentError(f"{printable(path)}: has more than {limit >> 10} kB, too many for what it should be")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContentError(f"{printable(path)}: is not text in UTF-8 (byte {error.start})") from None


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """Return the content of a JSON file.

    Raises:
        ContentError: It is no JSON, too large or too deep.
        FileNotFoundError: There is no such file.
    """
    return parse_json(read_text(path, limit), printable(path))


def parse_json(text: str | bytes, what: str) -> Any:
    """Return the value of JSON text; `what` begins the message.

    Raises:
        ContentError: It is no JSON, or too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ContentError(f"{what}: is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ContentError(f"{what}: not JSON ({error})") from None
    if _deep(value):
        raise ContentError(f"{what}: is nested more than {MAX_DEPTH} deep")
    return value


def read_yaml(path: Path, limit: int = MAX_YAML) -> Any:
    """Return the content of a YAML file.

    Aliases are allowed as long as the document with all of them written out stays small.

    Raises:
        ContentError: It is no YAML, is too large or too deep, its aliases multiply, or a key stands twice.
        FileNotFoundError: There is no such file.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            # PyYAML would keep the last of them. What `<<` brings in may be there, too.
            written: dict[str, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    line = key.start_mark.line + 1
                    if (first := written.setdefault(key.value, line)) != line:
                        raise ContentError(
                            f"{told}:{line}: key {shown(key.value)} stands in line {first}, too; keep one of them"
                        )
            return super().construct_mapping(node, deep)

    text, told = read_text(path, limit), printable(path)
    try:
        if why := _multiplies(text):
            raise ContentError(f"{told}: {why}")
        return yaml.load(text, Loader)
    except ContentError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ContentError(f"{told}: not valid YAML ({' '.join(str(error).split())})") from None


def _unsafe(given: Any, *, hidden: bool = False) -> str:
    """Return why a name must not become a part of a path; empty where it may."""
    if not isinstance(given, str):
        return "is no text"
    if not given.strip() or given in (".", ".."):
        return "is no name"
    if "/" in given or "\\" in given:
        return "points out of the folder"
    if given.startswith(".") and not hidden:
        return "begins with a dot"
    if any(ord(c) < 32 or ord(c) == 127 for c in given):
        return "has a control character in its name"
    try:
        length = len(given.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return "has an overlong name" if length > MAX_NAME else ""


def _shown(given: Any) -> str:
    text = ascii(given[:120]) if isinstance(given, str) else shown(given)
    return text if not isinstance(given, str) or len(given) <= 120 else text[:-1] + "...'"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _deep(value: Any) -> bool:
    """Tell whether lists and mappings are nested deeper than any that this project writes."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _multiplies(text: str) -> str:
    """Return why a YAML document is more than it seems; empty where it is not. Reads its events, builds nothing."""
    import yaml

    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                return f"the alias *{event.anchor} lies in what it stands for"
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_) >= MAX_DEPTH:
                return f"is nested more than {MAX_DEPTH} deep"
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if count > MAX_VALUES:
            return f"has more than {MAX_VALUES} values, its aliases written out"
    return ""
