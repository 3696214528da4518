"""Pictures that another split has almost are named, and other pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import SPLITS, DatasetInfo, read_image, read_label
from segmodels.data.validation import near_duplicates
from segmodels.data.validation.checks import check, judge
from segmodels.data.validation.looks import ImageLooks, mirror_mask
from segmodels.data.validation.near_duplicates import BOUND, near
from segmodels.data.validation.rules import Limits
from segmodels.data.validation.scan import scan, strays
from segmodels.data.validation.tables import tables
from tests.samples import needs_camvid


def encoded_again(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def halved(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BICUBIC))


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, ::-1]


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 1.1 + 8, 0, 255).astype(np.uint8)


def shifted(pixels: np.ndarray) -> np.ndarray:
    """As the camera that has moved a little: the next frame of a film."""
    return np.asarray(Image.fromarray(pixels[1:, 1:]).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))


def all_of_it(pixels: np.ndarray) -> np.ndarray:
    return mirrored(encoded_again(halved(pixels)))


KINDS = [encoded_again, halved, mirrored, brighter, shifted, all_of_it]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_train_is_named_in_val(streets: Path, kind: Callable[[np.ndarray], np.ndarray]) -> None:
    changed = kind(read_image(streets / "train/images/000004.png"))
    Image.fromarray(np.ascontiguousarray(changed)).save(streets / "val/images/000003.png")
    label = read_label(streets / "train/labels/000004.png")
    if kind in (mirrored, all_of_it):
        label = np.ascontiguousarray(mirrored(label))
    fitting = Image.fromarray(label).resize(changed.shape[1::-1], Image.Resampling.NEAREST)
    fitting.save(streets / "val/labels/000003.png")
    said = "val/images/000003.png: is almost train/images/000004.png"
    assert any(said in warning for warning in check(streets))
    assert not any("is almost" in warning for warning in check(streets, severity={"near_duplicate": "ignore"}))


def test_pictures_of_one_split_may_be_alike(streets: Path) -> None:
    Image.fromarray(brighter(read_image(streets / "train/images/000004.png"))).save(streets / "train/images/000005.png")
    assert not any("is almost" in warning for warning in check(streets))


def test_scenes_of_streets_are_no_duplicates_of_each_other(rendered: Path) -> None:
    assert not any("is almost" in warning for warning in check(rendered))


@needs_camvid
def test_frames_of_camvid_are_no_duplicates_and_all_that_are_planted_are(camvid: Path) -> None:
    """The official splits take frames of the same films, a second apart: they are usable."""
    info = DatasetInfo.read(camvid)
    scanned = scan(camvid, info)
    outcomes = {o.key: o for o in judge(tables(scanned, strays(camvid), info), info, Limits())}
    assert outcomes["near_duplicate"].passed
    assert outcomes["shared_sequence"].details[0].startswith("sequence '0001TP' has frames in train, test")
    planted = [ImageLooks.of(all_of_it(read_image(camvid / image))).fingerprint() for image in scanned.columns["image"]]
    again = ["val"] * len(planted)
    nearest = near([*scanned.columns["fingerprint"], *planted], [*["train"] * len(planted), *again], SPLITS)
    # Two frames of a film that stands still may be taken for each other.
    assert sum(found is None for found in nearest[len(planted) :]) == 0
    assert sum(found == index for index, found in enumerate(nearest[len(planted) :])) > 0.97 * len(planted)


@pytest.mark.parametrize("level", [0, 255, 90])
def test_a_plain_picture_has_no_fingerprint(level: int) -> None:
    noise = np.random.default_rng(0)
    plain = np.full((120, 160, 3), level, np.uint8)
    assert ImageLooks.of(plain).fingerprint() is None
    sky = np.clip(level + noise.normal(0, 3, plain.shape), 0, 255).astype(np.uint8)
    assert ImageLooks.of(sky).fingerprint() is None
    fading = np.repeat(np.linspace(60, 200, 120).astype(np.uint8)[:, None], 160, axis=1)
    assert ImageLooks.of(np.stack([fading] * 3, -1)).fingerprint() is None


def test_what_shares_a_band_is_what_comparing_all_pairs_finds() -> None:
    draw = np.random.default_rng(0)
    prints = np.packbits(draw.random((600, 256)) < 0.5, axis=1)
    splits = ["train"] * 300 + ["val"] * 200 + ["test"] * 100
    for row in range(300, 600):
        bits = np.unpackbits(prints[draw.integers(0, 300)])
        bits[0] = 0
        changed = draw.choice(np.arange(1, 256), draw.integers(BOUND - 3, BOUND + 4), replace=False)
        bits[changed] ^= 1
        prints[row] = np.packbits(bits) ^ (mirror_mask() if row % 2 else 0)
    prints[:, 0] &= 127  # the brightness has no sign
    expected: list[int | None] = []
    for row, split in enumerate(splits):
        earlier = [i for i in range(row) if SPLITS.index(splits[i]) < SPLITS.index(split)]
        apart = [
            (min(int(np.bitwise_count(prints[i] ^ prints[row] ^ mask).sum()) for mask in (0, mirror_mask())), i)
            for i in earlier
        ]
        expected.append(min(apart)[1] if apart and min(apart)[0] <= BOUND else None)
    hidden = [print_.tobytes().hex() for print_ in prints]
    assert near(hidden, splits, SPLITS) == expected
    assert 100 < sum(found is not None for found in expected) < 250
    assert near([None, None], ["train", "val"], SPLITS) == [None, None]


def test_a_comparison_of_many_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path))
    monkeypatch.setattr(near_duplicates, "WORTH", 10)
    rng = np.random.default_rng(0)
    prints: list[str | None] = [rng.bytes(32).hex() for _ in range(30)]
    prints[20] = prints[3]
    splits = ["train"] * 20 + ["val"] * 10
    first = near_duplicates.near(prints, splits, ("train", "val"))
    assert first[20] == 3 and sum(one is not None for one in first) == 1
    calls: list[int] = []
    usual = near_duplicates._near

    def counted(*given: Any) -> list[int | None]:
        calls.append(1)
        return usual(*given)

    monkeypatch.setattr(near_duplicates, "_near", counted)
    assert near_duplicates.near(prints, splits, ("train", "val")) == first and not calls
    # Another split, another picture or another bound is another comparison.
    near_duplicates.near(prints, ["val"] * 30, ("train", "val"))
    near_duplicates.near([*prints[:-1], prints[4]], splits, ("train", "val"))
    near_duplicates.near(prints, splits, ("train", "val"), bound=5)
    assert len(calls) == 3
    for path in tmp_path.rglob("*.json"):
        path.write_text("[[99, 1]]")
    assert near_duplicates.near(prints, splits, ("train", "val")) == first
