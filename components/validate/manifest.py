"""The manifest as a table: what `segmodels.data.scan.scan` found of every sample."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from segmodels.data.scan import Row, columns

SIZES = ("width", "height", "label_width", "label_height")


def build(rows: Sequence[Row], classes: int) -> pd.DataFrame:
    """Return the rows of a scan as a table with the same columns."""
    known = columns(classes)
    whole = {*SIZES, *(c for c in known if c.startswith("class_"))}
    kinds = {c: "Int64" if c in whole else "object" for c in known}
    return pd.DataFrame(rows, columns=known).astype({**kinds, "readable": "bool", "void_fraction": "Float64"})
