"""What a network trains fastest with is tried on a batch, kept, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmodels.models.base import SegmentationModel
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training import trial
from segmodels.training.fit import fit
from segmodels.training.trial import Choice, candidates, choose

CPU = torch.device("cpu")
MANY = 10_000
ONLY_ORDER = TrainSettings(precision="32")


class Slow(SegmentationModel):
    """A network that takes far longer in one of the memory formats."""

    def __init__(self, slow: torch.memory_format) -> None:
        super().__init__()
        self.slow, self.steps = slow, 0
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        SEEN.append(images.is_contiguous(memory_format=torch.channels_last))
        for _ in range(200 if images.is_contiguous(memory_format=self.slow) else 1):
            out = self.conv(images)
        return {"out": out}


SEEN: list[bool] = []


def batch() -> dict[str, Tensor]:
    return {"image": torch.zeros(2, 3, 64, 64), "labels": torch.zeros(2, 64, 64, dtype=torch.int64)}


@pytest.mark.parametrize("slow", [torch.channels_last, torch.contiguous_format])
def test_the_faster_memory_format_is_taken_and_the_network_left_as_it_was(
    slow: torch.memory_format, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Slow(slow)
    before = network.conv.weight.clone()
    state = torch.random.get_rng_state()
    choice = choose(network, batch, ONLY_ORDER, CPU, steps=MANY, name="slow")
    assert choice.channels_last is (slow is torch.contiguous_format)
    assert torch.equal(network.conv.weight, before) and network.conv.weight.grad is None
    told = capsys.readouterr().out
    assert told.startswith("slow: channels-") and "channels-first, float32" in told and told.count(" ms") == 2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_was_found_is_kept_and_nothing_is_tried_again(tmp_path: Path) -> None:
    network, kept = Slow(torch.channels_last), tmp_path / "cache/trials.json"
    first = choose(network, batch, ONLY_ORDER, CPU, steps=MANY, name="slow", kept=kept)
    SEEN.clear()
    assert choose(network, batch, ONLY_ORDER, CPU, steps=MANY, name="slow", kept=kept) == first
    assert SEEN == []
    kept.write_text("damaged")
    choose(network, batch, ONLY_ORDER, CPU, steps=MANY, name="slow", kept=kept)
    assert len(SEEN) > 2 and len(json.loads(kept.read_text())) == 1


def test_a_short_training_and_settings_that_leave_nothing_open_are_not_tried() -> None:
    SEEN.clear()
    network = Slow(torch.channels_last)
    usual = candidates(ONLY_ORDER, CPU)[0]
    assert choose(network, batch, ONLY_ORDER, CPU, steps=20, name="slow") == usual
    fixed = TrainSettings(precision="bf16", channels_last=False)
    assert choose(network, batch, fixed, CPU, steps=MANY, name="slow") == Choice(False, "bf16", False)
    assert SEEN == []


def test_a_resumed_training_goes_on_as_it_began(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SHARE", 100.0)
    settings = TrainSettings(epochs=2, batch_size=2, precision="32", augment=AugmentSettings(crop=(32, 32)))

    def always(choice: Choice) -> None:
        monkeypatch.setattr(trial, "_step_seconds", lambda network, *rest: 1.0 if rest[1] == choice else 2.0)

    class StoppedError(Exception):
        pass

    def stop(row: object) -> None:
        raise StoppedError

    job: dict[str, Any] = {
        "architecture": "unet",
        "options": {"width": 2},
        "settings": settings,
        "state": tmp_path / "state",
    }
    other = candidates(settings, CPU)[1]
    always(other)
    with pytest.raises(StoppedError):
        fit(dataset, tmp_path / "m", **job, trials=tmp_path / "a.json", on_epoch=stop)
    always(candidates(settings, CPU)[0])
    fit(dataset, tmp_path / "m", **job, trials=tmp_path / "b.json")
    assert json.loads((tmp_path / "m/speed.json").read_text())["channels_last"] is other.channels_last
    assert not (tmp_path / "b.json").exists()
