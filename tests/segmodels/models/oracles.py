"""What results are compared with, and how far apart they are.

An oracle is a function that computes an architecture here and as its source says, with the same random weights in
float64, and returns both. `python -m tests.segmodels.models.oracles` measures all of them, and writes
`segmodels/catalog/fidelity.csv` and the table of `docs/fidelity.md`.
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.catalog.cards import compared
from segmodels.catalog.registry import list_models, model_info

# The files whose functions are oracles.
MODULES = ("caffe_oracles", "port_oracles", "peer_oracles")


@dataclass(frozen=True)
class Oracle:
    """A comparison.

    Attributes:
        architecture: Name in the registry.
        source: `owner/repository: file, lines` of the authors or of an independent implementation.
        compute: Gives what is computed here and what the source computes.
        tolerance: Largest difference, as a share of the largest value.
    """

    architecture: str
    source: str
    compute: Callable[[], tuple[Tensor, Tensor]]
    tolerance: float

    @torch.no_grad()
    def difference(self) -> float:
        """Return the largest difference as a share of the largest value."""
        ours, theirs = self.compute()
        assert ours.dtype == theirs.dtype == torch.float64
        assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
        largest = theirs.abs().max()
        assert largest > 1e-3, "results without size agree with anything"
        # A map that is the same everywhere would hide what differs between places.
        assert theirs.std() > 1e-3 * largest
        return float((ours - theirs).abs().max() / largest)


ORACLES: list[Oracle] = []


def oracle(architecture: str, source: str, *, tolerance: float = 1e-9, **given: Any) -> Callable[[Any], Any]:
    """Register a function as the oracle of an architecture; may be stacked.

    Args:
        architecture: Name in the registry; the function's first argument.
        source: See `Oracle`.
        tolerance: See `Oracle`.
        **given: Further arguments of the function.
    """

    def add(function: Any) -> Any:
        compute = lambda: function(architecture, **given)  # noqa: E731 - it closes over one oracle's arguments
        ORACLES.append(Oracle(architecture, source, compute, tolerance))
        return function

    return add


def all_oracles() -> list[Oracle]:
    """Return the oracles of all files."""
    for name in MODULES:
        importlib.import_module(f"tests.segmodels.models.{name}")
    return ORACLES


def randomised(model: Any, seed: int = 0) -> Any:
    """Give a model weights and statistics of no special value, in float64 and evaluation mode.

    What begins as zero, one or the identity would hide a layer that is missing.
    """
    torch.manual_seed(seed)
    model = model.double().eval()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(weight, Tensor) and weight.ndim > 1:
            fan_in = weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else weight[:, 0].numel()
            with torch.no_grad():
                weight.normal_(std=(2 / fan_in) ** 0.5)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.05, 0.5)
        if getattr(module, "running_var", None) is not None:
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.05, 1.5)  # type: ignore[arg-type]
    return model


def image(height: int, width: int, batch: int = 1, channels: int = 3) -> Tensor:
    """Return random images in float64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator)


def renamed(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Replace each pattern's matches in the names, one pattern after the other."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def table() -> str:
    """Return the table of `docs/fidelity.md`: what is compared, and what nothing independent confirms."""
    lines = [
        "| architecture | compared with | largest difference | what nothing independent confirms |",
        "| --- | --- | ---: | --- |",
    ]
    found = compared()
    for name in list_models():
        unconfirmed = " ".join(model_info(name).unconfirmed)
        for number, (source, difference) in enumerate(found.get(name, [("nothing", "-")])):
            lines.append(f"| {name} | {source} | {difference} | {'' if number else unconfirmed} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write what was found."""
    root = Path(__file__).resolve().parents[3]
    with (root / "segmodels/catalog/fidelity.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("architecture", "source", "difference"))
        for entry in sorted(all_oracles(), key=lambda o: o.architecture):
            writer.writerow((entry.architecture, entry.source, f"{entry.difference():.0e}"))
            print(f"{entry.architecture}: {entry.source}", flush=True)
    page = root / "docs/fidelity.md"
    page.write_text(page.read_text().partition("| architecture |")[0] + table() + "\n")


if __name__ == "__main__":
    # Not this copy of the module: the functions register with the one that they import.
    importlib.import_module("tests.segmodels.models.oracles").main()
