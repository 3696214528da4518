"""Augmentation pixel by pixel: images whose colours are their coordinates, and pillow, torchvision and colorsys."""

from __future__ import annotations

import colorsys
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import SequentialSampler
from torchvision.transforms.v2 import functional as vision

from segmodels.data.augment import (
    Augmentation,
    JointTransforms,
    augment,
    color_map,
    focus_box,
    joint_transforms,
    normalize,
    resize_image,
)
from segmodels.data.cache import Cache
from segmodels.data.folder import ClassInfo, DatasetError, Sample, read_image, read_label
from segmodels.data.loading import Decoded, EpochSampler, EvaluationSet, TrainingSet, same_size, training_loader
from segmodels.data.targets import take_centers
from segmodels.data.writer import DatasetWriter

ZERO, ONE = torch.zeros(3), torch.ones(3)


def coordinates(height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image whose red is the row, green the column and blue constant; a label that is the row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, 200)]).to(torch.uint8)
    return image, rows.to(torch.uint8)


def augmented(size: tuple[int, int], seed: int, **how: Any) -> tuple[Tensor, Tensor]:
    """Rows and columns (and blue) of the source that became each pixel, and the label."""
    image, label = coordinates(*size)
    sample = augment(image, {"labels": label}, Augmentation(**how), np.random.default_rng(seed), ZERO, ONE)
    return sample["image"] * 255, sample["labels"]


def test_crops_are_windows_of_the_image_and_each_is_as_likely() -> None:
    corners: Counter[tuple[int, int]] = Counter()
    for seed in range(1200):
        pixels, label = augmented((6, 8), seed, crop=(4, 5), flip=0.0)
        top, left = round(pixels[0, 0, 0].item()), round(pixels[1, 0, 0].item())
        image, rows = coordinates(6, 8)
        torch.testing.assert_close(pixels, image[:, top : top + 4, left : left + 5].float(), atol=1e-3, rtol=0)
        assert label.dtype == torch.int64 and torch.equal(label, rows[top : top + 4, left : left + 5].long())
        corners[top, left] += 1
    assert set(corners) == {(top, left) for top in range(3) for left in range(4)}
    assert 65 < min(corners.values()) and max(corners.values()) < 140  # of 100 each


def test_without_a_crop_the_image_keeps_its_size_and_a_mirror_image_is_made_as_often_as_asked() -> None:
    flips: Counter[float] = Counter()
    for seed in range(400):
        for probability in (0.0, 0.25, 1.0):
            pixels, label = augmented((5, 7), seed, flip=probability)
            assert pixels.shape == (3, 5, 7) and label.shape == (5, 7)
            mirrored = bool(pixels[1, 0, 0] > pixels[1, 0, -1])
            image, rows = coordinates(5, 7)
            torch.testing.assert_close(pixels, (image.flip(-1) if mirrored else image).float(), atol=1e-3, rtol=0)
            assert torch.equal(label, rows.long())
            flips[probability] += mirrored
    assert flips[0.0] == 0 and flips[1.0] == 400 and 70 < flips[0.25] < 130
    assert Augmentation().flip == 0.5 and Augmentation().scale == (1.0, 1.0) and Augmentation().color == 0.0


def test_a_scaled_image_is_that_of_torchvision_and_its_factor_is_drawn_log_uniformly() -> None:
    factors = []
    for seed in range(600):
        pixels, label = augmented((120, 160), seed, crop=(40, 40), scale=(0.5, 2.0), flip=0.0)
        # Rounding may leave a row at the edge to be padded.
        rows = pixels[0][(label != 255).any(1)].amax(1)
        factors.append((len(rows) - 1) / (rows[-1] - rows[0]).item())
    logs = np.log2(factors)
    assert abs(np.mean(logs)) < 0.08 and np.std(logs) == pytest.approx(2 / math.sqrt(12), abs=0.05)
    assert -1.1 < logs.min() < -0.95 and 0.95 < logs.max() < 1.1
    for factor, window in ((2.0, 20), (0.5, 80)):
        pixels, label = augmented((120, 160), 0, crop=(40, 40), scale=(factor, factor), flip=0.0)
        image, rows = coordinates(120, 160)
        # The window's corner, from the middle of the output.
        top, left = (round(pixels[k].mean().item() - (window - 1) / 2) for k in (0, 1))
        source = image[:, top : top + window, left : left + window]
        expected = vision.resize(source, [40, 40], antialias=True)
        torch.testing.assert_close(pixels, expected.float(), atol=1.01, rtol=0)
        centres = Image.fromarray(rows[top : top + window, left : left + window].numpy()).resize((40, 40), 0)
        assert np.array_equal(label.numpy(), np.asarray(centres))


def test_what_is_smaller_than_the_crop_lies_anywhere_in_it_amid_the_mean_colour_and_void() -> None:
    corners: Counter[tuple[int, int]] = Counter()
    for seed in range(600):
        pixels, label = augmented((4, 6), seed, crop=(6, 9), flip=0.0)
        assert pixels.shape == (3, 6, 9) and label.dtype == torch.int64
        inside = label != 255
        (top, left), (bottom, right) = (end(torch.nonzero(inside), 0) for end in (low, high))
        assert (bottom - top + 1, right - left + 1) == (4, 6) and inside.sum() == 24
        image, rows = coordinates(4, 6)
        torch.testing.assert_close(pixels[:, inside], image.reshape(3, -1).float(), atol=1e-3, rtol=0)
        assert torch.equal(label[inside], rows.flatten().long()) and not pixels[:, ~inside].any()
        corners[top, left] += 1
    assert set(corners) == {(top, left) for top in range(3) for left in range(4)}
    assert 25 < min(corners.values()) and max(corners.values()) < 80  # of 50 each
    # A side that is larger is cut, one that is smaller is padded.
    pixels, label = augmented((12, 6), 3, crop=(6, 9), flip=0.0)
    assert ((label != 255).sum(0) > 0).sum() == 6 and (label != 255).sum() == 36
    # The scaled image is 8 x 12 of 20 x 20.
    _, label = augmented((16, 24), 3, crop=(20, 20), scale=(0.5, 0.5), flip=0.0)
    assert (label != 255).sum() == 8 * 12


def low(values: Tensor, axis: int) -> list[int]:
    return [int(v) for v in values.amin(axis)]


def high(values: Tensor, axis: int) -> list[int]:
    return [int(v) for v in values.amax(axis)]


class Drawn:
    """A generator that gives what it is told and keeps what it was asked for."""

    def __init__(self, factors: tuple[float, float, float], turn: float) -> None:
        self.given, self.asked = [np.array(factors), turn], list[tuple[Any, ...]]()

    def uniform(self, *range_: Any) -> Any:
        self.asked.append(range_)
        return self.given.pop(0)


@pytest.mark.parametrize(
    ("factors", "turn"),
    [((1, 1, 1), 0), ((1.3, 1, 1), 0), ((1, 0.6, 1), 0), ((1, 1, 0.4), 0), ((1, 1, 1), 0.1), ((1.2, 0.8, 0.7), -0.05)],
)
def test_colours_are_brightened_contrasted_saturated_and_turned_as_colorsys_does(
    factors: tuple[float, float, float], turn: float
) -> None:
    mean, std = torch.tensor([0.45, 0.5, 0.4]), torch.tensor([0.2, 0.25, 0.3])
    rng: Any = Drawn(factors, turn)
    matrix, offset = color_map(0.5, rng, mean, std)
    assert rng.asked == [(0.5, 1.5, 3), (-0.125, 0.125)]
    brightness, contrast, saturation = factors
    for color in ((0.2, 0.5, 0.8), (0.9, 0.1, 0.3), (0.4, 0.4, 0.4)):
        y, i, q = colorsys.rgb_to_yiq(*color)
        angle = 2 * math.pi * turn
        i, q = (
            saturation * (i * math.cos(angle) - q * math.sin(angle)),
            saturation * (i * math.sin(angle) + q * math.cos(angle)),
        )
        # colorsys.yiq_to_rgb clamps; its inverse does not.
        to_yiq = np.array([colorsys.rgb_to_yiq(*unit) for unit in np.eye(3)]).T
        rgb = torch.tensor(np.linalg.solve(to_yiq, [y, i, q]), dtype=torch.float32)
        expected = brightness * (contrast * rgb + (1 - contrast) * mean)
        found = (matrix @ (255 * torch.tensor(color)) + offset) * std + mean
        torch.testing.assert_close(found, expected, atol=0.025, rtol=0)


def test_luma_is_that_of_bt_601() -> None:
    rng: Any = Drawn((1, 1, 0.0), 0)
    matrix, offset = color_map(1.0, rng, ZERO, ONE)
    grey = matrix @ torch.tensor([100.0, 50.0, 200.0]) + offset
    luma = (0.299 * 100 + 0.587 * 50 + 0.114 * 200) / 255
    torch.testing.assert_close(grey, torch.full((3,), luma), atol=1e-4, rtol=0)


def test_jitter_is_part_of_the_augmented_sample() -> None:
    image, label = coordinates(6, 8)
    mean, std = torch.tensor([0.45, 0.5, 0.4]), torch.tensor([0.2, 0.25, 0.3])
    targets = {"labels": label}
    pixels = augment(image, targets, Augmentation(flip=0.0), np.random.default_rng(0), mean, std)["image"]
    torch.testing.assert_close(pixels, normalize(image, mean, std), atol=1e-4, rtol=1e-4)
    levels, how = set(), Augmentation(flip=0.0, color=0.4)
    for seed in range(20):
        jittered = augment(image, targets, how, np.random.default_rng(seed), mean, std)["image"]
        assert (jittered - pixels).abs().max() > 0.01
        levels.add(round(jittered.mean().item(), 4))
    assert len(levels) == 20


def test_sizes_are_those_of_torchvision_and_labels_those_of_pillow() -> None:
    image = torch.randint(0, 256, (3, 30, 44), dtype=torch.uint8)
    label = torch.randint(0, 9, (30, 44), dtype=torch.uint8)
    for size in ((15, 22), (16, 64), (60, 88), (30, 32)):
        assert (
            resize_image(image, size).int() - vision.resize(image, list(size), antialias=True).int()
        ).abs().max() <= 1
        expected = np.asarray(Image.fromarray(label.numpy()).resize(size[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(take_centers(label, size).numpy(), expected)
    assert resize_image(image, (30, 44)) is image and take_centers(label, (30, 44)) is label
    assert resize_image(image, [30, 44]) is image  # type: ignore[arg-type]


def test_memory_is_taken_to_the_last_byte_and_no_further() -> None:
    room = Cache(3e-9)
    assert (room.take(4), room.take(2), room.take(2), room.take(1), room.take(1)) == (False, True, False, True, False)


def test_decoded_samples_are_the_files_at_the_size_that_is_asked(dataset: Path) -> None:
    plain, both = Decoded(dataset, "test"), Decoded(dataset, "test", size=(32, 40), cache=Cache(1.0))
    kept = Decoded(dataset, "test", size=(32, 40), resize_targets=False)
    assert len(plain) == 4
    for index, sample in enumerate(plain.samples):
        image, label = plain[index]["image"], plain[index]["labels"]
        assert plain[index].keys() == both[index].keys() == kept[index].keys() == {"image", "labels"}
        assert torch.equal(image, torch.tensor(read_image(sample.image)).permute(2, 0, 1))
        assert torch.equal(label, torch.tensor(read_label(sample.label)))
        assert plain[index]["image"] is not image
        resized = both[index]["image"]
        assert torch.equal(resized, resize_image(image, (32, 40))) and both[index]["image"] is resized
        assert torch.equal(both[index]["labels"], take_centers(label, (32, 40)))
        assert torch.equal(kept[index]["image"], resized) and torch.equal(kept[index]["labels"], label)
    size = plain[0]["image"].numel() + plain[0]["labels"].numel()
    tight = Decoded(dataset, "test", cache=Cache(size / 1e9))
    assert tight[0]["image"] is tight[0]["image"] and tight[1]["image"] is not tight[1]["image"]


def test_a_split_without_samples_is_named(tmp_path: Path) -> None:
    (tmp_path / "val" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"^{re.escape(str(tmp_path / 'val'))}: has no samples$"):
        Decoded(tmp_path, "val")


def test_a_label_of_another_size_than_its_image_is_named(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", "odd", (ClassInfo("a", (0, 0, 0)),), source={}) as writer:
        writer.add("train", "x", np.zeros((6, 9, 3), np.uint8), np.zeros((9, 6), np.uint8))
    with pytest.raises(DatasetError, match=r"labels/x\.png: is 6x9, its image 9x6$"):
        Decoded(tmp_path / "d", "train")[0]


def test_samples_of_one_size_are_together_and_at_most_a_batch(tmp_path: Path) -> None:
    listed = []
    for number, width in enumerate([8, 8, 8, 9, 8, 8, 8, 8, 8]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.zeros((8, width), np.uint8)).save(path)
        listed.append(Sample(f"{number}", path, {"labels": path}))
    assert list(same_size(listed, 2)) == [[0, 1], [2], [3], [4, 5], [6, 7], [8]]
    assert list(same_size(listed, 9)) == [[0, 1, 2], [3], [4, 5, 6, 7, 8]]
    assert list(same_size([], 2)) == []


def test_every_process_has_as_many_samples_and_the_first_ones_come_again() -> None:
    def listed(epoch: int | None, seed: int = 5, world: int = 3) -> list[list[tuple[int, int]]]:
        ranks = []
        for rank in range(world):
            sampler = EpochSampler(10, seed, rank=rank, world=world)
            if epoch is not None:
                sampler.set_epoch(epoch)
            ranks.append(list(sampler))
            assert len(sampler) == len(ranks[-1]) == math.ceil(10 / world)
        return ranks

    alone = listed(1, world=1)[0]
    assert sorted(alone) == [(1, i) for i in range(10)] and alone != sorted(alone)
    order = [*alone, *alone[:2]]
    assert listed(1) == [order[rank::3] for rank in range(3)]
    assert list(EpochSampler(10, 5)) == [(0, i) for _, i in listed(None, world=1)[0]]
    assert len({str([i for _, i in listed(e, s, 1)[0]]) for e in range(3) for s in range(3)}) == 9


def test_batches_for_evaluation_are_the_normalised_images(dataset: Path) -> None:
    data, mean, std = Decoded(dataset, "test"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    batches = EvaluationSet(data, 3, mean, std)
    assert len(batches) == 2
    for batch, indices in enumerate(([0, 1, 2], [3])):
        images, labels = batches[batch]["image"], batches[batch]["labels"]
        assert len(images) == len(labels) == len(indices)
        for at, index in enumerate(indices):
            expected = vision.normalize(data[index]["image"] / 255, list(mean), list(std))
            torch.testing.assert_close(images[at], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(labels[at], data[index]["labels"])


def test_batches_for_training_are_whole_unless_there_is_one_alone(dataset: Path) -> None:
    data = TrainingSet(Decoded(dataset, "train"), Augmentation(crop=(16, 24)), (0, 0, 0), (1, 1, 1), seed=0)
    for batch_size, sizes in ((4, [4, 4]), (5, [5, 5]), (10, [10]), (11, [10])):
        loader = training_loader(data, EpochSampler(10, 0), batch_size, 0)
        assert [len(batch["image"]) for batch in loader] == sizes
        assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (
            0,
            False,
            torch.cuda.is_available(),
        )
    for batch, first in zip(training_loader(data, EpochSampler(10, 0), 4, 0), (0, 4), strict=True):
        keys = list(EpochSampler(10, 0))[first : first + 4]
        assert batch.keys() == {"image", "labels"}
        for name, values in batch.items():
            assert torch.equal(values, torch.stack([data[key][name] for key in keys]))
    workers = training_loader(data, EpochSampler(10, 0), 4, 1)
    assert workers.num_workers == 1 and workers.persistent_workers
    assert not isinstance(loader.sampler, SequentialSampler)


def test_samples_of_several_sizes_are_named_with_what_to_set(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", "sizes", (ClassInfo("a", (0, 0, 0)),), source={}) as writer:
        for number in range(5):
            size = (8 + number, 9)
            writer.add("train", f"{number}", np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
    data = TrainingSet(Decoded(tmp_path / "d", "train"), Augmentation(), (0, 0, 0), (1, 1, 1), seed=0)
    sentence = "train: samples of one batch have several sizes (8x9, 9x9, 10x9); set train.augment.crop"
    with pytest.raises(DatasetError, match=f"^{re.escape(sentence)}$"):
        list(training_loader(data, EpochSampler(5, 0), 5, 0))


def test_transforms_of_torchvision_come_first_and_draw_from_the_samples_own_generator(dataset: Path) -> None:
    how = Augmentation(crop=(32, 40), extra={"RandomHorizontalFlip": {"p": 1.0}}, flip=0.0)
    data = Decoded(dataset, "train")
    sets = [TrainingSet(data, a, (0, 0, 0), (1, 1, 1), seed=1) for a in (how, how)]
    state = torch.random.get_rng_state()
    sample = sets[0][0, 3]
    assert torch.equal(torch.random.get_rng_state(), state)
    rng = np.random.default_rng((1, 0, 3))
    rng.integers(2**31)
    plain = Augmentation(crop=(32, 40), flip=0.0)
    targets = {"labels": data[3]["labels"].flip(-1)}
    expected = augment(data[3]["image"].flip(-1), targets, plain, rng, ZERO, ONE)
    assert sample.keys() == expected.keys() == {"image", "labels"}
    assert all(torch.equal(values, expected[name]) for name, values in sample.items())
    assert torch.equal(sets[1][0, 3]["image"], sample["image"])
    turned = JointTransforms({"RandomRotation": {"degrees": 45}})
    picture, targets = data[0]["image"], {"labels": data[0]["labels"]}
    different = {turned(picture, targets, seed)[1]["labels"].sum().item() for seed in range(8)}
    assert len(different) > 4
    image, moved = turned(picture, targets, 0)
    assert type(image) is type(moved["labels"]) is Tensor


def test_void_stays_void_and_pixels_that_a_transform_makes_up_become_it() -> None:
    label = torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8).repeat(4, 1)
    shift = joint_transforms({"Pad": {"padding": [1, 0, 0, 0]}})
    assert shift is not None and joint_transforms({}) is None
    image, targets = shift(torch.full((3, 4, 4), 7, dtype=torch.uint8), {"labels": label}, 0)
    assert targets["labels"].tolist() == [[255, 0, 1, 2, 255]] * 4
    assert image[0].tolist() == [[0, 7, 7, 7, 7]] * 4


def test_a_transform_without_a_probability_is_given_one_and_mistakes_are_named() -> None:
    targets = {"labels": torch.zeros(4, 4, dtype=torch.uint8)}
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4).repeat(3, 1, 1)
    often = {}
    for p in (None, 0.0, 0.5, 1.0):
        keywords = {"padding": 1, **({} if p is None else {"p": p})}
        transform = JointTransforms({"Pad": keywords})
        often[p] = sum(transform(image, targets, seed)[1]["labels"].shape == (6, 6) for seed in range(100))
    assert often[None] == often[1.0] == 100 and often[0.0] == 0 and 30 < often[0.5] < 70
    for named, sentence in (
        ({"Rotate": {}}, "augment.extra: torchvision.transforms.v2 has no transform 'Rotate'"),
        ({"functional": {}}, "augment.extra: torchvision.transforms.v2 has no transform 'functional'"),
        ({"InterpolationMode": {}}, "augment.extra: torchvision.transforms.v2 has no transform 'InterpolationMode'"),
        ({"Pad": {"paddings": 1}}, "augment.extra.Pad: "),
        ({"RandomHorizontalFlip": {"p": 2.0}}, "augment.extra.RandomHorizontalFlip: "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            JointTransforms(named)


def test_proposals_are_shifted_and_stretched_as_far_as_they_may() -> None:
    label = torch.full((600, 700), 255, dtype=torch.uint8)
    label[250:350, 300:380] = 4  # far from every edge
    stretched, shifted = np.array([
        [(size / (1.2 * extent), (start + size / 2 - middle) / (1.2 * extent)) for start, size, extent, middle in sides]
        for sides in (
            ((top, bottom - top, 100, 300), (left, right - left, 80, 340))
            for top, left, bottom, right in (
                focus_box(label, np.random.default_rng(seed), loose=True) for seed in range(400)
            )
        )
    ]).transpose(2, 1, 0)  # fmt: skip
    for values, low, high in ((stretched, 0.8, 1.6), (shifted, -0.3, 0.3)):
        for side in values:
            assert low - 0.01 <= side.min() < low + 0.03 and high - 0.03 < side.max() <= high + 0.01
            assert side.mean() == pytest.approx((low + high) / 2, abs=0.05)
    assert abs(np.corrcoef(stretched)[0, 1]) < 0.2 and abs(np.corrcoef(shifted)[0, 1]) < 0.2
