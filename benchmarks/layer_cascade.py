"""What leaving early saves: Layer Cascade's cost against its threshold: `python benchmarks/layer_cascade.py`.

    python benchmarks/layer_cascade.py [--thresholds 1 0.99 0.95 0.9 0.8] [--at 0.95] [--stay 0.5 0.3]

A rendered street of 360x480 through the network at full width. Fresh weights are never sure of anything, so the
certainty is calibrated: batch norm takes the image's statistics, and each stage's classifier is scaled such that, at
the threshold `--at`, the first of the shares `--stay` of the pixels stays after stage 1 and the second share of these
after stage 2. The other thresholds then let more or fewer pixels stay, as with trained weights.

Both ways to compute a region are timed at every threshold: `dense`, a convolution of everything and a mask, and
`listed`, a product of matrices over the pixels that stay; and the network's own choice between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import _common as common
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels.artifacts.model_folder import IMAGENET_MEAN, IMAGENET_STD
from segmodels.catalog.registry import create_model
from segmodels.data.augment import normalize
from segmodels.data.streets import CLASSES, render
from segmodels.inference.predictor import channels_last


class Watched:
    """A cascade whose regions are computed in a given way, and that remembers what its classifiers gave.

    Args:
        model: Layer Cascade, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.chooses = model, model._listed
        # Of each stage: scores `[K, C]` of the pixels that reached it.
        self.scores: list[Tensor] = []
        for head in model.heads:
            head.register_forward_hook(self._keep)

    def run(self, images: Tensor, listed: bool | None = None) -> Tensor:
        """Logits; regions as lists, as masks, or (None) as the network chooses."""
        self.scores = []
        self.model._listed = self.chooses if listed is None else lambda mask: listed
        logits: Tensor = self.model(images)["out"]
        return logits

    def stays(self, stage: int, threshold: float) -> float:
        """Share of the pixels of a stage (0, 1, 2) that are not sure enough to leave after it."""
        certain = self.scores[stage].float().softmax(1).amax(1)
        return (certain <= threshold).float().mean().item()

    def _keep(self, head: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        region = inputs[1]
        if output.ndim == 4:
            rows = output.permute(0, 2, 3, 1)
            output = rows[region.mask[:, 0]] if region is not None else rows.flatten(0, 2)
        self.scores.append(output)


@torch.no_grad()
def calibrate(watched: Watched, images: Tensor, at: float, stay: tuple[float, float]) -> None:
    """Gives the batch norms the image's statistics and scales the classifiers of the first two stages."""
    model = watched.model
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
        norm.train()
    # In one pass without a threshold every norm sees every pixel.
    model.threshold = 1.0
    watched.run(images, listed=False)
    model.eval()
    model.threshold = at
    for stage, share in enumerate(stay):
        watched.run(images, listed=False)
        convolution, scores = model.heads[stage][-1].conv, watched.scores[stage].float()
        low, high = 0.0, 1e4
        for _ in range(60):
            middle = (low + high) / 2
            certain = (middle * scores).softmax(1).amax(1)
            low, high = (middle, high) if (certain <= at).float().mean() > share else (low, middle)
        convolution.weight.mul_(high)
        convolution.bias.mul_(high)


def main() -> None:
    """Prints a line for each threshold."""
    args = _arguments()
    common.header("torch")
    torch.manual_seed(0)
    options = {} if args.width == 1.0 else {"width": args.width}
    model = channels_last(create_model("layer_cascade", len(CLASSES), **options).to(args.device)).eval()
    frame = render(0, "train", 0, height=args.size[0], width=args.size[1])
    pixels = torch.tensor(frame.image).permute(2, 0, 1)
    images = normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))[None]
    images = images.to(args.device, memory_format=torch.channels_last)
    watched = Watched(model)
    calibrate(watched, images, args.at, (args.stay[0], args.stay[1]))
    where = f"{torch.get_num_threads()} threads, {args.device}"
    print(f"{args.size[0]}x{args.size[1]}, calibrated at {args.at:g}, {where}, float32\n")
    print("| threshold | reach stage 2 | reach stage 3 | GFLOPs, dense | listed | ms, dense | listed | own choice |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with torch.inference_mode():
        for threshold in args.thresholds:
            watched.model.threshold = threshold
            print(row(watched, images, threshold, args.repeats, args.device), flush=True)


def row(watched: Watched, images: Tensor, threshold: float, repeats: int, device: str) -> str:
    """Shares, operations and milliseconds at a threshold."""
    dense = watched.run(images, listed=False)
    second = watched.stays(0, threshold)
    third = second * watched.stays(1, threshold) if second else 0.0
    torch.testing.assert_close(watched.run(images, listed=True), dense, rtol=1e-2, atol=1e-2 * dense.abs().max().item())
    operations = []
    for listed in (False, True):
        with FlopCounterMode(display=False) as counter:
            watched.run(images, listed)
        operations.append(counter.get_total_flops() / 1e9)

    def timed(listed: bool | None) -> None:
        watched.run(images, listed)
        common.synchronize(device)

    ways: dict[str, bool | None] = {"dense": False, "listed": True, "own": None}
    works: dict[str, Callable[[], object]] = {name: partial(timed, listed) for name, listed in ways.items()}
    for work in works.values():
        work()
    times = common.medians(common.interleaved(works, repeats))
    cells = [f"{threshold:g}", f"{100 * second:.0f} %", f"{100 * third:.0f} %"]
    cells += [f"{count:.1f}" for count in operations] + [f"{1000 * seconds:.0f}" for seconds in times.values()]
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[1.0, 0.99, 0.985, 0.95, 0.9, 0.8])
    parser.add_argument("--at", type=float, default=0.95, help="the threshold of the calibration")
    parser.add_argument("--stay", type=float, nargs=2, default=[0.5, 0.3], metavar="SHARE")
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--width", type=float, default=1.0, help="factor on the network's width")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
