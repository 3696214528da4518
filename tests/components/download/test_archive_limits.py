"""Archives at their limits: what just fits is unpacked, what is one more is refused, each in its own words."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from components.download import archives
from components.download.archives import Member, unpack
from components.errors import StepError

Content = bytes | tuple[bytes, str]  # a file's bytes, or a kind and what it points to


def tar(path: Path, mode: Literal["w", "w:gz"] = "w", /, **members: Content) -> Path:
    """A tar; names are given with `__` for `/`."""
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                file.addfile(info)
    return path


def zipped(path: Path, **members: Content) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name.replace("__", "/"))
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, tuple):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = content[1].encode()
            file.writestr(info, content)
    return path


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


def unpacked(archive: Path, max_bytes: int = 10**9) -> dict[str, bytes]:
    """Every file that an archive gives."""
    out = archive.parent / "out"
    unpack(archive, out, max_bytes=max_bytes)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refusal(archive: Path, max_bytes: int = 10**9) -> str:
    """Why an archive is not unpacked: what the sentence says of the member."""
    with pytest.raises(StepError) as error:
        unpacked(archive, max_bytes)
    assert not (archive.parent / "out").exists()
    begin = f"{archive}: refused, nothing was unpacked: member "
    assert str(error.value).startswith(begin)
    return str(error.value).removeprefix(begin)


def damage(archive: Path) -> str:
    with pytest.raises(StepError) as error:
        unpacked(archive)
    assert not (archive.parent / "out").exists()
    begin, end = f"{archive}: is damaged (", "); get it again: remove this file, then repeat the download"
    assert str(error.value).startswith(begin) and str(error.value).endswith(end)
    return str(error.value).removeprefix(begin).removesuffix(end)


@pytest.mark.parametrize("make", [tar, zipped])
def test_bytes_up_to_the_limit_are_unpacked(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "a", x=os.urandom(600), y=os.urandom(400))
    assert [len(data) for data in unpacked(archive, 1000).values()] in ([600, 400], [400, 600])
    assert refusal(archive, 999) == (
        "'y' brings it to 0.0 GB unpacked, more than the 0.0 GB that data.max_unpacked_gb allows"
    )


def test_what_is_too_much_is_told_in_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = archives._Judge(tar(tmp_path / "a", x=b"1"), 2_340_000_000)
    with pytest.raises(StepError, match=r"'big' brings it to 5\.7 GB unpacked, more than the 2\.3 GB that"):
        judge.name(member("big", 5_650_000_000))


@pytest.mark.parametrize("make", [tar, zipped])
def test_a_link_counts_as_the_file_that_it_means(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "a", real=os.urandom(600), b__link=(LINK, "../real"))
    links = 7 if make is zipped else 0  # a zip holds the link's text as well
    assert len(set(unpacked(archive, 1200 + links).values())) == 1
    assert refusal(archive, 1199 + links).startswith("'b/link' brings it to")


def test_as_many_members_as_allowed_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "a", x=b"1", y=b"2", z=b"3")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert len(unpacked(archive)) == 3
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    assert refusal(archive) == "'z' is one more than 2 members"


def test_what_expands_as_much_as_allowed_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "a", x=bytes(5_000_000))
    packed = zipfile.ZipFile(archive).getinfo("x").compress_size
    monkeypatch.setattr(archives, "MAX_RATIO", 1)
    monkeypatch.setattr(archives, "SMALL", 5_000_000)
    assert len(unpacked(archive)) == 1
    monkeypatch.setattr(archives, "SMALL", 4_999_999)
    assert refusal(archive) == (
        f"'x' expands absurdly, 5 MB from {packed / 1e6:.2f} MB; unpack it yourself if you trust it, and give the "
        "folder"
    )
    monkeypatch.setattr(archives, "SMALL", 1)
    monkeypatch.setattr(archives, "MAX_RATIO", 5_000_000 / packed)
    assert len(unpacked(archive)) == 1
    # Of a tar the sizes of packed members are not known; all of them together are held against the file.
    archive = tar(tmp_path / "b", "w:gz", x=bytes(3_000_000), y=bytes(3_000_000))
    monkeypatch.setattr(archives, "MAX_RATIO", 6_000_000 / archive.stat().st_size)
    assert len(unpacked(archive)) == 2
    monkeypatch.setattr(archives, "MAX_RATIO", 5_999_000 / archive.stat().st_size)
    assert refusal(archive).startswith("'y' expands absurdly, 6 MB from 0.0")


def test_the_headers_of_a_long_name_are_read_up_to_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "/".join(["d" * 30] * 4 + ["file"])
    archive, header = tmp_path / "a", len(name) + 1
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as file:
        info = tarfile.TarInfo(name)
        info.size = 1
        file.addfile(info, io.BytesIO(b"1"))
    monkeypatch.setattr(archives, "MAX_HEADER", header)
    assert unpacked(archive) == {name: b"1"}
    monkeypatch.setattr(archives, "MAX_HEADER", header - 1)
    with pytest.raises(
        StepError, match=r"^a: refused, nothing was unpacked: member '\././@LongLink' has an overlong name$"
    ):
        unpacked(archive)


def member(name: str, size: int = 0, data: bytes | None = b"", **how: Any) -> Member:
    return Member(
        name, size, None, how.get("is_folder", False), None, lambda: None if data is None else io.BytesIO(data)
    )


def test_sizes_that_are_not_true_are_noticed(tmp_path: Path) -> None:
    judge = archives._Judge(tar(tmp_path / "a", x=b"1"), 100)
    told: list[int] = []
    for given, error, sentence in (
        (member("x", 2, b"abc"), StepError, "member 'x' holds more than the 2 bytes that it declares"),
        (member("y", 4, b"abc"), EOFError, "y ends after 3 of 4 bytes"),
        (member("z", 4, None), StepError, "member 'z' cannot be read"),
    ):
        with pytest.raises(error, match=sentence):
            archives._write(judge, given, tmp_path / "to" / given.name, told.append)
    archives._write(judge, member("v", 3, b"abc"), tmp_path / "to" / "deep" / "v", told.append)
    assert (tmp_path / "to/deep/v").read_bytes() == b"abc" and told == [3, 3]
    with pytest.raises(StepError, match=r"member 'w' declares a negative size$"):
        judge.name(member("w", -1))


def test_names_of_refused_members_are_shortened(tmp_path: Path) -> None:
    judge = archives._Judge(tar(tmp_path / "a", x=b"1"), 100)
    for length, shown in ((120, "e" * 120), (121, "e" * 117 + "...")):
        assert f"member '{shown}' is bad" in str(judge.refused("e" * length, "is bad"))


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../up", "is a link out of the archive, to {}"),
        ("b/../../../up", "is a link out of the archive, to {}"),
        ("no", "is a link to 'a/no', which is no file of the archive"),
        ("sub", "is a link to 'a/sub', which is no file of the archive"),
        ("..", "is a link to '.', which is no file of the archive"),
    ],
)
def test_links_that_lead_to_no_file_are_named(make: Callable[..., Path], target: str, why: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "x", a__sub__real=b"1", a__link=(LINK, target))
    assert refusal(archive) == f"'a/link' {why}".format(repr(f"a/{target}"))


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ((HARD, "/etc/passwd"), "is a link out of the archive, to '/etc/passwd'"),
        ((HARD, "\\etc\\passwd"), "is a link out of the archive, to '/etc/passwd'"),
        ((HARD, "b/\x1b"), "is a link to 'b/\\x1b', which has a control character in its name"),
        ((tarfile.FIFOTYPE, ""), "is a device or a pipe"),
        ((tarfile.BLKTYPE, ""), "is a device or a pipe"),
    ],
)
def test_links_and_devices_are_refused_in_their_own_words(link: tuple[bytes, str], why: str, tmp_path: Path) -> None:
    assert refusal(tar(tmp_path / "x", real=b"1", link=link)).startswith(f"'link' {why}"[:60])


@pytest.mark.parametrize("make", [tar, zipped])
def test_chains_of_links_lead_to_one_file(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(
        tmp_path / "x",
        a__one=(LINK, "two"),
        a__two=(LINK, "../b/./three"),
        b__three=(LINK, "../c/../c/real"),
        a__four=(LINK, "one"),
        a__five=(LINK, "..\\c\\real"),
        c__real=b"content",
    )
    names = ("a/one", "a/two", "a/four", "a/five", "b/three", "c/real")
    assert unpacked(archive) == dict.fromkeys(names, b"content")
    assert len({(tmp_path / "out" / name).stat().st_ino for name in names}) == 1


def test_every_link_of_a_circle_is_refused(tmp_path: Path) -> None:
    for links in ({"a": "a"}, {"a": "b", "b": "a"}, {"x": "a", "a": "b", "b": "a"}):
        archive = tar(tmp_path / "x", real=b"1", **{name: (LINK, to) for name, to in links.items()})
        assert "which is no file of the archive" in refusal(archive)


def test_what_a_computer_adds_by_itself_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "x",
        **{
            "__MACOSX/x": b"1", "a/__MACOSX": b"1", "a/.DS_Store": b"1", ".DS_Store": b"1", "a/._b": b"1", "._c": b"1",
        },
        a__x_DS_Store=b"2",
        b=b"3",
    )  # fmt: skip
    with tarfile.open(archive, "w") as file:
        for name in (
            "__MACOSX/x",
            "a/__MACOSX",
            "a/.DS_Store",
            ".DS_Store",
            "a/._b",
            "._c",
            "a/x.DS_Store",
            "a/_b",
            "b",
        ):
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"2"))
    assert set(unpacked(archive)) == {"a/x.DS_Store", "a/_b", "b"}


def test_names_stand_once_and_below_folders_alone(tmp_path: Path) -> None:
    def judged(*members: Member) -> str:
        judge = archives._Judge(tar(tmp_path / "a", x=b"1"), 10**9)
        try:
            for one in members:
                judge.name(one)
        except StepError as error:
            return str(error).partition("member ")[2]
        return ""

    folder: dict[str, Any] = {"is_folder": True}
    assert judged(member("a/b"), member("a/b")) == "'a/b' stands in it twice"
    assert judged(member("a/b"), member("a")) == "'a' stands in it twice"
    assert judged(member("a", **folder), member("a")) == "'a' stands in it twice"
    assert judged(member("a"), member("a/b")) == "'a/b' lies below 'a', which is a file"
    assert judged(member("a"), member("a/b/c", **folder)) == "'a/b/c' lies below 'a', which is a file"
    assert judged(member("a"), member("a", **folder)) == "'a' lies below 'a', which is a file"
    assert judged(member("a", **folder), member("a", **folder), member("a/b"), member("./a/c")) == ""
    assert judged(member(".", **folder), member("./", **folder), member("", **folder), member("b")) == ""
    assert judged(member("../x")) == "'../x' points out of the archive"


def test_folders_are_made_and_what_was_there_before_is_gone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    archive = tar(tmp_path / "x", a__b=(tarfile.DIRTYPE, ""), a=(tarfile.DIRTYPE, ""), c__d=b"1")
    assert unpacked(archive) == {"c/d": b"1"}
    assert (tmp_path / "out/a/b").is_dir()
    unpack(tar(tmp_path / "y", e=b"2"), tmp_path / "deep/er/out", max_bytes=9)
    with zipfile.ZipFile(tmp_path / "empty", "w"):
        pass
    assert unpacked(tmp_path / "empty") == {}


def test_kinds_of_zipped_members(tmp_path: Path) -> None:
    def with_mode(mode: int) -> Path:
        with zipfile.ZipFile(tmp_path / "z", "w") as file:
            info = zipfile.ZipInfo("x")
            info.external_attr = mode << 16
            file.writestr(info, b"1")
        return tmp_path / "z"

    for mode in (0, 0o644, stat.S_IFREG | 0o644):
        assert unpacked(with_mode(mode)) == {"x": b"1"}
    for mode in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO | 0o644, stat.S_IFSOCK):
        assert refusal(with_mode(mode)) == "'x' is a device or a pipe"


@pytest.mark.parametrize("head", [b"<!doctype html>", b"<HTML>", b"\n  <!DOCTYPE html>", b"\t<html lang=en>"])
def test_a_web_page_is_told_from_an_archive(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(head + b" " * 600)
    with pytest.raises(StepError) as error:
        unpacked(tmp_path / "x")
    assert str(error.value) == f"{tmp_path / 'x'}: is a web page, not an archive; its address probably needs a login"


@pytest.mark.parametrize("head", [b"", b"text", b"PK\x03", b"PK\x01\x02", b"\x1f"])
def test_anything_else_is_no_archive(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(StepError) as error:
        unpacked(tmp_path / "x")
    assert str(error.value).endswith("x: is no archive; a zip, tar, tar.gz, tar.bz2, tar.xz or tar.zst is wanted")


@pytest.mark.parametrize("head", [b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04", b"PK\x05\x06"])
def test_what_begins_like_an_archive_is_a_damaged_one(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(head + b"?" * 600)
    assert damage(tmp_path / "x")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_checksums_are_compared_also_where_they_stand_at_the_very_end(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    plain = tar(tmp_path / "plain", x=os.urandom(2000)).read_bytes()
    (tmp_path / "x").write_bytes(compress(plain))
    assert len(unpacked(tmp_path / "x")["x"]) == 2000
    shutil.rmtree(tmp_path / "out")
    raw = bytearray(compress(plain))
    raw[-6] ^= 1
    (tmp_path / "x").write_bytes(raw)
    assert damage(tmp_path / "x")


def test_a_changed_byte_that_still_unpacks_is_damage(tmp_path: Path) -> None:
    content = os.urandom(2000)
    raw = gzip.compress(tar(tmp_path / "plain", x=content).read_bytes(), 0)  # stored as it is
    assert raw.count(content) == 1
    (tmp_path / "x").write_bytes(raw.replace(content, content[:-1] + bytes([content[-1] ^ 1])))
    assert "CRC" in damage(tmp_path / "x")


def test_what_follows_the_last_member_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tar(tmp_path / "plain", x=b"1").read_bytes()
    monkeypatch.setattr(archives, "CHUNK", 10_000)
    monkeypatch.setattr(archives, "MAX_TAIL", 3)
    (tmp_path / "x").write_bytes(gzip.compress(plain + bytes(5_000)))
    assert unpacked(tmp_path / "x") == {"x": b"1"}
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "x").write_bytes(gzip.compress(plain + bytes(60_000)))
    assert refusal(tmp_path / "x") == "'x' is the last one, and much follows it"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interruption_are_what_they_are_and_leave_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "link", fail)
    archive = tar(tmp_path / "x", real=b"1", link=(LINK, "real"))
    with pytest.raises(type(error)) as caught:
        unpacked(archive)
    assert caught.value is error and not (tmp_path / "out").exists()


def test_progress_is_told_of_every_byte_and_the_disk_is_asked_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(*given: Any) -> Iterator[Callable[[int], None]]:
        told.append(given)
        yield told.append

    monkeypatch.setattr(archives, "progress", progress)
    monkeypatch.setattr(archives, "need_space", lambda *given: told.append(given))
    monkeypatch.setattr(archives, "CHUNK", 400)
    out = tmp_path / "out"
    archive = zipped(tmp_path / "x.zip", a=os.urandom(1000), b=os.urandom(100), c=(LINK, "a"))
    unpacked(archive)
    assert told == [("unpacking x.zip", None), (out, 1101, str(archive)), 400, 400, 200, 100]


@pytest.mark.parametrize("make", [tar, zipped])
def test_names_of_windows_are_paths_too(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "x", **{"a\\b\\c": b"1", "a\\d": b"2"})
    assert unpacked(archive) == {"a/b/c": b"1", "a/d": b"2"}
