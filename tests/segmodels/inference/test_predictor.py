"""Inference: windows and augmentation give what the plain pass gives where they must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.data.folder import ClassInfo
from segmodels.inference.averaging import averaged, full_resolution, monte_carlo, sliding
from segmodels.inference.predictor import Predictor
from segmodels.settings.schema import PREDICT_KEYS, CRFSettings, PredictSettings
from segmodels.tasks import get_task
from segmodels.tasks.semantic.task import most_likely

SEMANTIC = get_task("semantic")


class Pixelwise(nn.Module):
    """A model whose answer at a pixel depends on that pixel alone."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": torch.stack([images.sum(1), -images.sum(1), images[:, 0]], dim=1)}


def probabilities(images: Tensor) -> Tensor:
    return Pixelwise()(images)["out"].softmax(1)


def test_windows_cover_everything_and_average_their_overlap() -> None:
    images = torch.randn(2, 3, 37, 53)
    whole = sliding(probabilities, images, None)
    for window, stride in (((16, 20), None), ((16, 20), (7, 9)), ((64, 20), None)):
        torch.testing.assert_close(sliding(probabilities, images, window, stride), whole)


def test_windows_never_exceed_the_image() -> None:
    seen = []

    def spy(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape[-2:]))
        return probabilities(images)

    sliding(spy, torch.randn(1, 3, 50, 40), (32, 32))
    assert set(seen) == {(32, 32)}


def test_flipping_a_symmetric_model_changes_nothing() -> None:
    images = torch.randn(1, 3, 33, 40)
    flipped = averaged(Pixelwise(), images, PredictSettings(flip=True), SEMANTIC)
    torch.testing.assert_close(flipped, averaged(Pixelwise(), images, PredictSettings(), SEMANTIC))


class Ramp(nn.Module):
    """A model that answers by the column, the images' width and dropout, so that each way to average shows."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        column = torch.linspace(-2, 2, width).expand(len(images), 1, height, width)
        noise = self.dropout(torch.ones(len(images), 1, height, width)) - 1
        return {"out": torch.cat([column + width / 16 + noise, torch.zeros_like(column)], 1)}


def test_the_mirror_image_counts_as_much_as_the_image() -> None:
    images = torch.zeros(1, 3, 32, 40)
    plain = averaged(Ramp().eval(), images, PredictSettings(), SEMANTIC)
    flipped = averaged(Ramp().eval(), images, PredictSettings(flip=True), SEMANTIC)
    torch.testing.assert_close(flipped, (plain + plain.flip(-1)) / 2)
    assert (flipped - plain).abs().max() > 0.1


def test_every_scale_counts_as_much_as_every_other() -> None:
    images, model = torch.zeros(1, 3, 32, 64), Ramp().eval()
    alone = [averaged(model, images, PredictSettings(scales=(scale,)), SEMANTIC) for scale in (0.5, 1.0, 2.0)]
    together = averaged(model, images, PredictSettings(scales=(0.5, 1.0, 2.0)), SEMANTIC)
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    assert (alone[0] - alone[2]).abs().max() > 0.1


def test_dropout_samples_flips_and_windows_are_averaged_together_and_the_same_each_time() -> None:
    images, model = torch.zeros(1, 3, 32, 64), Ramp().eval()
    settings = PredictSettings(mc_samples=4, flip=True, window=(32, 48))
    before = torch.random.get_rng_state()
    first = averaged(model, images, settings, SEMANTIC)
    torch.rand(3)
    assert torch.equal(averaged(model, images, settings, SEMANTIC), first)
    assert not torch.equal(torch.random.get_rng_state(), before)  # that of torch.rand alone
    for other in (PredictSettings(flip=True, window=(32, 48)), PredictSettings(mc_samples=4, flip=True)):
        assert (averaged(model, images, other, SEMANTIC) - first).abs().max() > 0.01


def test_scales_are_averaged_at_the_images_size() -> None:
    images = torch.randn(1, 3, 64, 64)
    probs = averaged(Pixelwise(), images, PredictSettings(scales=(0.5, 1.0, 1.5)), SEMANTIC)
    assert probs.shape == (1, 3, 64, 64)
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 64, 64))


def test_full_resolution_keeps_probabilities() -> None:
    probs = torch.randn(1, 4, 10, 10).softmax(1)
    assert full_resolution(probs, (10, 10)) is probs
    torch.testing.assert_close(full_resolution(probs, (23, 31)).sum(1), torch.ones(1, 23, 31))


def test_monte_carlo_without_dropout_is_the_plain_pass() -> None:
    images = torch.randn(1, 3, 8, 8)
    mean, uncertainty = monte_carlo(Pixelwise(), images, 3)
    torch.testing.assert_close(mean, Pixelwise()(images)["out"].softmax(1))
    assert uncertainty.abs().max() < 1e-6


@pytest.mark.parametrize("values", [torch.rand(2, 5, 7, 9), torch.randint(0, 2, (2, 5, 7, 9)).float()])
def test_most_likely_is_torchs_argmax_and_takes_the_first_of_equal_ones(values: Tensor) -> None:
    first = torch.from_numpy(values.numpy().argmax(1))
    classes, confidence = most_likely(values)
    assert classes.dtype == torch.uint8 and torch.equal(classes.long(), first)
    assert torch.equal(confidence, values.amax(1))
    channels_last = values.contiguous(memory_format=torch.channels_last)
    assert torch.equal(most_likely(channels_last)[0], classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    classes = tuple(ClassInfo(name, (0, 0, 0)) for name in "abc")
    config = ModelConfig("unet", classes, {"width": 4, "batch_norm": True}, image_size=(40, 48))
    path = tmp_path_factory.mktemp("model") / "unet"
    save_model(path, config, config.build().state_dict())
    return path


def test_a_batch_gives_what_its_images_give_alone(folder: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8))
    predictor = Predictor(folder, "cpu", flip=True, scales=(1.0, 1.5))
    for alone, together in zip(images, predictor.predict_batch(images), strict=True):
        assert (predictor.predict(alone) == together).mean() > 0.999
        assert together.shape == (50, 70) and together.dtype == np.uint8


@pytest.mark.parametrize("size", [(40, 48), (50, 70)], ids=["of the network", "another"])
def test_class_maps_and_confidence_are_those_of_the_probabilities(size: tuple[int, int], folder: Path) -> None:
    """Also where no softmax is computed: at the network's own size nothing is averaged or resized."""
    images = list(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    predictor = Predictor(folder, "cpu")
    probs = predictor.batch_maps(images).numpy()
    predicted = predictor.predict_with_confidence(images)
    classes, confidence = (np.stack([getattr(one, name) for one in predicted]) for name in ("value", "confidence"))
    np.testing.assert_array_equal(classes, probs.argmax(1))
    np.testing.assert_array_equal(np.stack(predictor.predict_batch(images)), classes)
    np.testing.assert_allclose(confidence, probs.max(1), rtol=1e-6)


def test_merged_norms_and_bfloat16_round_differently_and_predict_the_same(folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    probs = Predictor(folder, "cpu").predict_probabilities(image)
    fused = Predictor(folder, "cpu", fused=True).predict_probabilities(image)
    np.testing.assert_allclose(fused, probs, atol=1e-5)
    half = Predictor(folder, "cpu", fused=True, precision="bf16").predict_probabilities(image)
    assert half.dtype == np.float32 and 0 < np.abs(half - probs).max() < 0.05


@pytest.mark.parametrize(
    "settings",
    [
        PredictSettings(flip=True),
        PredictSettings(scales=(0.75, 1.25)),
        PredictSettings(window=(32, 40), stride=(8, 8)),
        PredictSettings(image_size=(64, 64)),
        PredictSettings(crf=CRFSettings(iterations=2)),
    ],
    ids=lambda settings: next(key for key in PREDICT_KEYS if getattr(settings, key) != getattr(PredictSettings(), key)),
)
def test_each_setting_changes_what_the_predictor_answers(settings: PredictSettings, folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    plain = Predictor(folder, "cpu").predict_probabilities(image)
    other = Predictor(folder, "cpu", settings=settings)
    assert np.abs(other.predict_probabilities(image) - plain).max() > 1e-4
    np.testing.assert_array_equal(other.predict(image), other.predict_probabilities(image).argmax(0))


def test_settings_survive_json_and_refuse_what_they_do_not_know() -> None:
    settings = PredictSettings(scales=(0.5, 1.0), window=(32, 40), crf=CRFSettings(iterations=3), mc_samples=2)
    assert PredictSettings.of(json.loads(json.dumps(settings.as_json()))) == settings
    assert PredictSettings(image_size=(40, 48)).plain and not PredictSettings(mc_samples=1).plain
    with pytest.raises(ValueError, match="unknown setting 'flips'; did you mean 'flip'"):
        PredictSettings.of({"flips": True})
