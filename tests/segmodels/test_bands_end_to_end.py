"""A network of other bands than RGB: trained, evaluated, exported, predicted from files, arrays, bytes and rasters."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from segmodels.artifacts.model_folder import read_config
from segmodels.data.bands import Bands, Pixels
from segmodels.data.folder import DatasetError
from segmodels.data.formats import Choices, convert
from segmodels.evaluation.evaluate import evaluate
from segmodels.export.export import export
from segmodels.inference.predictor import Predictor
from segmodels.serving.images import RefusedError, Upload, decode
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training.fit import fit
from tests.segmodels.data.test_bands import tiff

SETTINGS = TrainSettings(
    epochs=30, batch_size=4, lr=1e-2, precision="32", channels_last=False,
    augment=AugmentSettings(color=0.1, scale=(0.8, 1.25)),
)  # fmt: skip


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Reflectances of five bands with 16 bits; what is class 1 is bright in the fourth alone."""
    label = np.zeros((64, 80), np.uint8)
    top, left = rng.integers(0, 36, 2)
    label[top : top + 28, left : left + 36] = 1
    values = rng.normal(1000, 60, (64, 80, 5))
    values[..., 3] += 800.0 * label
    return values.clip(0, 65535).astype(np.uint16), label


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    (root / "labels").mkdir()
    for index in range(20):
        values, label = scene(rng)
        tiff(root / f"images/{index:02}.tif", values)
        Image.fromarray(label).save(root / f"labels/{index:02}.png")
    (root / "classes.txt").write_text("ground\nplant\n")
    return root


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "d"
    convert(source, out=out, choices=Choices(bands=(4, 1), scale=((500, 2500), (500, 1500))))
    return out


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "m"
    fit(data, out, architecture="unet", settings=SETTINGS, options={"width": 4, "batch_norm": True})
    return out


def test_the_model_folder_says_how_images_are_read(model: Path, data: Path) -> None:
    config = read_config(model)
    assert config.bands == Bands((4, 1), ((500.0, 2500.0), (500.0, 1500.0))) and config.in_channels == 2
    assert len(config.mean) == len(config.std) == 2


def test_it_learns_from_the_band_that_tells_the_classes(model: Path, data: Path, tmp_path: Path) -> None:
    quality = evaluate(model, data, tmp_path / "e", device="cpu")
    assert quality.metrics["miou"] > 0.8
    with Image.open(next((tmp_path / "e/pictures").glob("best-*"))) as picture:
        assert picture.mode == "RGB"


def test_files_arrays_and_bytes_get_one_answer(model: Path, source: Path) -> None:
    predictor, path = Predictor(model, "cpu"), source / "images/03.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            values = file.read().transpose(1, 2, 0)
    answer = predictor.predict(path)
    assert answer.any() and not answer.all()
    uploaded = decode(Upload("a.tif", path.read_bytes()), 10**6, predictor.config.bands)
    for given in (values, values[..., [3, 0]], predictor.pixels(path), uploaded):
        assert (predictor.predict(given) == answer).all()


def test_what_has_other_bands_is_refused_in_a_sentence(model: Path, data: Path, tmp_path: Path) -> None:
    predictor = Predictor(model, "cpu")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: has 3 bands; bands 4, 1 of .* asks for more"):
        predictor.predict(tmp_path / "a.png")
    with pytest.raises(RefusedError, match="has 3 bands"):
        decode(Upload("a.png", (tmp_path / "a.png").read_bytes()), 10**6, predictor.config.bands)
    other = tmp_path / "other"
    convert(data, out=other, choices=Choices(bands=(1, 2), scale=(0, 4000)))
    with pytest.raises(DatasetError, match=r"its images are read as bands 1, 2 .*, and .* was trained on bands 4, 1"):
        evaluate(model, other, tmp_path / "e", device="cpu")


def test_a_raster_of_these_bands_is_predicted_in_windows(model: Path, tmp_path: Path) -> None:
    from segmodels.inference.rasters import is_raster, predict_raster

    values = np.concatenate([scene(np.random.default_rng(seed))[0] for seed in (1, 2)], axis=1)
    path = tiff(
        tmp_path / "map.tif", values, crs="EPSG:32633", transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10)
    )
    assert is_raster(path)
    predictor = Predictor(model, "cpu")
    predict_raster(
        path, predictor.maps, predictor.task, predictor.config.palette,
        masks=tmp_path / "mask.tif", overlays=tmp_path / "overlay.tif", bands=predictor.config.bands,
    )  # fmt: skip
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert (mask.read(1) == predictor.predict(path)).all() and mask.crs.to_epsg() == 32633


def test_an_exported_file_takes_scaled_bands(model: Path, data: Path, tmp_path: Path) -> None:
    exported = export(model, tmp_path / "m.pt2", "pt2", data=data)
    assert exported.agreement == 1.0


def test_drift_watches_images_of_other_bands(model: Path, data: Path, tmp_path: Path) -> None:
    from segmodels.drift.monitor import Monitor
    from segmodels.drift.profile import Profile

    evaluate(model, data, tmp_path / "e", device="cpu")
    profile = Profile.read(tmp_path / "e/profile.json")
    assert len(profile.inputs) and np.isfinite(profile.inputs).all()
    predictor = Predictor(model, "cpu")
    monitor = Monitor(profile, predictor.config)
    image = predictor.pixels(next((data / "train/images").iterdir()))
    assert isinstance(image, Pixels)
    monitor.add(image, predictor.predict_with_confidence([image])[0])
