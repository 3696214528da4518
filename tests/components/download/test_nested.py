"""Archives inside of archives, folders of archives, and tar.zst; limits hold for the sum."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from components.download.archives import unpack
from components.download.nested import holds_only_archives, unpack_folder, unpack_inside
from components.download.step import run
from components.errors import StepError
from components.params import Params

MOST = 1 << 30


def png(value: int, mode: str = "RGB") -> bytes:
    held = io.BytesIO()
    Image.new(mode, (40, 40), (value, 0, 0) if mode == "RGB" else value).save(held, "PNG")
    return held.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return held.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return held.getvalue()


def zstd(data: bytes) -> bytes:
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, "zstd") as packed:
        packed.write(data)
    return bytes(held.getvalue())


IMAGES = {f"images/{i:02}.png": png(i) for i in range(12)}
LABELS = {f"labels/{i:02}.png": png(i % 2, "L") for i in range(12)}


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_tar_by_zstandard_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "data.tar.zst"
    path.write_bytes(zstd(tarred({**IMAGES, "a/b.txt": b"x" * 3_000_000})))
    total = unpack(path, tmp_path / "out", max_bytes=MOST)
    assert files(tmp_path / "out") == sorted([*IMAGES, "a/b.txt"]) and total > 3_000_000
    assert (tmp_path / "out/images/03.png").read_bytes() == IMAGES["images/03.png"]


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_a_damaged_tar_by_zstandard_is_one_sentence(tmp_path: Path, part: float) -> None:
    data = zstd(tarred(IMAGES))
    path = tmp_path / "data.tar.zst"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(StepError, match=r"data\.tar\.zst: is damaged \(.*; get it again"):
        unpack(path, tmp_path / "out", max_bytes=MOST)
    assert not (tmp_path / "out").exists()
    path.write_bytes(zstd(b"no tar" * 1000))
    with pytest.raises(StepError, match=r"data\.tar\.zst: is damaged"):
        unpack(path, tmp_path / "out", max_bytes=MOST)


def test_a_bomb_by_zstandard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.tar.zst"
    path.write_bytes(zstd(tarred({"zeros.bin": bytes(50_000_000)})))
    with pytest.raises(StepError, match=r"member 'zeros\.bin' expands absurdly"):
        unpack(path, tmp_path / "out", max_bytes=MOST)


def test_archives_inside_lie_beside_each_other(tmp_path: Path) -> None:
    """One holds its folder, one loose images, one is deeper by a level."""
    labels = tarred({Path(name).name: data for name, data in LABELS.items()})
    inner = zipped({"deep/labels.tar": labels, "README.txt": b"one"})
    (tmp_path / "all.zip").write_bytes(
        zipped(
            {"set/images.zip": zipped({**IMAGES, "README.txt": b"two"}), "set/more.zip": inner, "set/classes.txt": b"a"}
        )
    )
    used = unpack(tmp_path / "all.zip", tmp_path / "out", max_bytes=MOST)
    total = unpack_inside(tmp_path / "out", max_bytes=MOST, used=used)
    names = files(tmp_path / "out")
    assert [name for name in names if "/images/" in name] == [f"set/{name}" for name in sorted(IMAGES)]
    assert [name for name in names if "labels" in name] == [f"set/deep/{name}" for name in sorted(LABELS)]
    assert not [name for name in names if name.endswith((".zip", ".tar"))] and total > used


def test_limits_hold_for_all_archives_together(tmp_path: Path) -> None:
    blob = bytes(range(256)) * 4000
    (tmp_path / "all.zip").write_bytes(zipped({f"{i}.zip": zipped({f"{i}/x.bin": blob}) for i in range(4)}))
    used = unpack(tmp_path / "all.zip", tmp_path / "out", max_bytes=6 * len(blob) + 9999)
    with pytest.raises(StepError, match=r"2\.zip: refused, nothing was unpacked: .*data\.max_unpacked_gb"):
        unpack_inside(tmp_path / "out", max_bytes=6 * len(blob) + 9999, used=used)


def test_a_member_that_leads_out_of_an_inner_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(zipped({"in/x.tar": tarred({"../../../evil.txt": b"x"})}))
    used = unpack(tmp_path / "all.zip", tmp_path / "out", max_bytes=MOST)
    with pytest.raises(StepError, match=r"x\.tar: refused, nothing was unpacked: member '\.\./\.\./\.\./evil\.txt'"):
        unpack_inside(tmp_path / "out", max_bytes=MOST, used=used)
    assert not list(tmp_path.rglob("evil.txt"))


def test_what_lies_too_deep_stays(tmp_path: Path) -> None:
    data = zipped({"x/y.txt": b"x"})
    for _ in range(4):
        data = zipped({"in/next.zip": data})
    (tmp_path / "all.zip").write_bytes(data)
    unpack_inside(tmp_path / "out", max_bytes=MOST, used=unpack(tmp_path / "all.zip", tmp_path / "out", max_bytes=MOST))
    assert [Path(name).name for name in files(tmp_path / "out")] == ["next.zip"]


def test_two_archives_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.zip").write_bytes(zipped({"images/1.png": png(1), "license.txt": b"a"}))
    (source / "b.zip").write_bytes(zipped({"images/2.png": png(2), "license.txt": b"b"}))
    assert holds_only_archives(source)
    unpack_folder(source, tmp_path / "out", max_bytes=MOST)
    assert files(tmp_path / "out") == ["images/1.png", "images/2.png", "license.txt"]
    assert files(source) == ["a.zip", "b.zip"]
    (source / "c.zip").write_bytes(zipped({"images/1.png": png(3)}))
    with pytest.raises(StepError, match=r"c\.zip: brings 1\.png, which another archive beside it has with oth"):
        unpack_folder(source, tmp_path / "again", max_bytes=MOST)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_dataset_of_archives_is_read(tmp_path: Path, as_folder: bool) -> None:
    inner = {"images.zip": zipped(IMAGES), "labels.tar.zst": zstd(tarred(LABELS)), "classes.txt": b"a\nb\n"}
    source = tmp_path / "own"
    source.mkdir()
    if as_folder:
        del inner["classes.txt"]
        inner["labels.tar.zst"] = zstd(tarred({**LABELS, "classes.txt": b"a\nb\n"}))
        for name, data in inner.items():
            (source / name).write_bytes(data)
        given = source
    else:
        given = source / "own.zip"
        given.write_bytes(zipped(inner))
    params = Params.parse({"data": {"source": str(given)}, "models": {"unet": {}}})
    result = run(params, out=tmp_path / "data")
    assert sum(result.splits.values()) == 12 and result.format == "folder"
    assert not list(tmp_path.glob("data.*"))
