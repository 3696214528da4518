"""Archives are unpacked whole, and hostile ones are refused by the name of the member."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from components.download.archives import unpack
from components.errors import StepError

LIMIT = 10**9
Mode = Literal["w", "w:", "w:gz", "w:bz2", "w:xz"]


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: Mode = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_file(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def tar_other(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def make_zip(path: Path, *members: tuple[str, bytes], compress: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compress)
    return path


def zip_link(path: Path, name: str, target: str) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("good.txt", b"good")
        file.writestr(info, target)
    return path


@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_archive_is_told_by_its_content(tmp_path: Path, kind: Mode | Literal["zip"]) -> None:
    path = tmp_path / "whatever"
    if kind == "zip":
        make_zip(path, ("a/", b""), ("a/b.txt", b"hello"), ("__MACOSX/a/._b.txt", b"junk"))
    else:
        make_tar(
            path,
            tar_other("a", tarfile.DIRTYPE),
            tar_file("./a/b.txt", b"hello"),
            mode=kind,
        )
    unpack(path, tmp_path / "out", max_bytes=LIMIT)
    assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()] == [
        "a/b.txt"
    ]
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"hello"


Build = Callable[[Path], Path]
HOSTILE: dict[str, tuple[Build, str]] = {
    "zip path traversal": (
        lambda p: make_zip(p, ("good", b""), ("a/../../evil", b"x")),
        r"'a/../../evil' points out",
    ),
    "zip backslashes": (
        lambda p: make_zip(p, ("..\\..\\evil", b"x")),
        r"evil' points out",
    ),
    "zip absolute": (
        lambda p: make_zip(p, ("/tmp/evil", b"x")),
        r"'/tmp/evil' has an absolute name",
    ),
    "zip drive": (lambda p: make_zip(p, ("C:\\evil", b"x")), r"has an absolute name"),
    "zip link out": (
        lambda p: zip_link(p, "evil", "../../etc/passwd"),
        r"'evil' is a link out of the archive",
    ),
    "zip absolute link": (
        lambda p: zip_link(p, "evil", "/etc/passwd"),
        r"'evil' is a link out of the archive",
    ),
    "zip bomb": (
        lambda p: make_zip(p, ("good", b"x"), ("bomb", bytes(32 << 20))),
        r"'bomb' expands absurdly",
    ),
    "zip twice": (
        lambda p: make_zip(p, ("a/evil", b"x"), ("a//evil", b"y")),
        r"'a//evil' stands in it twice",
    ),
    "zip file as folder": (
        lambda p: make_zip(p, ("a", b"x"), ("a/evil", b"y")),
        r"'a/evil' lies below 'a'",
    ),
    "zip overlong": (
        lambda p: make_zip(p, ("e" * 300, b"x")),
        r"'e+[.]{3}' has an overlong name",
    ),
    "zip deep": (
        lambda p: make_zip(p, ("d/" * 90 + "evil", b"x")),
        r"has an overlong name",
    ),
    "zip control": (
        lambda p: make_zip(p, ("e\x1b[2Jvil", b"x")),
        r"'e\\x1b\[2Jvil' has a control character",
    ),
    "tar path traversal": (
        lambda p: make_tar(p, tar_file("../evil")),
        r"'../evil' points out of the archive",
    ),
    "tar absolute": (
        lambda p: make_tar(p, tar_file("/tmp/evil")),
        r"'/tmp/evil' has an absolute name",
    ),
    "tar link out": (
        lambda p: make_tar(p, tar_other("a/evil", tarfile.SYMTYPE, "../../x")),
        r"'a/evil' is a link out",
    ),
    "tar absolute link": (
        lambda p: make_tar(p, tar_other("evil", tarfile.SYMTYPE, "/etc/passwd")),
        r"is a link out",
    ),
    "tar hard link out": (
        lambda p: make_tar(p, tar_other("evil", tarfile.LNKTYPE, "../x")),
        r"is a link out",
    ),
    "tar hanging link": (
        lambda p: make_tar(p, tar_other("evil", tarfile.SYMTYPE, "no")),
        r"'evil' is a link to 'no'",
    ),
    "tar link circle": (
        lambda p: make_tar(
            p,
            tar_other("evil", tarfile.SYMTYPE, "b"),
            tar_other("b", tarfile.SYMTYPE, "evil"),
        ),
        r"'evil' is a link to",
    ),
    "tar through a link": (
        lambda p: make_tar(p, tar_other("a", tarfile.SYMTYPE, "b"), tar_file("a/evil")),
        r"'a/evil' lies below 'a'",
    ),
    "tar device": (
        lambda p: make_tar(p, tar_other("evil", tarfile.CHRTYPE)),
        r"'evil' is a device or a pipe",
    ),
    "tar pipe": (
        lambda p: make_tar(p, tar_other("evil", tarfile.FIFOTYPE)),
        r"'evil' is a device or a pipe",
    ),
    "tar twice": (
        lambda p: make_tar(p, tar_file("evil"), tar_file("./evil")),
        r"'./evil' stands in it twice",
    ),
    "tar bomb": (
        lambda p: make_tar(p, tar_file("bomb", bytes(32 << 20)), mode="w:gz"),
        r"'bomb' expands absurdly",
    ),
    "tar overlong": (
        lambda p: make_tar(p, tar_file("e" * 300)),
        r"has an overlong name",
    ),
    "tar header bomb": (
        lambda p: make_tar(p, tar_file("e" * (8 << 20)), mode="w:gz"),
        r"has an overlong name",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_by_the_name_of_the_member(tmp_path: Path, kind: str) -> None:
    build, message = HOSTILE[kind]
    path = build(tmp_path / "hostile")
    with pytest.raises(StepError, match=message) as refused:
        unpack(path, tmp_path / "in/out", max_bytes=LIMIT)
    assert "hostile" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert [p.name for p in tmp_path.rglob("*")] in (
        ["hostile", "in"],
        ["in", "hostile"],
    )
    assert not Path("/tmp/evil").exists()


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "big.zip",
        ("a", bytes(600)),
        ("b", bytes(600)),
        compress=zipfile.ZIP_STORED,
    )
    with pytest.raises(StepError, match=r"'b' brings it to .* data.max_unpacked_gb"):
        unpack(path, tmp_path / "out", max_bytes=1000)


def test_a_link_inside_the_archive_becomes_the_file_that_it_means(
    tmp_path: Path,
) -> None:
    links = [
        tar_other("a/second", tarfile.SYMTYPE, "first"),
        tar_other("a/first", tarfile.SYMTYPE, "../b/real"),
    ]
    path = make_tar(tmp_path / "a.tar", *links, tar_file("b/real", b"hello"))
    unpack(path, tmp_path / "out", max_bytes=LIMIT)
    assert (tmp_path / "out/a/second").read_bytes() == b"hello"
    assert not (tmp_path / "out/a/second").is_symlink()


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path, mode: Mode | Literal["zip"]) -> None:
    import random

    noise = random.Random(0).randbytes(200_000)
    path = tmp_path / "cut.archive"
    if mode == "zip":
        make_zip(path, ("a", noise), ("b", noise))
        broken = bytearray(path.read_bytes())
        broken[100_000] ^= 0xFF
        path.write_bytes(broken)
    else:
        make_tar(path, tar_file("a", noise), tar_file("b", noise), mode=mode)
        path.write_bytes(path.read_bytes()[:250_000] if mode == "w:" else path.read_bytes()[:-50_000])
    with pytest.raises(StepError, match=r"cut.archive: is damaged"):
        unpack(path, tmp_path / "out", max_bytes=LIMIT)
    assert not (tmp_path / "out").exists()


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ("secret", b"x" * 100), compress=zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(StepError, match=r"'secret' is encrypted"):
        unpack(path, tmp_path / "out", max_bytes=LIMIT)


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(StepError, match=r"a.zip: is a web page, not an archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=LIMIT)
    (tmp_path / "b.zip").write_bytes(b"just text " * 100)
    with pytest.raises(StepError, match=r"b.zip: is no archive"):
        unpack(tmp_path / "b.zip", tmp_path / "out", max_bytes=LIMIT)
