"""A second scan reads only what has changed, and says the same."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.bands import Bands
from segmodels.data.folder import DatasetInfo, read_label
from segmodels.data.validation import cache
from segmodels.data.validation import scan as scanning
from segmodels.data.validation.scan import Scanned, scan


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/segmodels/validation"


@pytest.fixture
def settled(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data that were written a while ago; the clock of the cache goes ahead instead of waiting."""
    shutil.copytree(rendered, tmp_path / "data")
    monkeypatch.setattr(time, "time_ns", lambda: int((time.time() + 3) * 1e9))
    return tmp_path / "data"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are read."""
    names: list[str] = []
    usual = scanning._image_columns

    def noted(root: Path, name: str, bands: Bands) -> object:
        names.append(name)
        return usual(root, name, bands)

    monkeypatch.setattr(scanning, "_image_columns", noted)
    return names


def look(root: Path, *, cached: bool = True) -> Scanned:
    return scan(root, DatasetInfo.read(root), cached=cached)


def same(one: Scanned, other: Scanned) -> bool:
    return one.columns == other.columns and np.array_equal(one.counts, other.counts)


def test_a_second_scan_reads_nothing_and_says_the_same(settled: Path, read: list[str]) -> None:
    first = look(settled)
    assert len(read) == 60
    second = look(settled)
    assert len(read) == 60
    assert same(first, second)
    assert same(first, look(settled, cached=False))
    assert not list(settled.rglob("*.jsonl"))


@pytest.mark.parametrize("keep_times", [False, True])
def test_what_has_changed_is_read_again_even_with_its_old_time_and_size(
    settled: Path, read: list[str], keep_times: bool
) -> None:
    look(settled)
    read.clear()
    path = settled / "train/labels/000002.png"
    before = path.stat()
    label = read_label(path).copy()
    label[0, 0] = 10
    Image.fromarray(label).save(path)
    if keep_times:
        path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = look(settled)
    assert read == ["train/images/000002.png"]
    assert same(found, look(settled, cached=False))


def test_a_sample_that_comes_or_goes_is_noticed(settled: Path, read: list[str]) -> None:
    look(settled)
    read.clear()
    (settled / "train/images/000003.png").unlink()
    (settled / "train/labels/000004.png").unlink()
    shutil.copy(settled / "train/images/000001.png", settled / "train/images/new.png")
    found = look(settled)
    assert sorted(read) == ["train/images/000004.png", "train/images/new.png"]
    assert same(found, look(settled, cached=False))


def test_what_was_just_written_is_not_trusted(rendered: Path, tmp_path: Path, read: list[str]) -> None:
    shutil.copytree(rendered, tmp_path / "data", copy_function=shutil.copyfile)
    look(tmp_path / "data")
    look(tmp_path / "data")
    assert len(read) == 120


def test_a_damaged_or_former_cache_is_made_again(
    settled: Path, read: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = look(settled)
    (file,) = place.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole.replace(b"0", b"1", 3), b"\xff" * 100):
        file.write_bytes(damaged)
        read.clear()
        assert same(first, look(settled))
        assert len(read) == 60
    assert file.read_bytes() == whole
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    read.clear()
    look(settled)
    assert len(read) == 60


def test_where_nothing_can_be_kept_everything_is_read(
    settled: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMODELS_CACHE", "/proc/nowhere")
    first = look(settled)
    assert same(first, look(settled))
    assert len(read) == 120
