"""Where autocast must not reach: sums and products over many terms, for which bf16's eight bits are too few."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Return a context in which operations keep the precision of their operands.

    Args:
        device_type: `cpu`, `cuda` and the like; others, and exported models, know no autocast.
    """
    if torch.compiler.is_exporting() or device_type not in ("cpu", "cuda"):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
