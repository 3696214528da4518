"""The manifest as a table: what `segmodels.data.validation.scan` saw of every sample."""

from __future__ import annotations

import pandas as pd

from segmodels.data.validation.scan import MEASURES, Scanned

SIZES = ("width", "height", "label_width", "label_height", "grey_rows", "orientation")
SHARES = ("void_fraction", "brightness", "edge_fit", "salt_fraction")
_KEPT_BACK = ("label_pixels", "heights")


def build(scanned: Scanned) -> pd.DataFrame:
    """Return a scan as a table: its columns, and `class_0`, `class_1`, …, the pixels of each class."""
    named = [name for name in scanned.columns if name not in (*MEASURES, *_KEPT_BACK)]
    frame = pd.DataFrame({name: pd.Series(scanned.columns[name], dtype=_kind(name)) for name in named})
    counts = {
        f"class_{i}": pd.arrays.IntegerArray(counts.copy(), counts < 0) for i, counts in enumerate(scanned.counts.T)
    }
    measures = {name: pd.Series(scanned.columns[name], dtype=_kind(name)) for name in MEASURES}
    return pd.concat([frame, pd.DataFrame(counts), pd.DataFrame(measures)], axis=1)


def _kind(name: str) -> str:
    if name == "readable":
        return "bool"
    return "Int64" if name in SIZES else "Float64" if name in SHARES else "object"
