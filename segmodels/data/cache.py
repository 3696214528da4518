"""Memory for decoded samples: of one process, or shared by it and the workers that load for it."""

from __future__ import annotations

import json
import mmap
import multiprocessing
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ALIGNED = 64  # bytes


class Cache:
    """What is left of the memory that decoded samples may take; several splits share one.

    Args:
        gigabytes: All of it.
    """

    def __init__(self, gigabytes: float) -> None:
        self._left = gigabytes * 1e9

    def kept(self, length: int) -> Kept:
        """Return the place for the samples of a split."""
        return Kept(self)

    def take(self, size: int) -> bool:
        """Take that many bytes, where they are left; tells whether they were."""
        if size > self._left:
            return False
        self._left -= size
        return True


class Kept:
    """The decoded samples of a split, as far as there is room for them."""

    def __init__(self, room: Cache) -> None:
        self._room, self._held = room, dict[int, Mapping[str, Tensor]]()

    def get(self, index: int) -> Mapping[str, Tensor] | None:
        """Return a sample that was put here."""
        return self._held.get(index)

    def put(self, index: int, sample: Mapping[str, Tensor]) -> None:
        """Keep a sample, where there is room for it."""
        if self._room.take(sum(values.nbytes for values in sample.values())):
            self._held[index] = sample


class SharedCache(Cache):
    """Memory that a process shares with the workers it starts: what one of them has decoded all of them have.

    The memory is anonymous, so that it ends with the last process, however that ends, and is taken page by page as it
    fills. Workers inherit it: they have to be forked, as torch's loaders are on Linux.

    Args:
        gigabytes: All of it.
    """

    def __init__(self, gigabytes: float) -> None:
        super().__init__(gigabytes)
        self.memory = mmap.mmap(-1, max(mmap.PAGESIZE, int(gigabytes * 1e9)))
        self.lock = multiprocessing.get_context("fork").Lock()
        self.used = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64, 1)

    def kept(self, length: int) -> Kept:
        return SharedKept(self, length)

    def reserve(self, size: int) -> int | None:
        """Return where so many bytes may be written; None where they are not left."""
        with self.lock:
            start = int(self.used[0])
            if start + size > len(self.memory) or start + size > self._left:
                return None
            self.used[0] = start + -(-size // _ALIGNED) * _ALIGNED
            return start


class SharedKept(Kept):
    """The decoded samples of a split in shared memory."""

    def __init__(self, room: SharedCache, length: int) -> None:
        super().__init__(room)
        self._shared = room
        # Where each sample begins, and its bytes; 0 bytes are none yet.
        table = mmap.mmap(-1, max(mmap.PAGESIZE, 16 * length))
        self._table = np.frombuffer(table, np.int64, 2 * length).reshape(length, 2)

    def get(self, index: int) -> Mapping[str, Tensor] | None:
        start, size = (int(value) for value in self._table[index])
        if not size:
            return None
        memory = self._shared.memory
        told = int(np.frombuffer(memory, np.int64, 1, start)[0])
        entries: list[Any] = json.loads(memory[start + 8 : start + 8 + told])
        return {
            name: torch.from_numpy(np.frombuffer(memory, dtype, int(np.prod(shape)), start + place).reshape(shape))
            .permute(order)
            for name, dtype, shape, order, place in entries
        }  # fmt: skip

    def put(self, index: int, sample: Mapping[str, Tensor]) -> None:
        if self._table[index, 1]:
            return
        entries: list[Any] = []
        arrays: list[tuple[int, np.ndarray]] = []
        place = _ALIGNED * (2 + len(sample) * 2)  # behind the description
        for name, values in sample.items():
            stored, order = _stored(values)
            entries.append([name, stored.dtype.str, list(stored.shape), order, place])
            arrays.append((place, stored))
            place += -(-stored.nbytes // _ALIGNED) * _ALIGNED
        told = json.dumps(entries).encode()
        if 8 + len(told) > _ALIGNED * (2 + len(sample) * 2):
            return
        start = self._shared.reserve(place)
        if start is None:
            return
        memory = self._shared.memory
        memory[start : start + 8] = len(told).to_bytes(8, "little")
        memory[start + 8 : start + 8 + len(told)] = told
        for offset, stored in arrays:
            memory[start + offset : start + offset + stored.nbytes] = stored.tobytes()
        with self._shared.lock:  # what was written is there before anybody is told
            self._table[index] = start, place


def cache_for(gigabytes: float, workers: int) -> Cache:
    """Return memory for decoded samples that this process and its workers have together.

    Args:
        gigabytes: All of it.
        workers: Processes that load for this one; none takes memory of its own.
    """
    if not workers:
        return Cache(gigabytes)
    try:
        return SharedCache(gigabytes)
    except (OSError, OverflowError):  # the system promises no more memory than it has
        return Cache(gigabytes / workers)


def _stored(values: Tensor) -> tuple[np.ndarray, list[int]]:
    """Return a tensor in the order of its memory, and how its axes are put back: images have channels last there."""
    if values.ndim == 3 and values.stride(0) == 1:
        return np.ascontiguousarray(values.permute(1, 2, 0).numpy()), [2, 0, 1]
    return np.ascontiguousarray(values.numpy()), list(range(values.ndim))
