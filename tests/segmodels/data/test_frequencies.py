"""Classes are counted once: by `validate`, or when a training starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.lineage import folder_md5
from components.params import Params
from components.train.step import counted
from components.validate import step as validate
from segmodels.data import frequencies
from segmodels.data.folder import DatasetInfo, read_label, samples
from segmodels.data.frequencies import ClassCounts
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training.fit import fit

PARAMS = Params.parse({"models": {"unet": {}}, "validate": {"max_void_fraction": 1.0}})


class StoppedError(Exception):
    """What ends a training in its middle."""


def test_pixels_are_those_of_the_labels_and_void_counts_nowhere(dataset: Path) -> None:
    counts = ClassCounts.read(dataset, "train", 3)
    labels = [read_label(sample.label) for sample in samples(dataset, "train")]
    assert counts.pixels == tuple(int(sum((label == i).sum() for label in labels)) for i in range(3))
    assert counts.in_images == tuple(
        int(sum((label != 255).sum() for label in labels if (label == i).any())) for i in range(3)
    )


def test_what_validate_counted_is_what_a_training_counts_and_of_other_data_says_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    validate.run(PARAMS, data=dataset, out=tmp_path / "validation")
    assert counted(tmp_path / "validation", folder_md5(dataset)) == ClassCounts.read(dataset, "train", 3)
    assert counted(tmp_path / "validation", f"{'0' * 32}.dir") is None
    assert counted(tmp_path / "nowhere", folder_md5(dataset)) is None


def test_a_resumed_training_does_not_count_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def noting(path: Path) -> np.ndarray:
        reads.append(path)
        return read_label(path)

    monkeypatch.setattr(frequencies, "read_label", noting)
    settings = TrainSettings(epochs=1, batch_size=2, precision="32", augment=AugmentSettings(crop=(32, 32)))
    state, out, kept = tmp_path / "state", tmp_path / "m", {}

    def stop(row: object) -> None:
        kept.update(json.loads((state / "classes.json").read_text()))
        raise StoppedError

    with pytest.raises(StoppedError):
        fit(
            dataset,
            tmp_path / "m",
            architecture="unet",
            options={"width": 2},
            settings=settings,
            state=state,
            on_epoch=stop,
        )
    assert len(reads) == DatasetInfo.read(dataset).splits["train"]
    assert tuple(kept["pixels"]) == ClassCounts.read(dataset, "train", 3).pixels
    reads.clear()
    fit(dataset, out, architecture="unet", options={"width": 2}, settings=settings, state=state)
    assert reads == []
