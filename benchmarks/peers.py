"""Our architectures beside torchvision's and segmentation_models_pytorch's: `python benchmarks/peers.py`.

    python benchmarks/peers.py [--device cpu|cuda] [--only NAME …] [--repeats N] [--compile] [--size 360 480]

A training step (forward, loss, backward, SGD with momentum; batch 2) and an inference (batch 1), both sides in turns in
one process, with the same options: float32 as torch runs it by default. Each pair has the same encoder and as like a
configuration as both sides allow; parameters and GFLOPs of an inference tell how alike they are. Peers that refuse
sides that are no multiple of their stride get the image padded and the logits cropped, as ours do inside.

Memory is the most that the process of a network alone takes beyond what it had imported: weights, gradients, momentum
and activations; allocated by torch on a GPU, resident on a CPU.

The second table has our fast options over the same peer: channels-last, bf16 where it is fast, batch norm fused into
convolutions, and compiled where asked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import _common as common
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segmodels.catalog.registry import count_parameters, create_model
from segmodels.inference.predictor import channels_last
from segmodels.layers.fuse import fuse_batch_norm

CLASSES = 11
TRAINING, INFERENCE = "training", "inference"
BATCH = {TRAINING: 2, INFERENCE: 1}


@dataclass(frozen=True)
class Pair:
    """An architecture here and there.

    Attributes:
        architecture: Name in the registry.
        options: Keywords that make ours like the peer.
        library: Of the peer.
        builder: Of the peer, in its library.
        keywords: Of the peer.
    """

    architecture: str
    options: Mapping[str, Any]
    library: str
    builder: str
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def ours(self) -> nn.Module:
        return create_model(self.architecture, CLASSES, **self.options)

    def theirs(self) -> nn.Module:
        if self.library == "torchvision":
            from torchvision.models import segmentation

            build = getattr(segmentation, self.builder)
            return build(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=False)
        import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

        return Padded(getattr(smp, self.builder)(encoder_weights=None, classes=CLASSES, **self.keywords))


class Padded(nn.Module):
    """A peer that takes images of any size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.stride = model.encoder.output_stride if model.requires_divisible_input_shape else 1

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            images = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        return self.model(images)[..., :height, :width]


def _torchvision_deeplab(backbone: str) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "multi_grid": None,
        "output_stride": 8,
        "test_output_stride": None,
        "rates": (12, 24, 36),
    }


_PLUS = {"rates": (12, 24, 36), "norm_between": False, "encoder_conv": True, "decoder_convs": 1}
_SMP = "segmentation_models_pytorch"
PAIRS = {
    "fcn resnet50": Pair("fcn", {}, "torchvision", "fcn_resnet50"),
    "deeplabv3 resnet50": Pair("deeplabv3", _torchvision_deeplab("resnet50"), "torchvision", "deeplabv3_resnet50"),
    "deeplabv3 resnet101": Pair("deeplabv3", _torchvision_deeplab("resnet101"), "torchvision", "deeplabv3_resnet101"),
    "unet resnet34": Pair(
        "unet",
        {"backbone": "resnet34", "width": 16, "up": "nearest", "batch_norm": True, "dropout": 0.0},
        _SMP,
        "Unet",
        {"encoder_name": "resnet34"},
    ),
    "linknet resnet18": Pair("linknet", {}, _SMP, "Linknet", {"encoder_name": "resnet18"}),
    "fpn resnet50": Pair("fpn", {"backbone": "resnet50", "smooth": False}, _SMP, "FPN", {"encoder_name": "resnet50"}),
    # By default the peer uses the encoder's first stages alone.
    "pspnet resnet50": Pair(
        "pspnet",
        {"backbone": "resnet50", "kernel_size": 1, "deep_stem": False, "aux": False},
        _SMP,
        "PSPNet",
        {"encoder_name": "resnet50", "encoder_depth": 5, "output_stride": 8},
    ),
    "deeplabv3 resnet50, smp": Pair(
        "deeplabv3", _torchvision_deeplab("resnet50"), _SMP, "DeepLabV3", {"encoder_name": "resnet50"}
    ),
    "deeplabv3plus resnet50": Pair(
        "deeplabv3plus", {"backbone": "resnet50", **_PLUS}, _SMP, "DeepLabV3Plus", {"encoder_name": "resnet50"}
    ),
    "segformer b0": Pair("segformer_b0", {}, _SMP, "Segformer", {"encoder_name": "mit_b0"}),
    "segformer b2": Pair(
        "segformer_b2", {}, _SMP, "Segformer", {"encoder_name": "mit_b2", "decoder_segmentation_channels": 768}
    ),
}


@dataclass(frozen=True)
class Options:
    """How a network is run."""

    channels_last: bool = False
    bf16: bool = False
    fused: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        named = {"channels-last": self.channels_last, "bf16": self.bf16, "fused": self.fused, "compiled": self.compiled}
        return " + ".join(name for name, on in named.items() if on) or "plain"


@dataclass(frozen=True)
class Case:
    """What is run: the mode, the device and the image's size."""

    mode: str
    device: str
    size: tuple[int, int]

    def work(self, model: nn.Module, options: Options = Options()) -> Callable[[], None]:
        """A training step or an inference of a network, until the device is done with it."""
        torch.manual_seed(0)
        order = torch.channels_last if options.channels_last else torch.contiguous_format
        images = torch.randn(BATCH[self.mode], 3, *self.size).to(self.device, memory_format=order)
        model = model.to(self.device)
        if options.fused:
            model = fuse_batch_norm(model, images)
        if options.channels_last:
            model = channels_last(model)
        model.train(self.mode == TRAINING)
        run = self._training(model, images, options) if self.mode == TRAINING else _inference(model, images, options)
        cast = torch.autocast(self.device, torch.bfloat16, enabled=options.bf16)

        def synchronized() -> None:
            run(cast)
            common.synchronize(self.device)

        return synchronized

    def _training(self, model: Any, images: Tensor, options: Options) -> Callable[[torch.autocast], None]:
        target = torch.randint(0, CLASSES, (len(images), *self.size), device=self.device)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
        forward = torch.compile(model) if options.compiled else model

        def run(cast: torch.autocast) -> None:
            optimizer.zero_grad()
            with cast:
                outputs = forward(images)
            if hasattr(model, "loss"):
                loss = model.loss(outputs, {"labels": target})
            else:
                loss = F.cross_entropy(_logits(outputs).float(), target, ignore_index=255)
            loss.backward()
            optimizer.step()

        return run


def _inference(model: nn.Module, images: Tensor, options: Options) -> Callable[[torch.autocast], None]:
    forward = torch.compile(model) if options.compiled else model

    def run(cast: torch.autocast) -> None:
        with torch.inference_mode(), cast:
            _logits(forward(images))

    return run


def _logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs["out"] if isinstance(outputs, Mapping) else outputs
    return logits


def memory(name: str, ours: bool, case: Case) -> float:
    """GiB of a network's building and two steps; called in a process of its own."""
    # For what they import; a peer that computes with tensors as it is built has imported everything by then.
    with suppress(RuntimeError), torch.device("meta"):
        PAIRS[name].ours(), PAIRS[name].theirs()

    def work() -> None:
        step = case.work(PAIRS[name].ours() if ours else PAIRS[name].theirs())
        step()
        step()

    return common.peak_gib(work, case.device)


def fast_options(case: Case, compiled: bool) -> list[Options]:
    """Ours, from plain to everything."""
    bf16 = [True] if common.bf16_is_fast(case.device) else []
    listed = [Options(channels_last=True), *(Options(True, b) for b in bf16)]
    if case.mode == INFERENCE:
        listed += [Options(True, fused=True), *(Options(True, b, True) for b in bf16)]
    if compiled:
        listed.append(Options(True, bool(bf16), case.mode == INFERENCE, True))
    return listed


def measure(name: str, case: Case, repeats: int, compiled: bool) -> dict[str, float]:
    """Median seconds of `theirs`, of `plain` and of each fast option."""
    pair = PAIRS[name]
    works = {"theirs": case.work(pair.theirs()), "plain": case.work(pair.ours())}
    for options in fast_options(case, compiled):
        works[str(options)] = case.work(pair.ours(), options)
    for key in list(works):
        try:
            for _ in range(2 if case.device == "cpu" else 4):
                works[key]()
        except Exception as error:
            if "compiled" not in key:
                raise
            print(f"{name}, {case.mode}, {key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            del works[key]
    return common.medians(common.interleaved(works, repeats))


def size_of(model: nn.Module, size: tuple[int, int]) -> str:
    """Parameters in millions and GFLOPs of an inference."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval().to("meta")(torch.empty(1, 3, *size, device="meta"))
    return f"{count_parameters(model) / 1e6:.1f} M, {counter.get_total_flops() / 1e9:.0f} G"


def main() -> None:
    """Prints a line for each pair as it is measured, and the fast options at the end."""
    args = _arguments()
    torch.backends.cudnn.benchmark = True
    common.header("torch", "torchvision", "segmentation-models-pytorch", "timm")
    size = (args.size[0], args.size[1])
    batches = ", ".join(f"{mode} with batch {batch}" for mode, batch in BATCH.items())
    print(f"{size[0]}x{size[1]}, {batches}, on {args.device}, {torch.get_num_threads()} threads, float32\n")
    print("| architecture | peer | ours | theirs | | ms, ours | theirs | ratio | GiB, ours | theirs | ratio |")
    print("|---|---|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    faster = []
    for name in args.only or PAIRS:
        pair = PAIRS[name]
        sizes = f"{size_of(pair.ours(), size)} | {size_of(pair.theirs(), size)}"
        for mode in (TRAINING, INFERENCE):
            case = Case(mode, args.device, size)
            times = measure(name, case, args.repeats, args.compile)
            ours, theirs = (common.apart(memory, name, side, case) for side in (True, False))
            label = f"| {name} | {pair.library}.{pair.builder} | {sizes} | {mode}"
            taken = f"{1000 * times['plain']:.0f} | {1000 * times['theirs']:.0f}"
            print(f"{label} | {taken} | {times['plain'] / times['theirs']:.2f}", end="")
            print(f" | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |", flush=True)
            faster.append((name, mode, times))
    _print_faster(faster)


def _print_faster(measured: list[tuple[str, str, dict[str, float]]]) -> None:
    columns = list(dict.fromkeys(key for _, _, times in measured for key in times if key != "theirs"))
    print("\nOurs with fast options, time over the peer's in float32:\n")
    print(f"| architecture | | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for name, mode, times in measured:
        cells = [f"{times[column] / times['theirs']:.2f}" if column in times else "" for column in columns]
        print(f"| {name} | {mode} | {' | '.join(cells)} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=PAIRS, metavar="NAME", help=f"of: {', '.join(PAIRS)}")
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, help="turns; by default 5 on a CPU and 20 on a GPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="by default on a GPU alone")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.compile = gpu if args.compile is None else args.compile
    args.repeats = args.repeats or (20 if gpu else 5)
    return args


if __name__ == "__main__":
    main()
