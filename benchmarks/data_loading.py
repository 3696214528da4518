"""Our data path beside a plain one: `python benchmarks/data_loading.py`.

The plain one is a Dataset that opens both files with Pillow and applies torchvision's transforms v2 to them: random
resize, crop, flip, colour jitter, normalisation. Both read the same generated frames, scale by the same range, give
crops of the same size in batches of eight, and load in the process itself. Three of ours: as trained, where decoded
samples stay in memory; its first epoch, which decodes and keeps; and without the memory, decoding every time. Both
decode with Pillow: `decoding` is what that alone allows, and nothing that decodes every time comes above it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import _common as common
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from segmodels.artifacts.model_folder import IMAGENET_MEAN, IMAGENET_STD
from segmodels.data.augment import Augmentation
from segmodels.data.cache import Cache
from segmodels.data.folder import DatasetInfo, samples
from segmodels.data.loading import Decoded, EpochSampler, TrainingSet, training_loader
from segmodels.data.streets.write import write_dataset
from segmodels.data.writer import DatasetWriter

BATCH = 8
SIZE = (360, 480)
SCALE = (0.75, 1.5)
COLOR = 0.2


class Plain(Dataset[tuple[Tensor, Tensor]]):
    """What a tutorial writes."""

    def __init__(self, root: Path, crop: tuple[int, int]) -> None:
        self.samples = samples(root, "train")
        self.transform = v2.Compose(
            [
                v2.ScaleJitter(SIZE, SCALE, antialias=True),
                v2.RandomCrop(crop, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                v2.RandomHorizontalFlip(0.5),
                v2.ColorJitter(COLOR, COLOR, COLOR, COLOR / 4),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(sample.image).convert("RGB")))
        label = tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(sample.label))[0])
        image, label = self.transform(image, label)
        return image, label.long()


class Ours:
    """Epochs of our data path, with room in memory or without."""

    def __init__(self, root: Path, crop: tuple[int, int], cache_gb: float) -> None:
        how = Augmentation(crop=crop, scale=SCALE, color=COLOR)
        data = TrainingSet(Decoded(root, "train", cache=Cache(cache_gb)), how, IMAGENET_MEAN, IMAGENET_STD, seed=0)
        self.sampler = EpochSampler(len(data), seed=0)
        self.loader = training_loader(data, self.sampler, BATCH, workers=0)
        self.epoch = 0

    def run(self) -> None:
        self.sampler.set_epoch(self.epoch)
        self.epoch += 1
        for _ in self.loader:
            pass


def main() -> None:
    """Prints images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    common.header("torch", "torchvision", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "streets"
        write_dataset(root, seed=0, train=args.images, val=1, test=0, height=SIZE[0], width=SIZE[1])
        photos = Path(folder) / "photos"
        _as_jpeg(root, photos)
        print(f"{args.images} images of {SIZE[0]}x{SIZE[1]}, {torch.get_num_threads()} threads, images a second\n")
        print("| files | crop | decoding | plain | ours | ours, first epoch | ours, not kept |")
        print("|---|---|---|---|---|---|---|")
        for kind, data in (("PNG", root), ("JPEG", photos)):
            for crop in ((192, 256), SIZE):
                print(f"| {kind} {_row(data, crop, args.images, args.epochs)}", flush=True)


def _as_jpeg(root: Path, out: Path) -> None:
    """The same dataset with its images as a camera writes them."""
    info = DatasetInfo.read(root)
    with DatasetWriter(out, info.name, info.classes, source=info.source) as writer:
        for split in ("train", "val"):
            for sample in samples(root, split):
                file = sample.image.with_suffix(".jpg")
                Image.open(sample.image).save(file, quality=92)
                writer.add(split, sample.id, file, sample.label)
                file.unlink()


def _row(root: Path, crop: tuple[int, int], images: int, epochs: int) -> str:
    plain = DataLoader(Plain(root, crop), BATCH, shuffle=True)
    kept, decoding = Ours(root, crop, cache_gb=4), Ours(root, crop, cache_gb=0)
    kept.run()

    def first() -> None:
        Ours(root, crop, cache_gb=4).run()

    def decode() -> None:
        for sample in samples(root, "train"):
            Image.open(sample.image).load()
            Image.open(sample.label).load()

    works = {
        "decoding": decode,
        "plain": lambda: list(plain),
        "ours": kept.run,
        "first": first,
        "not kept": decoding.run,
    }
    rates = {name: images / s for name, s in common.medians(common.interleaved(works, epochs)).items()}
    cells = [f"{rates['decoding']:.0f}", f"{rates['plain']:.0f}"]
    cells += [f"{rates[n]:.0f} ({rates[n] / rates['plain']:.1f}x)" for n in ("ours", "first", "not kept")]
    return f"| {crop[0]}x{crop[1]} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
