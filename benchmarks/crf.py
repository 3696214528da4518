"""How long a dense CRF takes: `python benchmarks/crf.py`.

A rendered street of 360x480, eleven classes, ten iterations, on the threads that torch takes: the whole refinement, and
of it the lattices, which depend on the image alone. The logits are the truth with noise that changes from block to
block.

For context the same mean field over all pairs of pixels, kernels as matrices, at a size at which these fit into
memory, and the share of pixels to which both give the same class.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import _common as common
import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.data.streets import CLASSES, render
from segmodels.layers.crf import dense_crf, gaussian_kernels, mean_field
from segmodels.settings.schema import CRFSettings

BLOCK = 12


def main() -> None:
    """Prints milliseconds of the lattice, and of all pairs where they are few."""
    args = _arguments()
    common.header("torch")
    settings = CRFSettings(iterations=args.iterations)
    large, small = (args.size[0], args.size[1]), (args.small[0], args.small[1])
    device, classes = args.device, len(CLASSES)
    print(f"{classes} classes, {args.iterations} iterations, {torch.get_num_threads()} threads, on {device}\n")
    print("| size | | ms |\n|---|---|---:|")
    for size in (large, small):
        logits, colors = scene(size, device)
        works: dict[str, Callable[[], object]] = {
            "dense CRF": partial(dense_crf, logits, colors, settings),
            "its lattices": partial(gaussian_kernels, colors, settings),
        }
        if size == small:
            works["all pairs"] = partial(all_pairs, logits, colors, settings)
        for work in works.values():
            work()
        waiting = {name: partial(_finished, work, device) for name, work in works.items()}
        times = common.medians(common.interleaved(waiting, args.repeats))
        for name, seconds in times.items():
            print(f"| {size[0]}x{size[1]} | {name} | {1000 * seconds:.0f} |", flush=True)
    ours, exact = dense_crf(logits, colors, settings), all_pairs(logits, colors, settings)
    same = (ours.argmax(1) == exact.argmax(1)).float().mean().item()
    print(f"\nSame class as all pairs at {small[0]}x{small[1]}: {100 * same:.1f} % of the pixels")


def scene(size: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """Logits `[1, C, H, W]` and colours `[1, 3, H, W]` in 0..255."""
    frame = render(0, "train", 0, height=size[0], width=size[1])
    truth = torch.tensor(frame.label).long()
    sure = 2 * F.one_hot(truth.where(truth < len(CLASSES), 0), len(CLASSES)).permute(2, 0, 1).float()
    coarse = torch.randn(
        1, len(CLASSES), size[0] // BLOCK + 1, size[1] // BLOCK + 1, generator=torch.Generator().manual_seed(0)
    )
    noise = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    colors = torch.tensor(frame.image).permute(2, 0, 1)[None].float()
    return (sure[None] + noise).to(device), colors.to(device)


def all_pairs(logits: Tensor, colors: Tensor, settings: CRFSettings) -> Tensor:
    """What `dense_crf` approximates: each kernel a matrix of pixels by pixels."""
    height, width = logits.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=logits.device).float(), torch.arange(width, device=logits.device).float(),
        indexing="ij",
    )  # fmt: skip
    position = torch.stack([x, y], -1).flatten(0, 1)
    color = colors[0].permute(1, 2, 0).flatten(0, 1)
    bilateral = torch.cat([position / settings.bilateral_xy, color / settings.bilateral_rgb], 1)
    kernels = []
    for features in (position / settings.spatial_xy, bilateral):
        kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
        root = kernel.sum(1).rsqrt()
        kernels.append((root[:, None] * kernel * root).matmul)
    weights = (settings.spatial_weight, settings.bilateral_weight)
    return mean_field(logits, kernels, weights, None, settings.iterations).softmax(1)


def _finished(work: Callable[[], object], device: str) -> None:
    work()
    common.synchronize(device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--small", type=int, nargs=2, default=[60, 80], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
