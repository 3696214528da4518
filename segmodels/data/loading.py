"""Datasets and loaders: images and their targets read, decoded, kept in memory and put into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segmodels.data.augment import Augmentation, augment, joint_transforms, normalize, resize_image
from segmodels.data.bands import Bands
from segmodels.data.cache import Cache
from segmodels.data.device import COLORS
from segmodels.data.folder import DatasetError, DatasetInfo, Sample, samples
from segmodels.data.images import open_image
from segmodels.data.mixing import mix
from segmodels.data.targets import check_transformable, target


class Decoded:
    """The images and targets of a split, decoded once and kept while the cache has room for them.

    Args:
        root: Dataset folder.
        split: `train`, `val` or `test`.
        needs: The targets that are read.
        size: (height, width) to which images are resized (area-averaged) and targets too (nearest); None keeps them.
        cache: Memory for decoded samples; beyond it samples are decoded each time. None keeps nothing.
        resize_targets: False keeps targets at their own size, as evaluation needs.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        needs: Sequence[str] = ("labels",),
        size: tuple[int, int] | None = None,
        cache: Cache | None = None,
        resize_targets: bool = True,
    ) -> None:
        self.samples: list[Sample] = samples(root, split, needs)
        if not self.samples:
            raise DatasetError(f"{root / split}: has no samples")
        self.needs, self.size, self.resize_targets = tuple(needs), size, resize_targets
        info = DatasetInfo.read(root)
        self._stored, self._bands = info.targets, Bands.of(info.image)
        self._kept = (cache or Cache(0.0)).kept(len(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """Return `image`, `[C, H, W]` in 0..255 (channels last in memory), and each target, `[H, W]` or `[K, H, W]`.

        Images are uint8 and RGB, or floats where the dataset says so (`segmodels.data.bands`).
        """
        if (kept := self._kept.get(index)) is not None:
            return kept
        sample = self.samples[index]
        # torch.tensor copies: what PIL gives is read-only.
        image = torch.tensor(self._bands.read(sample.image)).permute(2, 0, 1)
        targets = {
            name: torch.from_numpy(target(name).read(sample.targets[name], self._stored.get(name, {})))
            for name in self.needs
        }
        for name, values in targets.items():
            if image.shape[-2:] != values.shape[-2:]:
                raise DatasetError(
                    f"{sample.targets[name]}: is {values.shape[-1]}x{values.shape[-2]}, its image "
                    f"{image.shape[2]}x{image.shape[1]}"
                )
        if self.size is not None and image.shape[-2:] != self.size:
            image = resize_image(image, self.size)
            if self.resize_targets:
                targets = {name: target(name).resize(values, self.size) for name, values in targets.items()}
        decoded = {"image": image, **targets}
        self._kept.put(index, decoded)
        return decoded


class TrainingSet(Dataset[dict[str, Tensor]]):
    """Augmented samples; its items are keyed by (epoch, index), as `EpochSampler` yields them.

    Args:
        data: What is augmented.
        augmentation: How.
        mean: Of each channel, for images in 0..1.
        std: Of each channel.
        seed: Of the augmentation.
        late: Images stay uint8, and their colours are computed on the device (`segmodels.data.device`).
    """

    def __init__(
        self,
        data: Decoded,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        *,
        late: bool = False,
    ) -> None:
        self.data, self.augmentation, self.seed, self.late = data, augmentation, seed, late
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.extra = joint_transforms(augmentation.extra)
        if self.extra is not None:
            check_transformable(data.needs)
        if {"classmix", "copy_paste"} & augmentation.mix.keys() and "labels" not in data.needs:
            raise DatasetError(
                f"train.augment.mix: classmix and copy_paste choose regions by their labels, and "
                f"{', '.join(data.needs)} have none; take cutmix or mosaic"
            )
        if augmentation.focus != "anywhere" and "labels" not in data.needs:
            raise DatasetError(
                f"train.augment.focus is {augmentation.focus}: it lays crops around objects of the labels, and "
                f"{', '.join(data.needs)} have none; set it to anywhere"
            )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample: Mapping[str, Tensor] = self._augmented(index, rng)
        if self.augmentation.mix:
            try:
                sample = mix(sample, self.augmentation.mix, partial(self._other, rng), rng)
            except ValueError as error:
                raise DatasetError(f"train.augment.mix: {error}") from None
        return dict(sample)

    def _other(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return another augmented sample, drawn from the generator."""
        return self._augmented(int(rng.integers(len(self.data))), rng)

    def _augmented(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        targets = dict(self.data[index])
        image = targets.pop("image")
        if self.extra is not None:
            image, targets = self.extra(image, targets, int(rng.integers(2**31)))
        return augment(image, targets, self.augmentation, rng, self.mean, self.std, late=self.late)


class EpochSampler(Sampler[tuple[int, int]]):
    """A fresh permutation each epoch, drawn from (seed, epoch), for one of `world` processes.

    Args:
        length: Number of samples.
        seed: The run's seed.
        rank: This process.
        world: Number of processes; the permutation is repeated at its end so that each has as many.
        often: How often each sample is wanted, float `[length]`: an epoch draws as many samples as there are, each in
            this proportion, and as evenly as whole numbers can; None takes each once.
    """

    def __init__(
        self, length: int, seed: int, *, rank: int = 0, world: int = 1, often: np.ndarray | None = None
    ) -> None:
        self.often = often
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many samples of it have been taken already."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return math.ceil(self.length / self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length)
        if self.often is not None:
            shares = np.cumsum(self.often / self.often.sum() * self.length)
            order = np.searchsorted(shares, np.arange(self.length) + rng.random())[order].clip(max=self.length - 1)
        order = np.resize(order, len(self) * self.world)[self.rank :: self.world]
        return iter([(self.epoch, int(i)) for i in order[self.skip :]])


class EvaluationSet(Dataset[dict[str, Tensor]]):
    """Batches of neighbouring samples of one size, for validation and evaluation.

    An item is `image`, float32 `[n, 3, h, w]`, normalised, and the targets, `[n, …, H, W]` at full resolution. With
    `late` images stay uint8, and their colours are computed on the device (`segmodels.data.device`).
    """

    def __init__(
        self, data: Decoded, batch_size: int, mean: Sequence[float], std: Sequence[float], *, late: bool = False
    ) -> None:
        self.data, self.mean, self.std, self.late = data, torch.tensor(mean), torch.tensor(std), late
        self.batches = list(same_size(data.samples, batch_size))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = _stacked([self.data[i] for i in self.batches[index]])
        if self.late:
            colors = torch.cat([torch.diag(1 / (255 * self.std)), -(self.mean / self.std)[:, None]], dim=1)
            return {**batch, COLORS: colors.repeat(len(batch["image"]), 1, 1)}
        return {**batch, "image": normalize(batch["image"], self.mean, self.std)}


def same_size(listed: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of neighbouring samples whose targets have one size, at most `batch_size` at a time."""
    batch: list[int] = []
    last: tuple[int, int] | None = None
    for index, sample in enumerate(listed):
        with open_image(next(iter(sample.targets.values()))) as image:
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
    )


def _stacked(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch of samples of one size."""
    sizes = {tuple(sample["image"].shape[-2:]) for sample in samples}
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes)[:3])
        raise DatasetError(f"train: samples of one batch have several sizes ({listed}); set train.augment.crop")
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
