"""What somebody with a folder of photos meets first: mixed sizes, few images, one class, an id too many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segmodels
from segmodels import progress
from segmodels.artifacts.model_folder import read_config
from segmodels.cli import main
from segmodels.data.folder import ClassInfo, DatasetError, read_label
from segmodels.data.inputs import ImageInputError
from segmodels.data.sizes import training_crop
from segmodels.data.writer import DatasetWriter
from segmodels.evaluation.evaluate import evaluate
from segmodels.files import folder_md5
from segmodels.inference.predictor import Predictor
from segmodels.settings.schema import TrainSettings
from tests.segmodels.conftest import CLASSES, scene

SMALL = ("-o", "width=2", "--epochs", "1", "-s", "precision=32", "-s", "accelerator=cpu", "-s", "batch_size=4")


def photos(root: Path, sizes: list[tuple[int, int]], classes: str = "ground\nbox\nsky\n", ids: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for index, size in enumerate(sizes):
        image, label = scene(rng, *size)
        Image.fromarray(image).save(root / "images" / f"{index:02}.jpg")
        Image.fromarray(np.where(label == 255, label, np.minimum(label, ids - 1))).save(root / f"labels/{index:02}.png")
    (root / "classes.txt").write_text(classes)
    return root


def train(data: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    try:
        status = main(["train", str(data), "--model", "unet", "--out", str(out), *SMALL, *more])
    except SystemExit as end:
        status = int(end.code or 0)
    return status, *capsys.readouterr()


def test_photos_of_three_sizes_simply_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photos(tmp_path / "own", [(60, 80), (80, 60), (100, 140)] * 6)
    status, text, error = train(data, tmp_path / "m", capsys)
    assert (status, error) == (0, "")
    assert "unet: images come in 3 sizes, 60x80 to 100x140; trains on crops of 64x64 (train.augment.crop)" in text
    config = read_config(tmp_path / "m")
    assert config.training["settings"]["augment"]["crop"] == [64, 64]
    quality = evaluate(str(tmp_path / "m"), str(tmp_path / "m.data"), str(tmp_path / "e"))
    assert sorted({p.name.partition("-")[0] for p in (tmp_path / "e/pictures").iterdir()}) == [
        "best",
        "median",
        "worst",
    ]
    sizes = {read_label(p).shape for p in (tmp_path / "m.data" / quality.split / "labels").iterdir()}
    assert len(quality.own) >= 2
    assert sizes <= {(60, 80), (80, 60), (100, 140)}


def test_the_crop_is_that_of_the_median_image_within_bounds() -> None:
    from collections import Counter

    assert training_crop(Counter({(480, 640): 9})) is None
    assert training_crop(Counter({(480, 640): 2, (640, 480): 1})) == (480, 640)
    assert training_crop(Counter({(3000, 4000): 5, (4000, 3000): 5})) == (1024, 1024)
    assert training_crop(Counter({(33, 40): 5, (40, 33): 5, (500, 500): 1})) == (32, 32)


def test_an_id_beyond_the_classes_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photos(tmp_path / "own", [(60, 80)] * 8, classes="ground\nbox\n")
    status, _, error = train(data, tmp_path / "m", capsys)
    assert status == 1
    assert "label 2 is outside 0..1 (ignore is 255)" in error
    assert "Traceback" not in error
    with pytest.raises(DatasetError, match=r"label 2 is outside 0\.\.1"):
        segmodels.fit(str(tmp_path / "m.data"), str(tmp_path / "m"), architecture="unet", options={"width": 2})
    assert not (tmp_path / "m").exists()


def test_one_image_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = train(photos(tmp_path / "own", [(60, 80)]), tmp_path / "m", capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "val: has no samples; training and choosing a model need both train and val, at least one labelled" in error


def test_a_term_that_the_loss_has_not_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = train(photos(tmp_path / "own", [(60, 80)] * 8), tmp_path / "m", capsys, "-s", "loss.dise=1")
    assert (status, error.count("\n")) == (1, 1)
    assert "train.loss: unknown term 'dise'; known are cross_entropy, focal, dice, lovasz, ohem" in error
    assert not (tmp_path / "m").exists()


def test_one_class_trains_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photos(tmp_path / "own", [(60, 80)] * 8, classes="ground\n", ids=1)
    status, _, error = train(data, tmp_path / "m", capsys)
    assert status == 1
    assert "if 0 is it and 255 is void, set data.values: {0: ground, 255: void}" in error
    assert "`segmodels dataset convert` has an option for each key of data" in error
    told = ["--value", "0=ground", "--value", "255=void"]
    with pytest.raises(SystemExit, match="0"):
        main(["dataset", "convert", str(data), "--out", str(tmp_path / "data"), *told])
    capsys.readouterr()
    status, text, error = train(tmp_path / "data", tmp_path / "m", capsys)
    assert (status, error) == (0, "")
    assert "best validation mIoU 100.0 %" in text
    assert evaluate(tmp_path / "m", tmp_path / "data", tmp_path / "e").matrix.shape == (1, 1)


def test_the_layout_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with DatasetWriter(tmp_path / "half", "x", CLASSES, source={}) as writer:
        writer.add("train", "1", *scene(np.random.default_rng(0), 60, 80))
    for data, message in (("empty", "no known layout"), ("half", "no such split"), ("absent", "no such folder")):
        code = "import sys; from segmodels.cli import main; s = main(sys.argv[1:]); print(s, 'torch' in sys.modules)"
        command = [sys.executable, "-c", code, "train", data, "--model", "unet", "--out", "m"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "1 False\n"
        assert message in done.stderr
    assert not (tmp_path / "m").exists()


LEFT_OVER = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
MORE = {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("left", [LEFT_OVER, LEFT_OVER | MORE, SLURM], ids=["two", "torchrun", "slurm"])
def test_what_another_launcher_left_in_the_environment_does_no_harm(
    left: dict[str, str], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainSettings(epochs=1, precision="32", accelerator="cpu")
    plain = segmodels.fit(dataset, tmp_path / "a", architecture="unet", settings=settings, options={"width": 2})
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    there = segmodels.fit(dataset, tmp_path / "b", architecture="unet", settings=settings, options={"width": 2})
    assert there.figures == plain.figures and there.figures.keys() == {"val_miou"}
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_ctrl_c_says_what_sigterm_says(dataset: Path, tmp_path: Path) -> None:
    said = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        out = tmp_path / number.name
        code = "import sys; from segmodels.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-u", "-c", code, "train", str(dataset), "--model", "unet", "--out", str(out)]
        command += [*SMALL, "--epochs", "10000"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            while "epoch 1/" not in (line := child.stdout.readline()):
                assert line, "training ended before its first epoch"
            child.send_signal(number)
            _, error = child.communicate(timeout=120)
        finally:
            child.kill()
        said[number] = error.partition("stopped in epoch")[0], error.partition("; the state")[2], child.returncode
        assert (tmp_path / f"{number.name}.state/state.pt").is_file()
    assert said[signal.SIGINT] == said[signal.SIGTERM]
    assert said[signal.SIGINT] == ("error: unet: ", " is saved, run the same command again to go on\n", 143)


def test_the_model_folder_tells_how_it_was_made(dataset: Path, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, lr=0.003, precision="32", accelerator="cpu")
    segmodels.fit(
        str(dataset), str(tmp_path / "m"), architecture="unet", settings=settings, options={"width": 2}, seed=5
    )
    made = read_config(tmp_path / "m").training
    assert (made["seed"], made["settings"]["lr"], made["data_md5"]) == (5, 0.003, folder_md5(dataset))


def test_a_model_folder_of_an_earlier_release_still_loads(tmp_path: Path) -> None:
    import json

    from segmodels.artifacts.model_folder import CONFIG_FILE, ModelConfig, save_model

    config = ModelConfig("unet", CLASSES, {"width": 2})
    save_model(str(tmp_path / "m"), config, config.build().state_dict())
    path = tmp_path / "m" / CONFIG_FILE
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "training"}
    path.write_text(json.dumps(old))
    assert segmodels.load_model(str(tmp_path / "m"))[1].training == {}


def test_the_public_names_are_there_and_listing_imports_no_network() -> None:
    code = "import sys, segmodels; print(len(segmodels.list_models()), sorted({m.split('.')[0] for m in sys.modules}"
    code += " & {'torch', 'numpy', 'PIL', 'timm', 'pydantic'}), "
    code += "[m for m in sys.modules if m.startswith('segmodels.models')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "42 [] []\n"
    for name in segmodels.__all__:
        assert getattr(segmodels, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = segmodels.nonsense


def test_the_list_is_what_the_files_register() -> None:
    import importlib
    import pkgutil

    from segmodels import models
    from segmodels.catalog import registry

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"segmodels.models.{module.name}")
    assert sorted(registry._MODELS) == registry.list_models()


def test_lines_come_while_a_single_step_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.02)
    told = progress.Progress("unet", epochs=3, steps=7)
    told.step(1, 4, 0.5)
    waited = time.monotonic() + 20
    text = ""
    while text.count("unet epoch 2/3  step 5/7  loss 0.500\n") < 2 and time.monotonic() < waited:
        text += capsys.readouterr().out
    told.validating(1, 0, 9)
    while "unet epoch 2/3  validation 1/9\n" not in text and time.monotonic() < waited:
        text += capsys.readouterr().out
    told.close()
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().out == ""
    assert text.count("unet epoch 2/3  step 5/7  loss 0.500\n") >= 2
    assert "unet epoch 2/3  validation 1/9\n" in text


# What a predictor takes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    from segmodels.artifacts.model_folder import ModelConfig, save_model

    torch.manual_seed(8)
    config = ModelConfig("unet", (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6))), {"width": 4})
    folder = tmp_path_factory.mktemp("predictor") / "m"
    save_model(folder, config, config.build().state_dict())
    return Predictor(str(folder), "cpu")


def test_a_predictor_takes_what_people_have(predictor: Predictor, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = predictor.predict(pixels)
    assert set(np.unique(expected)) == {0, 1}
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = np.dstack([pixels, np.full((40, 50), 7, np.uint8)])
    given: dict[str, Any] = {
        "str": str(tmp_path / "a.png"),
        "path": tmp_path / "a.png",
        "pillow": Image.fromarray(pixels),
        "rgba": alpha,
        "pillow rgba": Image.fromarray(alpha),
        "floats": pixels / 255,
        "float32": (pixels / 255).astype(np.float32),
        "tensor": torch.tensor(pixels),
        "not contiguous": np.asfortranarray(pixels),
    }
    for kind, image in given.items():
        assert np.array_equal(predictor.predict(image), expected), kind
    grey = pixels[..., 0]
    as_rgb = predictor.predict(np.dstack([grey] * 3))
    for image in (grey, grey[..., None], Image.fromarray(grey), grey / 255):
        assert np.array_equal(predictor.predict(image), as_rgb)


def test_a_batch_may_have_several_sizes(predictor: Predictor) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 50), (64, 33), (40, 50), (33, 33))]
    found = predictor.predict_with_confidence(images)
    assert len(found) == len(images)
    for image, one in zip(images, found, strict=True):
        assert one.confidence is not None
        assert one.value.shape == one.confidence.shape == image.shape[:2]
        assert (predictor.predict(image) == one.value).mean() > 0.999
    assert predictor.predict_batch([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.random.default_rng(0).random((40, 50, 3)) * 255,
            r"floats from .* give uint8 in 0\.\.255, or floats in 0\.\.1",
        ),
        (np.random.default_rng(0).standard_normal((40, 50, 3)), "not normalised"),
        (np.full((40, 50, 3), np.nan), "floats from nan to nan"),
        (np.zeros((3, 40, 50), np.uint8), r"\[3, 40, 50\], channels first; .*transpose"),
        (np.zeros((2, 40, 50, 3), np.uint8), "several images are a list"),
        (np.zeros((40, 50, 2), np.uint8), "an image is"),
        (np.full((40, 50), 4000, np.uint16), "uint16 from 4000 to 4000; give uint8"),
        (np.zeros((0, 0, 3), np.uint8), "is no image"),
        (None, "NoneType is no image; give a path"),
        ({"a": 1}, "dict is no image"),
        (Image.fromarray(np.zeros((40, 50), np.uint16)), "I;16, which have more than 8 bits a channel; save it"),
    ],
)
def test_what_is_no_image_is_told_in_a_sentence(image: object, message: str, predictor: Predictor) -> None:
    with pytest.raises(ImageInputError, match=message):
        predictor.predict(image)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"absent\.png: cannot be read as an image"):
        predictor.predict("absent.png")
