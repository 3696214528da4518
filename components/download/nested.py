"""Archives inside of archives, and folders of archives: unpacked as a person would, where they lie.

An archive whose top holds folders is unpacked beside itself, so that `images.zip` and `labels.zip` that hold `images/`
and `labels/`, or Cityscapes' `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, lie together; one whose top
holds images is unpacked into a folder of its name.
"""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from components.download.archives import unpack
from components.errors import StepError
from segmodels.data.folder import IMAGE_SUFFIXES

ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tzst", ".tar", ".zip")
DEPTH = 2  # archives inside of archives inside of the first one
# Files that every archive of a dataset brings along, and that say the same.
SPOKEN = ("readme", "license", "licence", "copying", "changelog")


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def unpack_inside(folder: Path, *, max_bytes: int, used: int = 0, depth: int = DEPTH) -> int:
    """Unpack the archives below a folder, and remove them.

    Args:
        folder: Where they lie; it is ours.
        max_bytes: More unpacked bytes than these, with those that are `used` already, are refused.
        used: Bytes that were unpacked before.
        depth: How deep archives may lie inside of others; what lies deeper stays as it is.

    Returns:
        The bytes that are unpacked now, with those before.

    Raises:
        StepError: An archive is refused or damaged, or two of them bring the same file with other content.
    """
    for archive in sorted(path for path in folder.rglob("*") if is_archive(path)) if depth else ():
        used = _unpack_beside(archive, archive.parent, max_bytes=max_bytes, used=used, depth=depth - 1)
        archive.unlink()
    return used


def unpack_folder(source: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack the archives of somebody's folder, which stays as it is, together into the new folder `folder`.

    Raises:
        StepError: As `unpack_inside`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    used = 0
    for archive in sorted(path for path in source.iterdir() if is_archive(path)):
        used = _unpack_beside(archive, folder, max_bytes=max_bytes, used=used, depth=DEPTH - 1)


def holds_only_archives(folder: Path) -> bool:
    """Tell whether a folder has archives, and neither folders nor images beside them."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    others = [entry for entry in entries if entry.is_dir() or entry.suffix.lower() in IMAGE_SUFFIXES]
    return not others and any(is_archive(entry) for entry in entries)


def _unpack_beside(archive: Path, place: Path, *, max_bytes: int, used: int, depth: int) -> int:
    part = place / f".{archive.name}.part"
    try:
        used += unpack(archive, part, max_bytes=max_bytes - used)
        used = unpack_inside(part, max_bytes=max_bytes, used=used, depth=depth)
        tops = list(part.iterdir())
        loose = any(top.is_file() and top.suffix.lower() in IMAGE_SUFFIXES for top in tops)
        _merge(part, place / _stem(archive) if loose else place, archive)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return used


def _stem(archive: Path) -> str:
    ending = next(ending for ending in ENDINGS if archive.name.lower().endswith(ending))
    return archive.name[: -len(ending)] or "archive"


def _merge(source: Path, target: Path, archive: Path) -> None:
    """Move what lies in a folder into another one, which may have some of its folders."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        there = target / entry.name
        if not there.exists():
            entry.rename(there)
        elif entry.is_dir() and there.is_dir():
            _merge(entry, there, archive)
        elif entry.is_dir() or there.is_dir() or not (_spoken(entry) or filecmp.cmp(entry, there, shallow=False)):
            raise StepError(
                f"{archive.name}: brings {entry.name}, which another archive beside it has with other content; unpack "
                "them yourself and give the folder"
            )


def _spoken(path: Path) -> bool:
    return path.name.lower().startswith(SPOKEN)
