"""What is averaged over an image, held to what it is by definition; what a predictor does before and after it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.data.folder import ClassInfo
from segmodels.inference import predictor as module
from segmodels.inference.averaging import averaged, full_resolution, monte_carlo, refined
from segmodels.inference.predictor import Predictor
from segmodels.layers.crf import dense_crf
from segmodels.settings.schema import CRFSettings, PredictSettings
from segmodels.tasks import get_task
from segmodels.tasks.semantic.task import most_likely

SEMANTIC = get_task("semantic")


class Watched(nn.Module):
    """A pixelwise model that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.seen.append(images.clone())
        return {"out": torch.cat([images * 2, -images[:, :1]], 1)}


def sizes(model: Watched) -> list[tuple[int, ...]]:
    return [tuple(image.shape[-2:]) for image in model.seen]


def test_scaled_images_have_their_sizes_and_are_those_of_torchvision() -> None:
    images, model = torch.randn(2, 3, 48, 90), Watched()
    averaged(model, images, PredictSettings(scales=(0.5, 0.7, 1.0, 1.5, 2.0)), SEMANTIC)
    # No side falls below 32 pixels.
    assert sizes(model) == [(32, 45), (34, 63), (48, 90), (72, 135), (96, 180)]
    assert torch.equal(model.seen[2], images)
    for image in model.seen:
        expected = vision.resize(images, list(image.shape[-2:]), antialias=image.shape[-1] < 90)
        torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_scales_and_mirror_images_is_that_of_passes_made_by_hand() -> None:
    images, total = torch.randn(1, 3, 40, 56), torch.zeros(1, 4, 40, 56)
    for size in ((32, 34), (40, 56), (60, 84)):
        scaled = vision.resize(images, list(size), antialias=size[0] < 40)
        for flip in (False, True):
            probs = Watched()(scaled.flip(-1) if flip else scaled)["out"].softmax(1)
            total += vision.resize(probs.flip(-1) if flip else probs, [40, 56], antialias=False)
    ours = averaged(Watched(), images, PredictSettings(scales=(0.6, 1.0, 1.5), flip=True), SEMANTIC)
    torch.testing.assert_close(ours, total / 6, rtol=1e-4, atol=1e-5)
    larger = full_resolution(ours, (77, 99))
    torch.testing.assert_close(larger, vision.resize(ours, [77, 99], antialias=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stride", "rows", "columns"), [((16, 12), [0, 16], [0, 12, 16]), (None, [0, 10, 16], [0, 10, 16])]
)
def test_windows_begin_at_their_strides_and_end_at_the_edge(stride: Any, rows: list[int], columns: list[int]) -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    images, model = torch.cat([grid, grid[:1]])[None], Watched()
    averaged(model, images, PredictSettings(window=(16, 16), stride=stride), SEMANTIC)
    assert [tuple(image[0, :2, 0, 0].tolist()) for image in model.seen] == [(y, x) for y in rows for x in columns]


@pytest.mark.parametrize(
    ("window", "size", "corners"),
    [
        ((10, 30), (10, 30), [(0, 0), (0, 2), (6, 0), (6, 2), (12, 0), (12, 2), (18, 0), (18, 2), (22, 0), (22, 2)]),
        ((99, 30), (32, 30), [(0, 0), (0, 2)]),
        ((2, 40), (2, 32), [(row, 0) for row in range(31)]),  # a third less than two pixels is one
        ((40, 2), (32, 2), [(0, column) for column in range(31)]),
    ],
)
def test_windows_may_be_of_any_shape(
    window: tuple[int, int], size: tuple[int, int], corners: list[tuple[int, int]]
) -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    model = Watched()
    averaged(model, torch.cat([grid, grid[:1]])[None], PredictSettings(window=window), SEMANTIC)
    assert set(sizes(model)) == {size}
    assert [tuple(image[0, :2, 0, 0].tolist()) for image in model.seen] == corners


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm, self.logits = nn.Dropout(0.5), nn.BatchNorm2d(3), list[Tensor]()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.logits.append(self.norm(self.dropout(images)))
        return {"out": self.logits[-1]}


def test_uncertainty_is_the_variance_of_the_samples() -> None:
    images, model = torch.randn(2, 3, 6, 8) * 3, Dropping().eval()
    mean, uncertainty = monte_carlo(model, images, 5)
    probs = torch.stack([logits.softmax(1) for logits in model.logits])
    assert len(probs) == 5 and not torch.equal(probs[0], probs[1])
    torch.testing.assert_close(mean, probs.mean(0))
    torch.testing.assert_close(uncertainty, probs.var(0, correction=0).mean(1), rtol=1e-4, atol=1e-6)
    assert not any(module.training for module in model.modules())
    assert model.norm.running_mean is not None and not model.norm.running_mean.any()
    once, none = monte_carlo(model, images, 1)
    torch.testing.assert_close(once, model.logits[-1].softmax(1))
    assert none.abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"^samples is 0; Monte-Carlo dropout needs at least one pass$"):
        monte_carlo(model, images, 0)


def test_a_model_that_was_training_trains_on_after_its_samples_and_after_a_failure() -> None:
    model = Dropping().train()
    monte_carlo(model, torch.randn(1, 3, 4, 4), 1)
    assert all(module.training for module in model.modules())
    with pytest.raises(RuntimeError):
        monte_carlo(model, torch.randn(1, 5, 4, 4), 1)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_most_likely_classes_are_bytes_in_either_order_in_memory(classes: int) -> None:
    scores = torch.randn(2, classes, 5, 6)
    for order in (scores, scores.contiguous(memory_format=torch.channels_last)):
        found, best = most_likely(order)
        assert found.dtype == torch.uint8 and found.tolist() == scores.argmax(1).tolist()
        assert torch.equal(best, scores.amax(1))


def test_a_crf_without_kernels_changes_nothing_and_one_with_them_sees_the_images_colours() -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (2, 12, 14, 3), dtype=np.uint8))
    probs = torch.randn(2, 3, 12, 14).softmax(1)
    idle = CRFSettings(bilateral_weight=0.0, spatial_weight=0.0)
    torch.testing.assert_close(refined(probs, images, idle), probs)
    assert refined(probs, images, None) is probs
    how = CRFSettings(bilateral_rgb=40.0, bilateral_xy=9.0, iterations=2)
    colors = torch.tensor(np.stack([image.transpose(2, 0, 1) for image in images])).float()
    torch.testing.assert_close(refined(probs, images, how), dense_crf(probs.log(), colors, how))
    sure = torch.zeros(1, 3, 12, 14)
    sure[:, 1] = 1
    certain = refined(sure, images[:1], idle)
    assert certain.isfinite().all() and certain[:, 0].max() == pytest.approx(1e-6, rel=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("sized"), (40, 48))


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("free"), None)


def saved(path: Path, size: tuple[int, int] | None) -> Path:
    torch.manual_seed(0)
    classes = tuple(ClassInfo(name, (0, 0, 0)) for name in "abc")
    config = ModelConfig("unet", classes, {"width": 4, "batch_norm": True}, image_size=size)
    save_model(path, config, config.build().state_dict())
    return path


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_a_predictor_takes_the_device_that_is_there_and_keeps_norms_and_size_unless_told(
    folder: Path, free: Path
) -> None:
    predictor = Predictor(folder)
    assert predictor.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert any(isinstance(module, nn.BatchNorm2d) for module in predictor.model.modules())
    assert predictor.image_size == (40, 48)
    assert Predictor(folder, "cpu", image_size=(64, 32)).image_size == (64, 32)
    assert Predictor(free, "cpu", image_size=(64, 32)).image_size == (64, 32)
    assert Predictor(free, "cpu").image_size is None
    fused = Predictor(free, "cpu", fused=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.model.modules())
    np.testing.assert_allclose(
        fused.predict_probabilities(noise(50, 70)),
        Predictor(free, "cpu").predict_probabilities(noise(50, 70)),
        atol=1e-5,
    )


def test_weights_and_images_lie_in_channels_last_order_and_wait_for_their_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, turns, batches = Predictor(folder, "cpu", fused=True), list[str](), list[Tensor]()

    def turn(device: str) -> nullcontext[None]:
        turns.append(device)
        return nullcontext()

    monkeypatch.setattr(module, "turn", turn)
    predictor.model.register_forward_pre_hook(lambda _, given: batches.append(given[0]))
    predictor.predict_batch([noise(40, 48)])
    predictor.batch_maps([noise(40, 48)])
    assert turns == ["cpu", "cpu"] and len(batches) == 2
    weights = [value for value in predictor.model.state_dict().values() if value.ndim == 4]
    for tensor in (*batches, *weights):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_images_of_several_sizes_come_back_in_their_order(free: Path) -> None:
    predictor = Predictor(free, "cpu")
    images = [noise(40, 48), noise(32, 64), noise(40, 48)[::-1].copy(), noise(32, 64)[:, ::-1].copy()]
    for image, prediction in zip(images, predictor.predict_with_confidence(images), strict=True):
        probs = predictor.predict_probabilities(image)
        assert (prediction.value == probs.argmax(0)).mean() > 0.999
        assert prediction.confidence is not None
        np.testing.assert_allclose(prediction.confidence, probs.max(0), rtol=1e-4)
    assert [one.shape for one in predictor.predict_batch(images)] == [(40, 48), (32, 64)] * 2


def test_each_precision_rounds_as_coarsely_as_its_numbers(free: Path) -> None:
    images = [noise(40, 48)]
    whole = Predictor(free, "cpu").batch_maps(images)
    off = {p: (Predictor(free, "cpu", precision=p).batch_maps(images) - whole).abs().max() for p in ("16", "bf16")}
    assert 0 < 3 * off["16"] < off["bf16"] < 0.1


@pytest.mark.parametrize(
    ("capability", "amx", "bf16", "mkldnn", "precision"),
    [
        ("AVX512", True, False, True, "bf16"),
        ("AVX512", False, True, True, "bf16"),
        ("AVX512", False, False, True, "32"),
        ("AVX2", True, True, True, "32"),
        ("AVX512", True, True, False, "32"),
    ],
)
def test_the_fast_precision_is_bfloat16_where_a_processor_multiplies_it(
    capability: str, amx: bool, bf16: bool, mkldnn: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    assert module.fast_precision("cpu") == precision
    for major, expected in ((7, "16"), (8, "bf16"), (9, "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, major=major: (major, 0))
        assert module.fast_precision(torch.device("cuda")) == expected
