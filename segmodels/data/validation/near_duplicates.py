"""Find pictures of one split that another split has almost, among a hundred thousand, without comparing all of them.

Two fingerprints that differ in at most `bound` bits are equal in one of `bound + 1` bands of their bits (Norouzi et
al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012); only images that share a band are compared, in
blocks of a fixed size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segmodels.data.validation.cache import remembered
from segmodels.data.validation.looks import BITS, mirror_mask

# Bits in which two pictures differ that are still the same one.
BOUND = 30
_BLOCK = 1 << 19
# Pairs that are sooner compared than sorted.
_FEW = 1 << 24
# Which bits make a band is drawn once: neighbouring frequencies vary together.
_ORDER = np.random.default_rng(0).permutation(np.arange(1, BITS * BITS))


# Images whose comparison takes longer than to look whether it has been made before.
WORTH = 5000


def near(
    fingerprints: Sequence[str | None], splits: Sequence[str], order: Sequence[str], bound: int = BOUND
) -> list[int | None]:
    """Return for each image the nearest one of an earlier split; None where none is near.

    Args:
        fingerprints: As `looks.ImageLooks.fingerprint` gives them.
        splits: The split of each image.
        order: The splits; an image is compared with those of the splits before its own.
        bound: Bits that may differ.
    """
    if len(fingerprints) < WORTH:
        return _near(fingerprints, splits, order, bound)
    told = "\n".join((f"{bound}", *order, *(f"{p} {s}" for p, s in zip(fingerprints, splits, strict=True)))).encode()
    return remembered(told, len(fingerprints), lambda: _near(fingerprints, splits, order, bound))


def _near(
    fingerprints: Sequence[str | None], splits: Sequence[str], order: Sequence[str], bound: int
) -> list[int | None]:
    place = {split: index for index, split in enumerate(order)}
    rows = np.array([i for i, print_ in enumerate(fingerprints) if print_], np.int64)
    nearest: list[int | None] = [None] * len(fingerprints)
    if not len(rows):
        return nearest
    packed = np.frombuffer(bytes.fromhex("".join(print_ for print_ in fingerprints if print_)), np.uint8)
    packed = packed.reshape(len(rows), -1)
    split = np.array([place[splits[i]] for i in rows])
    for later in range(1, len(order)):
        asked, asking = np.flatnonzero(split < later), np.flatnonzero(split == later)
        if not len(asked) or not len(asking):
            continue
        best = np.full(len(asking), np.iinfo(np.int64).max)
        for flipped in (packed[asking], packed[asking] ^ mirror_mask()):
            _compare(packed[asked], flipped, bound, best)
        for row, found in zip(asking.tolist(), best.tolist(), strict=True):
            if found >> 40 <= bound:
                nearest[rows[row]] = int(rows[asked[found & ((1 << 40) - 1)]])
    return nearest


def _compare(asked: np.ndarray, asking: np.ndarray, bound: int, best: np.ndarray) -> None:
    """Lower `best`, distance and index in one number, to the nearest of `asked` in each row of `asking`."""
    words, wanted = (np.ascontiguousarray(prints).view(np.uint64) for prints in (asked, asking))
    if len(asked) * len(asking) <= _FEW:
        _lower_all(words, np.arange(len(asked)), wanted, np.arange(len(asking)), bound, best)
        return
    bits, sought = (np.unpackbits(prints, axis=1) for prints in (asked, asking))
    for band in np.array_split(_ORDER, bound + 1):
        weights = (1 << np.arange(len(band))).astype(np.int64)
        mine, theirs = _grouped(bits[:, band] @ weights), _grouped(sought[:, band] @ weights)
        for key in mine.keys() & theirs.keys():
            _lower_all(words, mine[key], wanted, theirs[key], bound, best)


def _lower_all(
    words: np.ndarray, index: np.ndarray, wanted: np.ndarray, rows: np.ndarray, bound: int, best: np.ndarray
) -> None:
    step = max(1, _BLOCK // len(index))
    for start in range(0, len(rows), step):
        _lower(words, index, wanted, rows[start : start + step], bound, best)


def _lower(
    words: np.ndarray, index: np.ndarray, wanted: np.ndarray, rows: np.ndarray, bound: int, best: np.ndarray
) -> None:
    apart = np.bitwise_count(words[index, 0] ^ wanted[rows, 0][:, None])
    row, column = np.nonzero(apart <= bound)
    apart, row, column = apart[row, column].astype(np.int64), rows[row], index[column]
    # Each further quarter of the bits rules out most of what is left.
    for word in range(1, words.shape[1]):
        apart += np.bitwise_count(words[column, word] ^ wanted[row, word])
        close = apart <= bound
        apart, row, column = apart[close], row[close], column[close]
    np.minimum.at(best, row, apart << 40 | column)


def _grouped(keys: np.ndarray) -> dict[int, np.ndarray]:
    """Return the rows that have each key."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
