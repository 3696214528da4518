"""Find labels that are unlike all others of their dataset: of another image, with classes swapped, of one class alone.

What is usual is taken from the dataset itself, and where nothing is usual nothing is unusual: each finding asks for
enough samples, and for bounds that no right label of CamVid or `streets` comes near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segmodels.data.validation.looks import NOWHERE
from segmodels.data.validation.scan import Scanned

ENOUGH = 30
# In deviations (`looks`): labels of CamVid and streets lie at 3, their lowest at 0.8; below 1.5 borders are drawn too
# roughly for a judgement.
MISFIT, USUAL_FIT = 0.7, 1.5
# Logarithm of how much likelier each of two classes lies where the other one does; right labels reach 2.1.
SWAPPED = 3.0
_LEAST_DEVIATION, _MOST_DEVIATIONS = 12.0, 4.0
# One class alone is odd where no more of the labels have that.
RARE_SHARE = 0.02


def misfits(scanned: Scanned) -> list[float | None]:
    """Return for each sample how badly the label fits its image's edges; None where it fits, or nothing is known."""
    fits = scanned.columns["edge_fit"]
    told = np.array([fit for fit in fits if fit is not None])
    if len(told) < ENOUGH or np.median(told) < USUAL_FIT:
        return [None] * len(fits)
    return [fit if fit is not None and fit < MISFIT else None for fit in fits]


def several_classes(scanned: Scanned) -> list[bool]:
    """Return for each sample whether its label has more than one class."""
    several: list[bool] = ((scanned.counts > 0).sum(1) > 1).tolist()
    return several


def lonely_classes(scanned: Scanned) -> list[int | None]:
    """Return the only class of each label that has one alone, where nearly all have several."""
    held = scanned.counts > 0
    known, single = held.any(1), held.sum(1) == 1
    if known.sum() < ENOUGH or single.sum() > max(1, RARE_SHARE * known.sum()):
        return [None] * len(held)
    only = held.argmax(1)
    return [int(only[i]) if alone else None for i, alone in enumerate(single.tolist())]


def swapped(scanned: Scanned) -> list[tuple[int, int] | None]:
    """Return two classes of each label that lie where the other one does in the rest of the dataset, or None."""
    length, classes = scanned.counts.shape
    pairs: list[tuple[int, int] | None] = [None] * length
    places = _places(scanned.columns["heights"], classes)
    usual = np.flatnonzero((~np.isnan(places)).sum(0) >= ENOUGH)
    if len(usual) < 2:
        return pairs
    places = places[:, usual]
    middle = np.nanmedian(places, 0)
    spread = np.maximum(1.4826 * np.nanmedian(np.abs(places - middle), 0), _LEAST_DEVIATION)
    off = np.nan_to_num(np.abs(places - middle) / spread)
    # Of two swapped classes one is at least this far from its place.
    for row in np.flatnonzero((off**2).max(1) >= 2 * SWAPPED):
        here = np.flatnonzero(~np.isnan(places[row]))
        apart = np.abs(places[row, here][:, None] - middle[here]) / spread[here]
        likely = -(np.minimum(apart, _MOST_DEVIATIONS) ** 2) / 2 - np.log(spread[here])
        gain = likely - np.diag(likely)[:, None]
        both = np.minimum(gain, gain.T)
        if len(here) > 1 and both.max() >= SWAPPED:
            first, second = sorted(usual[here[i]] for i in np.unravel_index(both.argmax(), both.shape))
            pairs[row] = (int(first), int(second))
    return pairs


def _places(heights: Sequence[Any], classes: int) -> np.ndarray:
    """Return the heights as float32 `[N, C]`, NaN where a class hardly occurs."""
    nothing = bytes([NOWHERE]) * classes
    packed = b"".join(bytes.fromhex(text) if text else nothing for text in heights)
    places = np.frombuffer(packed, np.uint8).reshape(len(heights), classes).astype(np.float32)
    places[places == NOWHERE] = np.nan
    return places
