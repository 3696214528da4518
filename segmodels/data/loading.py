"""Datasets and loaders: images and labels read, decoded, kept in memory and put into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segmodels.data.augment import Augmentation, augment, joint_transforms, normalize, resize_image, resize_label
from segmodels.data.folder import DatasetError, Sample, read_image, read_label, samples
from segmodels.data.images import open_image


class Cache:
    """What is left of the memory that decoded samples may take; several splits share one.

    Args:
        gigabytes: All of it.
    """

    def __init__(self, gigabytes: float) -> None:
        self._left = gigabytes * 1e9

    def take(self, size: int) -> bool:
        """Take that many bytes, where they are left; tells whether they were."""
        if size > self._left:
            return False
        self._left -= size
        return True


class Decoded:
    """The images and labels of a split, decoded once and kept while the cache has room for them.

    Args:
        root: Dataset folder.
        split: `train`, `val` or `test`.
        size: (height, width) to which images are resized (area-averaged) and labels too (nearest); None keeps them.
        cache: Memory for decoded samples; beyond it samples are decoded each time. None keeps nothing.
        resize_labels: False keeps labels at their own size, as evaluation needs.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        size: tuple[int, int] | None = None,
        cache: Cache | None = None,
        resize_labels: bool = True,
    ) -> None:
        self.samples: list[Sample] = samples(root, split)
        if not self.samples:
            raise DatasetError(f"{root / split}: has no samples")
        self.size, self.resize_labels = size, resize_labels
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = cache or Cache(0.0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image, uint8 `[3, H, W]` (channels last in memory), and label, uint8 `[H, W]`."""
        if index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        # torch.tensor copies: what PIL gives is read-only.
        image, label = torch.tensor(read_image(sample.image)).permute(2, 0, 1), torch.tensor(read_label(sample.label))
        if image.shape[-2:] != label.shape:
            raise DatasetError(
                f"{sample.label}: is {label.shape[1]}x{label.shape[0]}, its image {image.shape[2]}x{image.shape[1]}"
            )
        if self.size is not None and image.shape[-2:] != self.size:
            image = resize_image(image, self.size)
            if self.resize_labels:
                label = resize_label(label, self.size)
        if self._room.take(image.numel() + label.numel()):
            self._cache[index] = image, label
        return image, label


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented samples; its items are keyed by (epoch, index), as `EpochSampler` yields them."""

    def __init__(
        self, data: Decoded, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], seed: int
    ) -> None:
        self.data, self.augmentation, self.seed = data, augmentation, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.extra = joint_transforms(augmentation.extra)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image, label = self.data[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        if self.extra is not None:
            image, label = self.extra(image, label, int(rng.integers(2**31)))
        return augment(image, label, self.augmentation, rng, self.mean, self.std)


class EpochSampler(Sampler[tuple[int, int]]):
    """A fresh permutation each epoch, drawn from (seed, epoch), for one of `world` processes.

    Args:
        length: Number of samples.
        seed: The run's seed.
        rank: This process.
        world: Number of processes; the permutation is repeated at its end so that each has as many.
    """

    def __init__(self, length: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.length / self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        order = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return iter([(self.epoch, int(i)) for i in order])


class EvaluationSet(Dataset[tuple[Tensor, Tensor]]):
    """Batches of neighbouring samples of one size, for validation and evaluation.

    An item is the images, float32 `[n, 3, h, w]`, normalised, and their labels, uint8 `[n, H, W]` at full resolution.
    """

    def __init__(self, data: Decoded, batch_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.data, self.mean, self.std = data, torch.tensor(mean), torch.tensor(std)
        self.batches = list(same_size(data.samples, batch_size))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = zip(*[self.data[i] for i in self.batches[index]], strict=True)
        return normalize(torch.stack(images), self.mean, self.std), torch.stack(labels)


def same_size(listed: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of neighbouring samples whose labels have one size, at most `batch_size` at a time."""
    batch: list[int] = []
    last: tuple[int, int] | None = None
    for index, sample in enumerate(listed):
        with open_image(sample.label) as image:
            size = image.size
        if batch and (size != last or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(index)
        last = size
    if batch:
        yield batch


def training_loader(data: TrainingSet, sampler: EpochSampler, batch_size: int, workers: int) -> DataLoader:
    """Batches of a training set; the last, smaller batch of an epoch is dropped unless it is the only one."""
    return DataLoader(
        data,
        batch_size,
        sampler=sampler,
        collate_fn=_stacked,
        num_workers=workers,
        drop_last=len(sampler) >= batch_size,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _stacked(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return a batch of samples of one size."""
    sizes = {tuple(label.shape) for _, label in samples}
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes)[:3])
        raise DatasetError(f"train: samples of one batch have several sizes ({listed}); set train.augment.crop")
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)
