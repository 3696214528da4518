"""Model folders: complete, without pickles, and clear when they are damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig, load_model, save_model
from segmodels.catalog.registry import create_model
from segmodels.catalog.weights import CheckpointError, load_weights
from segmodels.data.folder import ClassInfo
from segmodels.inference.predictor import Predictor

CONFIG = ModelConfig("unet", (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6))), {"width": 2}, image_size=(48, 64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", CONFIG, CONFIG.build().state_dict(), [{"epoch": 1, "val_miou": 0.5}])
    return tmp_path / "m"


def test_a_folder_holds_three_files_and_no_pickle(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "model.json", "model.safetensors"]
    assert (folder / "history.csv").read_text() == "epoch,val_miou\n1,0.5\n"
    assert load_model(folder)[1] == CONFIG


def test_weights_of_another_number_of_classes_fill_all_but_the_classifier(folder: Path) -> None:
    model = create_model("unet", 5, width=2)
    missing = load_weights(model, folder)
    assert missing == {"classifier.weight", "classifier.bias"}


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    for name, save in (
        ("torch.pt", lambda p: torch.save({"state_dict": Hostile()}, p)),
        ("plain.pth", lambda p: p.write_bytes(pickle.dumps(Hostile()))),
    ):
        save(tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            load_weights(create_model("unet", 2, width=2), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_tensor_only_checkpoint_is_taken(tmp_path: Path) -> None:
    source = create_model("unet", 2, width=2)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "weights.pth")
    target = create_model("unet", 2, width=2, weights=tmp_path / "weights.pth")
    ours, theirs = target.state_dict(), source.state_dict()
    assert torch.equal(ours["classifier.weight"], theirs["classifier.weight"])


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing/model\.json: no such file"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="none of its"):
        load_weights(create_model("enet", 2), folder)
    raw = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(raw | {"options": {"width": 3}}))
    with pytest.raises(CheckpointError, match="does not fit unet"):
        load_model(folder)
    (folder / "model.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder)


def test_a_folder_of_an_earlier_release_predicts_what_it_did() -> None:
    """Written by release 0.1.0 with random weights; the image is computed below."""
    folder = Path(__file__).with_name("release-0.1.0")
    rows, columns = np.arange(60) * 2, np.arange(80)
    image = (np.add.outer(rows, columns)[..., None] % 256 + np.array([0, 40, 90])).astype(np.uint8)
    expected = np.asarray(Image.open(folder / "expected.png"))
    assert np.unique(expected).tolist() == [0, 1, 2]
    # Another processor's last digits may turn single pixels.
    assert (Predictor(folder, "cpu").predict(image) == expected).mean() > 0.999


def test_whoever_may_read_other_files_may_read_the_weights(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["model.json"]
