"""Which memory format and precision a network trains fastest with: tried on a batch of its own, not assumed.

Channels-last and bf16 are twice as fast on one processor and slower than plain float32 on the next. A trial costs a few
steps, so it is made where many follow; what it found is kept, so that the same training on the same machine has the
same bits.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.files import write_text
from segmodels.inference.predictor import Precision, channels_last, fast_precision
from segmodels.runtime import turn
from segmodels.settings.schema import TrainSettings

# Steps of a trial: the first chooses kernels, the best of the others counts.
STEPS = 3
# A trial may take this share of the training's steps.
SHARE = 0.04
# What is not faster by this much than the usual choice is taken for as fast.
MARGIN = 0.07
_AUTOCAST = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Choice:
    """How a network computes.

    Attributes:
        channels_last: Memory format of weights and images.
        precision: Of convolutions.
        compile: Whether torch compiles it.
    """

    channels_last: bool
    precision: Precision
    compile: bool

    def __str__(self) -> str:
        order = "channels-last" if self.channels_last else "channels-first"
        return f"{order}, {self.precision if self.precision != '32' else 'float32'}{', compiled' * self.compile}"


def candidates(settings: TrainSettings, device: torch.device) -> list[Choice]:
    """Return what the settings leave open on a device; the usual choice first."""
    fast = fast_precision(device)
    precisions: Sequence[Precision] = [fast, "32"] if settings.precision == "auto" else [settings.precision]
    # Without AVX-512 oneDNN's kernels for channels-last are slower than the others.
    usual = device.type == "cuda" or "AVX512" in torch.backends.cpu.get_cpu_capability()
    orders = [usual, not usual] if settings.channels_last == "auto" else [settings.channels_last]
    compiled = [False, True] if settings.compile == "auto" else [settings.compile]
    return [Choice(*one) for one in itertools.product(orders, dict.fromkeys(precisions), compiled)]


def choose(
    network: nn.Module,
    batch: Callable[[], dict[str, Tensor]],
    settings: TrainSettings,
    device: torch.device,
    *,
    steps: int,
    name: str,
    kept: Path | None = None,
) -> Choice:
    """Return how a network trains fastest.

    Args:
        network: As it begins; it is not changed.
        batch: Gives what a training step takes: `image`, float32 `[N, C, H, W]`, and the targets.
        settings: What they fix is not tried.
        device: Where it trains.
        steps: How many the training has left; with few of them the usual choice is taken.
        name: What the line calls it that tells the choice.
        kept: A JSON file with the choices of earlier trials on this machine.
    """
    options = candidates(settings, device)
    if len(options) == 1 or len(options) * STEPS > SHARE * steps:
        return options[0]
    given = batch()
    key = _key(network, given["image"], settings, device)
    known = _read(kept)
    if key in known:
        return known[key]
    times: dict[Choice, float] = {}
    for option in options:
        least = min(times.values(), default=float("inf"))
        times[option] = _step_seconds(network, given, option, device, least)
    best = min(times, key=lambda option: times[option])
    if times[best] > (1 - MARGIN) * times[options[0]]:
        best = options[0]
    told = "; ".join(f"{option} {1000 * seconds:.0f} ms" for option, seconds in times.items())
    print(f"{name}: {best} is taken ({told} a step)", flush=True)
    if kept is not None:
        _write(kept, {**known, key: best})
    return best


def _step_seconds(
    network: nn.Module, batch: dict[str, Tensor], option: Choice, device: torch.device, least: float
) -> float:
    """Return seconds of the fastest step; of one that is far from the least so far only the first that counts."""
    model = copy.deepcopy(network).to(device).train()
    batch = {name: values.to(device) for name, values in batch.items()}
    images = batch["image"]
    if option.channels_last:
        channels_last(model)
        images = images.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(model, dynamic=False) if option.compile else model
    seconds = []
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), contextlib.ExitStack() as stack:
        torch.manual_seed(0)
        half = option.precision != "32"
        stack.enter_context(torch.autocast(device.type, _AUTOCAST.get(option.precision), enabled=half))
        for step in range(STEPS):
            with turn(device.type):
                _wait(device)
                began = time.perf_counter()
                loss: Tensor = model.loss(forward(images), batch)  # type: ignore[operator]
                loss.backward()
                model.zero_grad()
                _wait(device)
                if step:
                    seconds.append(time.perf_counter() - began)
            if seconds and seconds[-1] > 1.5 * least:
                break
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(network: nn.Module, images: Tensor, settings: TrainSettings, device: torch.device) -> str:
    """Equal where a trial would find the same: network, batch, what is open, and machine."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    parts = (
        [(name, tuple(value.shape)) for name, value in network.state_dict().items()],
        tuple(images.shape),
        (settings.channels_last, settings.precision, settings.compile),
        (machine, torch.get_num_threads(), torch.__version__, torch.backends.cpu.get_cpu_capability()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _read(kept: Path | None) -> dict[str, Choice]:
    try:
        choices: dict[str, Any] = json.loads(kept.read_text()) if kept is not None else {}
        return {key: Choice(**choice) for key, choice in choices.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(kept: Path, content: dict[str, Choice]) -> None:
    text = json.dumps({key: dataclasses.asdict(choice) for key, choice in content.items()}, indent=1)
    write_text(kept, text, shared=True)
