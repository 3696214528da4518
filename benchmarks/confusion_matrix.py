"""Our confusion matrix beside torchmetrics': `python benchmarks/confusion_matrix.py`.

Four labels of 512x1024 with 19 classes and 5 % void, in the types in which an evaluation has them: torchmetrics takes
64-bit integers, ours 8-bit ones too. All give the same matrix, which is checked.
"""

from __future__ import annotations

import argparse

import _common as common
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from segmodels.tasks.semantic.metrics import confusion_matrix

CLASSES, SHAPE = 19, (4, 512, 1024)


def main() -> None:
    """Prints the milliseconds of a batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    common.header("torch", "torchmetrics")
    generator = torch.Generator().manual_seed(0)
    wide = torch.randint(0, CLASSES, SHAPE, generator=generator)
    target = torch.randint(0, CLASSES, SHAPE, generator=generator)
    target[torch.rand(SHAPE, generator=generator) < 0.05] = 255
    small, small_target = wide.to(torch.uint8), target.to(torch.uint8)
    checked = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    unchecked = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=False)
    jaccard = MulticlassJaccardIndex(CLASSES, ignore_index=255)
    works = {
        "ours, 8 bit": lambda: confusion_matrix(small, small_target, CLASSES),
        "ours, 64 bit": lambda: confusion_matrix(wide, target, CLASSES),
        "torchmetrics, validate_args=False": lambda: unchecked(wide, target),
        "torchmetrics": lambda: checked(wide, target),
        "torchmetrics, MulticlassJaccardIndex": lambda: jaccard(wide, target),
    }
    wanted = checked(wide, target)
    for name in list(works)[:3]:
        assert torch.equal(works[name](), wanted), name
    times = common.medians(common.interleaved(works, repeats))
    print(f"{'x'.join(map(str, SHAPE))} labels, {CLASSES} classes, {torch.get_num_threads()} threads\n")
    print("| | ms | beside ours, 8 bit |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / times['ours, 8 bit']:.1f}x |")


if __name__ == "__main__":
    main()
