"""Unpacking archives that nobody has vouched for.

Every member is judged by its name, kind and size before it is written; the first that does not belong is refused by
name, and the folder goes. No symbolic link is ever made: a link inside the archive becomes a hard link to the file it
means, so nothing can be written or read through one.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from components.disk import need_space
from components.download.progress import progress
from components.errors import StepError
from segmodels.files import MAX_PATH, refused_path

MAX_RATIO = 200  # PNG and JPEG hardly compress; even raw label maps stay below this
SMALL = 4 << 20  # below this a high ratio does no harm
MAX_MEMBERS = 5_000_000
MAX_HEADER = 1 << 20
CHUNK = 1 << 20
MAX_TAIL = 64  # chunks after the last member; tar fills its last record up, to some MB at most
EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
ZSTD = b"\x28\xb5\x2f\xfd"
JUNK = ("__MACOSX", ".DS_Store")
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Member:
    """One entry of an archive: `link` is the entry that it points to, `packed` its compressed size where known."""

    name: str
    size: int
    packed: int | None
    is_folder: bool
    link: str | None
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> int:
    """Unpack a zip, tar, tar.gz, tar.bz2, tar.xz or tar.zst (told by its content) into the new folder.

    Args:
        archive: The file.
        folder: Is made; removed again when anything is wrong.
        max_bytes: More unpacked bytes are refused.

    Returns:
        The bytes that were unpacked.

    Raises:
        StepError: The file is no archive, is damaged, or has a member that is refused; it names the member.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with progress(f"unpacking {archive.name}", None) as advance:
            judge = _Judge(archive, max_bytes)
            _write_all(archive, judge, folder, advance)
            return judge.total
    except DAMAGED as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _damaged(archive, error) from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno is None:  # gzip and bz2 say so of damaged data
            raise _damaged(archive, error) from None
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _damaged(archive: Path, error: Exception) -> StepError:
    return StepError(f"{archive}: is damaged ({error}); get it again: remove this file, then repeat the download")


def _write_all(archive: Path, judge: _Judge, folder: Path, advance: Callable[[int], None]) -> None:
    links: dict[PurePosixPath, PurePosixPath] = {}
    for member in _members(archive, judge, folder):
        name = judge.name(member)
        if name is None or name.name in JUNK or name.parts[0] in JUNK or name.name.startswith("._"):
            continue
        if member.link is not None:
            links[name] = judge.link(member, name)
        elif member.is_folder:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            _write(judge, member, folder / name, advance)
    _make_links(judge, links, folder)


def _write(judge: _Judge, member: Member, target: Path, advance: Callable[[int], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise judge.refused(member.name, "cannot be read")
    written = 0
    with source, target.open("xb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > member.size:
                raise judge.refused(
                    member.name,
                    f"holds more than the {member.size} bytes that it declares",
                )
            file.write(chunk)
            advance(len(chunk))
    if written < member.size:
        raise EOFError(f"{member.name} ends after {written} of {member.size} bytes")


def _make_links(judge: _Judge, links: dict[PurePosixPath, PurePosixPath], folder: Path) -> None:
    """Make each link a hard link to the file at the end of its chain."""
    ends: dict[PurePosixPath, PurePosixPath] = {}
    for name, target in links.items():
        # Each link is followed once, however long the chain that ends in it.
        chain = {name: None}
        while target in links and target not in chain and target not in ends:
            chain[target] = None
            target = links[target]
        target = ends.get(target, target)
        ends |= dict.fromkeys(chain, target)
        if not (folder / target).is_file():
            raise judge.refused(
                str(name),
                f"is a link to {str(target)!r}, which is no file of the archive",
            )
        judge.linked(name, (folder / target).stat().st_size)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / target, folder / name)


class _Judge:
    """Knows what it has seen of an archive, and refuses by name."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        self.archive, self.max_bytes = archive, max_bytes
        self.packed = archive.stat().st_size
        self.total = self.count = 0
        self.files: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()

    def refused(self, member: str, why: str) -> StepError:
        shown = member if len(member) <= 120 else member[:117] + "..."
        return StepError(f"{self.archive}: refused, nothing was unpacked: member {shown!a} {why}")

    def name(self, member: Member) -> PurePosixPath | None:
        """Return the safe path of a member; None for the archive's top itself."""
        name = self._relative(member.name)
        self._size(member)
        if name == PurePosixPath("."):
            return None
        if not member.is_folder:
            if name in self.files or name in self.folders:
                raise self.refused(member.name, "stands in it twice")
            self.files.add(name)
        folders = {name, *name.parents} if member.is_folder else set(name.parents)
        if in_the_way := folders & self.files:
            raise self.refused(member.name, f"lies below {str(in_the_way.pop())!r}, which is a file")
        self.folders |= folders
        return name

    def link(self, member: Member, name: PurePosixPath) -> PurePosixPath:
        """Return what a link means, inside the archive."""
        assert member.link is not None
        target = member.link.replace("\\", "/")
        if target.startswith("/"):
            raise self.refused(member.name, f"is a link out of the archive, to {target!r}")
        path: list[str] = []
        for part in PurePosixPath(target).parts:
            if part == ".." and not path:
                raise self.refused(member.name, f"is a link out of the archive, to {member.link!r}")
            path = path[:-1] if part == ".." else [*path, part]
        if why := refused_path("/".join(path) or "."):
            raise self.refused(member.name, f"is a link to {target[:80]!a}, which {why}")
        return PurePosixPath(*path)

    def linked(self, name: PurePosixPath, size: int) -> None:
        """Count a link as the file it means: whoever reads both reads twice as much."""
        self.total += size
        self._limit(str(name))

    def _relative(self, raw: str) -> PurePosixPath:
        name = raw.replace("\\", "/") or "."
        if why := refused_path(name):
            raise self.refused(raw, why.replace("folder", "archive"))
        return PurePosixPath(name)

    def _limit(self, member: str) -> None:
        if self.total > self.max_bytes:
            raise self.refused(
                member,
                f"brings it to {self.total / 1e9:.1f} GB unpacked, more than the {self.max_bytes / 1e9:.1f} GB that "
                "data.max_unpacked_gb allows",
            )

    def _size(self, member: Member) -> None:
        self.count += 1
        self.total += member.size
        if member.size < 0:
            raise self.refused(member.name, "declares a negative size")
        if self.count > MAX_MEMBERS:
            raise self.refused(member.name, f"is one more than {MAX_MEMBERS} members")
        self._limit(member.name)
        for size, packed in ((member.size, member.packed), (self.total, self.packed)):
            if packed is not None and size > max(SMALL, MAX_RATIO * packed):
                raise self.refused(
                    member.name,
                    f"expands absurdly, {size / 1e6:.0f} MB from {packed / 1e6:.2f} MB; unpack it yourself "
                    "if you trust it, and give the folder",
                )


def _members(archive: Path, judge: _Judge, folder: Path) -> Iterator[Member]:
    with archive.open("rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_members(archive, judge, folder)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise StepError(f"{archive}: is a web page, not an archive; its address probably needs a login")
    try:
        if head.startswith(ZSTD):
            tar = tarfile.open(fileobj=cast(Any, _Zstd(archive)), mode="r|", tarinfo=_TarInfo)  # noqa: SIM115
        else:
            tar = tarfile.open(archive, tarinfo=_TarInfo)  # noqa: SIM115 (closed by _tar_members)
    except tarfile.ReadError as error:
        if head.startswith((*COMPRESSED, ZSTD)):
            raise _damaged(archive, error) from None
        raise StepError(f"{archive}: is no archive; a zip, tar, tar.gz, tar.bz2, tar.xz or tar.zst is wanted") from None
    return _tar_members(tar, judge)


def _zip_members(archive: Path, judge: _Judge, folder: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            if info.flag_bits & 1:
                raise judge.refused(
                    info.filename,
                    "is encrypted; unpack it yourself and give the folder",
                )
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise judge.refused(info.filename, "is a device or a pipe")
        # The sizes stand in the directory, so a bomb is known before the first byte is written.
        total = _Judge(archive, judge.max_bytes)
        for info in file.infolist():
            total.name(_zip_member(file, info))
        need_space(folder, total.total, str(archive))
        for info in file.infolist():
            yield _zip_member(file, info)


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    link = None
    if stat.S_ISLNK(info.external_attr >> 16):
        link = str(PurePosixPath(info.filename).parent / os.fsdecode(_start(file, info)))
    return Member(
        info.filename,
        info.file_size,
        info.compress_size,
        info.is_dir(),
        link,
        lambda: file.open(info),
    )


def _start(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with file.open(info) as content:
        return content.read(MAX_PATH)


def _tar_members(tar: tarfile.TarFile, judge: _Judge) -> Iterator[Member]:
    name = ""
    with tar:
        for info in tar:
            name = info.name
            if not (info.isreg() or info.isdir() or info.islnk() or info.issym()):
                raise judge.refused(info.name, "is a device or a pipe")
            link = info.linkname if info.islnk() else None
            if info.issym():
                link = str(PurePosixPath(info.name).parent / info.linkname)
            yield _tar_member(tar, info, link)
        # gzip, bz2 and xz compare their checksums where they end, which tarfile leaves unread.
        assert tar.fileobj is not None
        for _ in range(MAX_TAIL):
            if not tar.fileobj.read(CHUNK):
                return
    raise judge.refused(name, "is the last one, and much follows it")


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, link: str | None) -> Member:
    size = info.size if info.isreg() else 0
    return Member(info.name, size, None, info.isdir(), link, lambda: tar.extractfile(info))


class _Zstd:
    """What a file compressed by Zstandard holds, from first to last; pyarrow unpacks it."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.name = str(path)
        self._stream = pa.input_stream(str(path), compression="zstd")

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            EOFError: The data is damaged.
        """
        try:
            data: bytes = self._stream.read(size)
        except (OSError, ValueError) as error:
            raise EOFError(str(error).splitlines()[0]) from None
        return data

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class _TarInfo(tarfile.TarInfo):
    """Refuses extended headers of absurd size, which tarfile would read into memory as they are."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED_HEADERS and self.size > MAX_HEADER:
            archive = Path(str(tar.name)).name
            raise StepError(f"{archive}: refused, nothing was unpacked: member {self.name!a} has an overlong name")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]
