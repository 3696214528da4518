"""What `efficient=True` saves: FC-DenseNet-103 forward and backward: `python benchmarks/fcdensenet_memory.py`.

The paper's batch of three crops of 224x224. Memory is the most that a process with one network takes beyond what it
had imported (weights, gradients, activations): allocated by torch on a GPU, resident on a CPU. Seconds are those of
both in turns in one process. Under half of the memory is wanted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import _common as common
import torch

from segmodels.catalog.registry import create_model

CLASSES = 11


def step(name: str, efficient: bool, batch: int, size: int, device: str) -> Callable[[], None]:
    """Builds the network; what is returned runs it forward and backward once."""
    torch.manual_seed(0)
    model = create_model(name, CLASSES, efficient=efficient).to(device).train()
    images = torch.randn(batch, 3, size, size, device=device)
    target = torch.randint(0, CLASSES, (batch, size, size), device=device)

    def run() -> None:
        model.zero_grad()
        model.loss(model(images), {"labels": target}).backward()  # type: ignore[operator]
        common.synchronize(device)

    return run


def memory(name: str, efficient: bool, batch: int, size: int, device: str) -> float:
    """GiB of building and two runs; called in a process of its own."""

    def work() -> None:
        run = step(name, efficient, batch, size, device)
        run()
        run()

    return common.peak_gib(work, device)


def main() -> None:
    """Prints GiB and seconds of both, and efficient over plain."""
    args = _arguments()
    common.header("torch")
    what = (args.batch, args.size, args.device)
    print(
        f"{args.model}, batch {args.batch}, {args.size}x{args.size}, {args.device}, {torch.get_num_threads()} threads\n"
    )
    gib = [common.apart(memory, args.model, efficient, *what) for efficient in (False, True)]
    works = {name: step(args.model, name == "efficient", *what) for name in ("plain", "efficient")}
    for work in works.values():
        work()
    seconds = list(common.medians(common.interleaved(works, args.repeats)).values())
    print("| | plain | efficient | ratio |\n|---|---:|---:|---:|")
    print(f"| peak memory, GiB | {gib[0]:.2f} | {gib[1]:.2f} | {gib[1] / gib[0]:.2f} |")
    print(f"| forward and backward, s | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.2f} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fcdensenet103", choices=[f"fcdensenet{n}" for n in (56, 67, 103)])
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
