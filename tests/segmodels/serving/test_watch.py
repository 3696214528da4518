"""A served model that tells drift, and one whose network fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segmodels.artifacts.model_folder import read_config
from segmodels.artifacts.sources import AddressError, Fetched, FolderSource, Version, open_source
from segmodels.drift.profile import Profile, confidence_by_class, describe
from segmodels.inference.predictor import Predictor
from segmodels.serving.engine import FAILURES
from segmodels.serving.service import Service
from segmodels.serving.watch import Watch, Watched
from segmodels.settings.schema import PredictSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Prediction
from tests.segmodels.conftest import scene
from tests.segmodels.serving.running import CLASSES, SECONDS, Reply, ask, encoded, in_process, until, write_model

NAMES = tuple(c.name for c in CLASSES)
PICTURES = [scene(np.random.default_rng(index), 49, 63)[0] for index in range(40)]


def write_profile(model: Path, **prediction: Any) -> Path:
    """What `evaluate` keeps of the pictures."""
    predictor = Predictor(model, "cpu")
    seen = [describe(picture) for picture in PICTURES]
    made = [predictor.predict_with_confidence([picture])[0] for picture in PICTURES]
    predicted = [get_task("semantic").describe(one, predictor.config.parts) for one in made]
    mix = np.stack([one[0] for one in predicted])
    profile = Profile(
        classes=NAMES,
        images={"train": 40, "test": 40},
        inputs=np.stack([one.inputs for one in seen]),
        colors=np.stack([one.colors for one in seen]),
        mix=mix,
        confidence=np.array([one[1] for one in predicted]),
        by_class=confidence_by_class(mix, np.stack([one[2] for one in predicted])),
        prediction=prediction,
    )
    profile.write(model / "profile.json")
    return model / "profile.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = write_model(tmp_path_factory.mktemp("watched") / "boxes")
    write_profile(model)
    return model


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[Service, int]]:
    with in_process(FolderSource(folder)) as running:
        yield running


@pytest.fixture
def get(served) -> Callable[..., Reply]:
    return lambda *request: ask(served[1], *request)


def drift_metrics(get: Callable[..., Reply]) -> list[str]:
    return [line for line in get("/metrics").body.decode().splitlines() if line.startswith("segmodels_drift")]


def send(get: Callable[..., Reply], pictures: list[np.ndarray], enough: int) -> Any:
    """Sends pictures until so many were looked at; gives what `/drift` then tells."""
    before = get("/drift").json["seen"]
    while (told := get("/drift").json)["seen"] < before + enough:
        for picture in pictures:
            assert get("/predict", encoded(picture)).status == 200
    return told


def test_drift_is_told_of_the_version_that_serves_and_begins_anew_with_another(get, folder) -> None:
    version = get("/ready").json["version"]
    assert get("/drift").json["verdict"] == "too few images to say: 0, and 20 are the least"
    assert drift_metrics(get) == []

    told = send(get, PICTURES, 40)
    assert told["version"] == version and told["verdict"].startswith("no drift"), told["verdict"]
    assert {c["name"] for c in told["classes"]} == set(NAMES)
    assert "confidence" in [feature["name"] for feature in told["features"]]
    assert f'segmodels_drift_detected{{version="{version}"}} 0' in drift_metrics(get)

    told = send(get, [picture // 2 for picture in PICTURES], 120)
    assert told["drifted"] and told["verdict"].startswith("drift: "), told["verdict"]
    assert "brightness" in [feature["name"] for feature in told["features"] if feature["drifted"]]
    assert f'segmodels_drift_detected{{version="{version}"}} 1' in drift_metrics(get)

    write_model(folder, seed=1)
    until(lambda: get("/ready").json["version"] != version)
    assert get("/drift").json["seen"] == 0 and drift_metrics(get) == []


class Slow(Watched):
    """Looks at an image when it is let."""

    let = threading.Event()

    def add(self, *seen: Any) -> None:
        assert self.let.wait(SECONDS)
        super().add(*seen)


def test_nobody_waits_for_drift_and_what_comes_meanwhile_is_let_go(folder) -> None:
    slow = Slow(Profile.read(folder / "profile.json"), read_config(folder), confident=True)
    watch = Watch()
    made = [Prediction(np.zeros((49, 63), np.uint8), np.ones((49, 63), np.float32))] * 4
    for _ in range(5):
        watch.offer(slow, PICTURES[:4], made, busy=True)
    slow.let.set()
    watch.close()
    assert slow.monitor.total == 1, "one image of one request"


def test_a_version_without_a_profile_that_fits_serves_and_says_so(tmp_path, folder, caplog) -> None:
    model = write_model(tmp_path / "boxes")
    plain = FolderSource(model).fetch(Version("boxes", "1", "", ""))
    assert plain.profile is None
    profile = write_profile(model)
    assert FolderSource(model).fetch(Version("boxes", "1", "", "")).profile == profile
    assert FolderSource(model, folder / "profile.json").fetch(Version("boxes", "1", "", "")) == Fetched(
        model, PredictSettings(), "", folder / "profile.json"
    )
    profile.write_text(profile.read_text().replace('"sky"', '"sea"'))
    with in_process(FolderSource(model)) as (_, port):
        reply = ask(port, "/drift")
        assert reply.status == 404 and "has no profile.json that fits" in reply.json["error"]
        assert ask(port, "/predict", encoded(PICTURES[0])).status == 200
    assert "its classes are not the model's" in caplog.text
    with pytest.raises(AddressError, match="no such file"):
        open_source(str(model), profile=tmp_path / "gone.json")
    with pytest.raises(AddressError, match="is for a model folder"):
        open_source("models:/segmentation@champion", tmp_path, profile=profile)


class Broken(nn.Module):
    """A network after a fault of its device."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        raise RuntimeError("CUDA error: device-side assert triggered")


class Picky(nn.Module):
    """A network that does not take wide images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if images.shape[-1] > 480:
            raise RuntimeError("the image is too wide")
        found: dict[str, torch.Tensor] = self.network(images)
        return found


def test_a_network_that_fails_on_every_image_fails_the_probes_until_it_works_again(served, get) -> None:
    predictor = served[0].engine.model.predictor
    sound, predictor.model = predictor.model, Broken()
    try:
        for count in range(FAILURES):
            assert get("/ready").status == get("/health").status == 200, count
            assert "device-side assert" in get("/predict", encoded(PICTURES[0])).json["error"]
        until(lambda: get("/ready").status == 503)
        reply = get("/health")
        assert (
            reply.status == 503 and "the network fails on every image (CUDA error: device-side" in reply.json["error"]
        )
    finally:
        predictor.model = sound
    assert get("/predict", encoded(PICTURES[0])).status == 200
    assert get("/ready").status == get("/health").status == 200


def test_images_that_a_sound_network_does_not_take_end_nothing(served, get) -> None:
    predictor = served[0].engine.model.predictor
    sound, predictor.model = predictor.model, Picky(predictor.model)
    wide = encoded(np.zeros((32, 600, 3), np.uint8))
    try:
        for _ in range(2 * FAILURES):
            assert get("/predict", wide).status == 422
        assert get("/predict", encoded(PICTURES[0])).status == get("/ready").status == get("/health").status == 200
    finally:
        predictor.model = sound
