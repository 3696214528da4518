"""Modules on the meta device, whose initialisation has nothing to fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NoInitialisation(TorchFunctionMode):
    """Drawing numbers into tensors without memory does nothing, yet its first call imports the compiler: seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules inside that have shapes, but neither memory nor initial values."""
    with torch.device("meta"), NoInitialisation():
        yield
