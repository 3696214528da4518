"""Labels that are unlike all others are named: of another image, swapped, noisy, of one class."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetInfo, read_label
from segmodels.data.validation.checks import Outcome, check, judge
from segmodels.data.validation.looks import grey_rows, salt
from segmodels.data.validation.rules import Limits
from segmodels.data.validation.scan import scan, strays
from segmodels.data.validation.tables import tables
from tests.samples import needs_camvid


def outcomes(root: Path) -> dict[str, Outcome]:
    info = DatasetInfo.read(root)
    return {o.key: o for o in judge(tables(scan(root, info), strays(root), info), info, Limits())}


def change(path: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(how(read_label(path).copy())).save(path)


def exchange(root: Path, pairs: list[tuple[Path, Path]]) -> None:
    for first, second in pairs:
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)


@needs_camvid
def test_labels_of_camvid_are_right_but_for_one_and_most_of_what_is_exchanged_is_named(
    camvid: Path, tmp_path: Path
) -> None:
    """Seq05VD_f02610 has, in the SegNet tutorial's CamVid, the label of another moment of its film."""
    before = outcomes(camvid)
    assert before["foreign_label"].files == ("test/labels/Seq05VD_f02610.png",)
    for key in ("swapped_classes", "salt_noise", "single_class", "cut_image", "same_label", "class_drift"):
        assert before[key].passed
    root = tmp_path / "camvid"
    shutil.copytree(camvid, root)
    drawn = np.random.default_rng(0).permutation(sorted((root / "train/labels").iterdir()))[:20]
    exchange(root, list(zip(drawn[:10], drawn[10:], strict=True)))
    named = set(outcomes(root)["foreign_label"].files) - set(before["foreign_label"].files)
    wrong = [path.relative_to(root).as_posix() for path in drawn]
    assert named <= set(wrong)
    assert sum(a in named or b in named for a, b in zip(wrong[:10], wrong[10:], strict=True)) >= 8


def test_the_labels_of_streets_are_right_and_those_that_are_exchanged_are_named(streets: Path) -> None:
    known = outcomes(streets)
    for key in ("foreign_label", "swapped_classes", "salt_noise", "single_class", "class_drift", "light_drift"):
        assert known[key].passed
    labels = [streets / f"train/labels/{i:06}.png" for i in range(20)]
    exchange(streets, list(zip(labels[:10], labels[10:], strict=True)))
    named = outcomes(streets)["foreign_label"].files
    assert len(named) >= 12
    assert set(named) <= {path.relative_to(streets).as_posix() for path in labels}


def test_the_same_label_in_another_file_under_another_image_is_named(streets: Path) -> None:
    Image.open(streets / "train/labels/000001.png").save(streets / "train/labels/000002.png", compress_level=9)
    said = "train/labels/000002.png: is the same label as train/labels/000001.png"
    assert any(said in warning for warning in check(streets))
    plain = np.zeros((96, 128), np.uint8)
    for index in (5, 6):
        Image.fromarray(plain).save(streets / f"train/labels/00000{index}.png")
    assert not any("000006.png: is the same label" in warning for warning in check(streets))


def test_two_classes_that_are_swapped_in_one_label_are_named(streets: Path) -> None:
    def swap(label: np.ndarray) -> np.ndarray:
        table = np.arange(256, dtype=np.uint8)
        table[[0, 3]] = 3, 0  # sky and road
        return table[label]

    change(streets / "train/labels/000007.png", swap)
    assert outcomes(streets)["swapped_classes"].details == (
        "train/labels/000007.png: 'sky' and 'road' lie each where the other one does elsewhere; see whether they are "
        "swapped",
    )


def test_salt_is_told_from_thin_lines(streets: Path) -> None:
    noise = np.random.default_rng(0)

    def spoil(label: np.ndarray) -> np.ndarray:
        return np.where(noise.random(label.shape) < 0.05, noise.integers(0, 11, label.shape), label).astype(np.uint8)

    change(streets / "val/labels/000002.png", spoil)
    assert "val/labels/000002.png: " in outcomes(streets)["salt_noise"].message
    label = np.zeros((60, 60), np.uint8)
    np.fill_diagonal(label, 1)
    label[:, 30] = 1
    assert salt(label) == 0
    label[10, 50] = 1
    assert salt(label) == pytest.approx(1 / 3600)


def test_a_label_of_one_class_is_named_where_all_others_have_several(streets: Path) -> None:
    change(streets / "train/labels/000009.png", lambda label: np.full_like(label, 4))
    assert "train/labels/000009.png: has nothing but 'pavement'" in outcomes(streets)["single_class"].message
    for index in range(10, 30):
        change(streets / f"train/labels/{index:06}.png", lambda label: np.full_like(label, 4))
    assert outcomes(streets)["single_class"].passed


def test_black_and_white_masks_are_told_from_classes(streets: Path) -> None:
    for path in (streets / "train/labels").iterdir():
        change(path, lambda label: np.where(label == 3, np.uint8(255), np.uint8(0)))
    assert "255=NAME" in outcomes(streets)["one_class"].message


def test_ids_that_are_spread_over_all_levels_are_told_as_such(streets: Path) -> None:
    change(streets / "train/labels/000001.png", lambda label: (label * 20).astype(np.uint8))
    assert outcomes(streets)["unknown_ids"].message.endswith(
        "; all are multiples of 20, as in masks that are made to be looked at"
    )


def test_splits_that_are_unlike_train_are_named(streets: Path) -> None:
    for path in (streets / "val/images").iterdir():
        Image.open(path).point(lambda level: 255 - (255 - level) // 4).resize((320, 240)).save(path)
    for path in (streets / "val/labels").iterdir():
        change(path, lambda label: np.where(np.arange(len(label))[:, None] > 20, np.uint8(0), label))
        Image.open(path).resize((320, 240), Image.Resampling.NEAREST).save(path)
    found = outcomes(streets)
    assert "val: its images are of brightness 2" in found["light_drift"].message
    assert found["size_drift"].message == "val: its images have sides of 277 pixels, those of train of 111 (medians)"
    assert "val: its classes are distributed unlike those of train" in found["class_drift"].message


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    path.unlink()


def test_a_label_that_lies_as_the_turned_image_is_stored_is_told_so(streets: Path) -> None:
    turned(streets / "train/images/000003.png", 6)
    assert outcomes(streets)["size_mismatch"].passed
    assert outcomes(streets)["turned_image"].passed
    change(streets / "train/labels/000003.png", lambda label: np.rot90(label).copy())
    found = outcomes(streets)
    assert (
        "train/labels/000003.png: is 96x128 as its image is stored, but the image is shown turned, 128x96 (EXIF "
        in (found["turned_image"].message)
    )
    assert found["size_mismatch"].passed, "one fault is one error"


def test_images_of_sixteen_bits_are_named(streets: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep = np.random.default_rng(0).integers(0, 1 << 12, (96, 128, 3)).astype(">u2")  # twelve of sixteen bits: dark
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 128, 96, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (streets / "train/images/000003.png").write_bytes(png)
    assert "train/images/000003.png: cannot be read as an image (it has 16 bits a channel" in (
        outcomes(streets)["unreadable_image"].message
    )


def cut(path: Path, end: bytes) -> None:
    picture = path.with_suffix(".jpg")
    Image.open(path).resize((480, 360)).save(picture, quality=90)
    path.unlink()
    label = path.parents[1] / "labels" / path.name
    Image.open(label).resize((480, 360), Image.Resampling.NEAREST).save(label)
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2] + end)


def test_a_jpeg_that_was_cut_is_an_error_and_with_an_end_of_its_own_it_is_named(streets: Path) -> None:
    cut(streets / "train/images/000003.png", b"")
    cut(streets / "train/images/000004.png", b"\xff\xd9")
    found = outcomes(streets)
    assert "train/images/000003.jpg: cannot be read (truncated JPEG file)" in found["unreadable_image"].message
    assert len(found["unreadable_image"].details) == 1
    assert "train/images/000004.jpg: its last " in found["cut_image"].message


def test_rows_of_middle_grey_are_counted_from_below() -> None:
    pixels = np.random.default_rng(0).integers(0, 120, (50, 20, 3)).astype(np.uint8)
    assert grey_rows(pixels) == 0
    pixels[37:] = 128
    assert grey_rows(pixels) == 13
    pixels[:] = 128
    assert grey_rows(pixels) == 50
