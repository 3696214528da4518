"""Opening image files: which formats, how large, and how many at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError, read_image, read_label
from segmodels.data.formats.raw_labels import read_raw
from segmodels.data.images import PixelBudget, TooManyPixelsError, open_image, upright_size

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(touched) (w) file closefile\nshowpage\n"


@pytest.mark.parametrize("read", [read_image, read_label, read_raw])
def test_a_program_named_as_an_image_reaches_no_interpreter(
    read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "a.png"
    path.write_bytes(EPS)
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read as"):
        read(path)  # type: ignore[operator]
    assert not (tmp_path / "ran").exists()


def test_the_header_is_judged_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:60])  # no pixel is there
    with (
        pytest.raises(TooManyPixelsError, match=r"300 x 200 are more than 59999 pixels"),
        open_image(path, max_pixels=59_999),
    ):
        pass
    with open_image(path, max_pixels=60_000) as image:
        assert image.size == (300, 200)


def test_an_image_of_16_bits_is_refused_instead_of_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(
        DatasetError,
        match=r"a\.png: .*\(its pixels are I;16, which have more than 8 bits a channel; save it as one image of 8 bits",
    ):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_large_image_is_read_as_a_small_one_and_its_size_is_known_before(turn: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 3000, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(tmp_path / "a.png", exif=exif, compress_level=0)
    read = read_image(tmp_path / "a.png")
    turned = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    if turn in turned:
        assert np.array_equal(read, turned[turn])
    with open_image(tmp_path / "a.png") as opened:
        assert upright_size(opened) == read.shape[:2]


def test_pixels_in_flight_are_bounded_and_a_larger_image_goes_alone() -> None:
    budget, lock = PixelBudget(100), threading.Lock()
    held: list[int] = []
    seen: list[tuple[int, int]] = []

    def work(pixels: int) -> None:
        with budget.hold(pixels):
            with lock:
                held.append(pixels)
                seen.append((len(held), sum(held)))
            threading.Event().wait(0.002)
            with lock:
                held.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [40, 30, 70, 250, 10, 60, 100, 5] * 5))
    assert len(seen) == 40
    assert all(total <= 100 or count == 1 for count, total in seen)
    assert max(count for count, _ in seen) > 1


def test_memory_of_a_validation_does_not_grow_with_threads(tmp_path: Path) -> None:
    """Twelve images of 36 megapixels in as many threads as the pool takes; one of them decoded is 108 MB."""
    from segmodels.data.folder import ClassInfo
    from segmodels.data.writer import DatasetWriter

    image, label = np.zeros((6000, 6000, 3), np.uint8), np.zeros((6000, 6000), np.uint8)
    with DatasetWriter(tmp_path / "data", "large", (ClassInfo("a", (1, 2, 3)),), source={"path": "made"}) as writer:
        for index in range(12):
            image[0, 0] = index
            writer.add("train", str(index), image, label)
    code = """
import os, resource, sys
os.cpu_count = lambda: 16
from pathlib import Path
from segmodels.data.validation.scan import scan
from segmodels.data.folder import DatasetInfo
from segmodels.runtime import set_up_process
set_up_process()
root = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert not any(row["image_error"] for row in scan(root, DatasetInfo.read(root)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 700
