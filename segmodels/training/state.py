"""The state from which an interrupted training goes on: replaced as a whole, written by one process at a time."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from segmodels.errors import UserError
from segmodels.files import replaced


class TrainingError(UserError):
    """Training cannot go on; the message says why and what to do."""


class TrainingInterrupted(UserError):  # noqa: N818 - not an error
    """Training was told to stop and has saved its state."""


STATE_FILE = "state.pt"


class ResumeState:
    """The resume state: `state.pt`, replaced as a whole, and the best weights so far."""

    def __init__(self, folder: Path, signature: str) -> None:
        self.folder, self.signature = folder, signature

    def load(self) -> dict[str, Any] | None:
        """Return the last state, or None where there is none that belongs to these settings."""
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if saved["signature"] != self.signature:
            print("the saved state belongs to other settings or other data; training begins anew", flush=True)
            return None
        if "stage" not in saved or "best" not in saved["position"]:
            print("the saved state is of an earlier version of segmodels; training begins anew", flush=True)
            return None
        return saved

    def save(self, content: dict[str, Any]) -> None:
        """Replace the state.

        Raises:
            TrainingError: The disk cannot hold it; the last state is untouched.
        """
        with _written(self.folder / STATE_FILE) as part:
            torch.save(content | {"signature": self.signature}, part)

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the best weights so far.

        Raises:
            TrainingError: The disk cannot hold them.
        """
        with _written(self.best(epoch)) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part)

    def best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.safetensors"

    def forget_but(self, epoch: int) -> None:
        """Remove best weights that `state.pt` no longer names."""
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best(epoch):
                path.unlink()


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Give the temporary name of a file that takes its own name when the body has written it."""
    try:
        with replaced(path) as part:
            yield part
    except (OSError, SafetensorError, RuntimeError) as error:  # each writer has its own way to say that it could not
        # torch says of a full disk that positions differ.
        full = not isinstance(error, OSError) and shutil.disk_usage(path.parent).free < 2**20
        reason = os.strerror(errno.ENOSPC) if full else _first_line(error)
        free = shutil.disk_usage(path.parent).free / 1e9
        raise TrainingError(
            f"{path}: cannot be written ({reason}; {free:.1f} GB of its disk are free); make room and run "
            "the same command again, it goes on from the last state"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
