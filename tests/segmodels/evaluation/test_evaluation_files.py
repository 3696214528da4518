"""Every figure and file of an evaluation, worked out again from the predictions with scikit-learn and by hand."""

from __future__ import annotations

import csv
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import nn

from segmodels.artifacts.model_folder import ModelConfig, read_config, save_model
from segmodels.data.folder import ClassInfo, read_image, read_label, samples
from segmodels.data.writer import DatasetWriter
from segmodels.drift.profile import build_profile
from segmodels.evaluation import evaluate as evaluation
from segmodels.evaluation import speed
from segmodels.evaluation.evaluate import Quality, evaluate
from segmodels.inference.predictor import Predictor
from segmodels.runtime import Turn, turn
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks import get_task
from segmodels.tasks.base import Prediction
from segmodels.tasks.per_image import PER_IMAGE_FILE, PerImage
from segmodels.tasks.pictures import panel
from segmodels.tasks.semantic import pictures
from segmodels.tasks.semantic.metrics import BoundaryF1, CalibrationError
from segmodels.tasks.semantic.task import column_means, own_miou

CLASSES = (
    ClassInfo("ground", (120, 80, 40)),
    ClassInfo("box", (200, 30, 30)),
    ClassInfo("sky", (90, 160, 220)),
    ClassInfo("ghost", (10, 200, 90)),
)
COUNT, KEPT = 9, ["f0", "f2", "f3", "f5", "f6", "f8"]  # nine at six places: 0, 1.6, 3.2, 4.8, 6.4, 8
SETTINGS = EvaluateSettings(batch_size=2, boundary_px=2)


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng, height = np.random.default_rng(number), 40 if number < 5 else 48
    label = np.zeros((height, 48), np.uint8)
    label[: 12 + number] = 2
    if number % 2:
        label[20:30, 4 * number : 4 * number + 12] = 1
    image = np.array([c.color for c in CLASSES])[label] + rng.normal(0, 30, (*label.shape, 3))
    label[:, :3] = 255
    if number == 4:
        label[:] = 255
    return image.clip(0, 255).astype(np.uint8), label


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("frames") / "data", "test")


def written(root: Path, split: str) -> Path:
    with DatasetWriter(root, "frames", CLASSES, source={"path": "made by a test"}) as writer:
        for name, count in (("train", 2), (split, COUNT)):
            for number in range(count):
                writer.add(name, f"f{number}", *scene(number), sequence="" if number < 3 else f"s{number // 6}")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig("unet", CLASSES, {"width": 4})
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    weights = config.build().state_dict()
    weights["classifier.bias"] = torch.tensor([0.0, 0.0, 0.0, -50.0])  # `ghost`, which the truth does not have either
    save_model(folder, config, weights)
    return folder


@pytest.fixture(scope="module")
def evaluated(data: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quality]:
    out = tmp_path_factory.mktemp("evaluation") / "unet"
    # What a run that was killed has left, and what one before it has written.
    (out.with_name("unet.part") / "predictions").mkdir(parents=True)
    (out.with_name("unet.part") / "predictions" / "stale.png").touch()
    out.mkdir()
    (out / "stale.json").touch()
    return out, evaluate(trained, data, out, SETTINGS)


Frame = tuple[str, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def frames(data: Path, trained: Path) -> list[Frame]:
    """Id, truth, prediction and confidence of each test image; of two neighbours of one size at a time."""
    predictor, found, listed = Predictor(trained, "cpu"), [], samples(data, "test")
    sizes = [read_label(sample.label).shape for sample in listed]
    for _, same in itertools.groupby(range(COUNT), key=lambda i: sizes[i]):
        for pair in batched(iter(same)):
            probs = predictor.batch_maps([read_image(listed[i].image) for i in pair])
            for i, one in zip(pair, probs, strict=True):
                found.append((listed[i].id, read_label(listed[i].label), one.argmax(0).numpy(), one.amax(0).numpy()))
    return found


def batched(items: Iterator[int]) -> Iterator[tuple[int, ...]]:
    while pair := tuple(itertools.islice(items, 2)):
        yield pair


def valid(frames: list[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction and confidence of all pixels that count."""
    columns = [np.concatenate([maps[k][maps[0] != 255] for _, *maps in frames]) for k in range(3)]
    return columns[0], columns[1], columns[2]


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_metrics_are_those_of_scikit_learn(evaluated: tuple[Path, Quality], frames: list[Frame]) -> None:
    out, quality = evaluated
    found = json.loads((out / "metrics.json").read_text())
    truth, guess, sure = valid(frames)
    seen = np.array([0, 1, 2])
    assert set(np.unique(truth)) == {0, 1, 2} and not (guess == 3).any()
    iou = sk.jaccard_score(truth, guess, labels=seen, average=None)
    accuracy = sk.recall_score(truth, guess, labels=seen, average=None)
    calibration = CalibrationError()
    calibration.update(torch.tensor(sure), torch.tensor(guess), torch.tensor(truth))
    boundary = BoundaryF1(4, 2)
    for _, label, prediction, _ in frames:
        boundary.update(torch.tensor(prediction), torch.tensor(label))
    f1 = boundary.compute()
    assert found == {
        "split": "test",
        "images": COUNT,
        "miou": pytest.approx(iou.mean()),
        "pixel_accuracy": pytest.approx(sk.accuracy_score(truth, guess)),
        "mean_accuracy": pytest.approx(accuracy.mean()),
        "fwiou": pytest.approx(sk.jaccard_score(truth, guess, average="weighted")),
        "boundary_f1": pytest.approx(np.nanmean(f1)),
        "ece": pytest.approx(calibration.compute()),
        "per_class": {
            **{n: pytest.approx(v) for n, v in zip(("ground", "box", "sky"), iou, strict=True)},
            "ghost": None,
        },
    }
    assert (quality.split, quality.metrics) == ("test", found)
    np.testing.assert_allclose(column_means(quality.per_image.counts["boundary_f1"]), f1)
    matrix = sk.confusion_matrix(truth, guess, labels=range(4))
    assert np.array_equal(quality.matrix, matrix)
    names = [c.name for c in CLASSES]
    assert rows(out / "confusion.csv") == [["truth", *names]] + [
        [name, *map(str, row)] for name, row in zip(names, matrix.tolist(), strict=True)
    ]
    head, *listed = rows(out / "per_class.csv")
    assert head == ["class", "iou", "accuracy", "boundary_f1", "pixels"]
    for c, (name, *values, pixels) in enumerate(listed):
        assert (name, int(pixels)) == (names[c], (truth == c).sum())
        expected = [iou[c], accuracy[c], f1[c]] if c < 3 else []
        assert [float(v) for v in values if v] == pytest.approx(expected)
        assert c < 3 or values == ["", "", ""]
    assert b"\r" not in (out / "per_class.csv").read_bytes()
    assert json.dumps(found, indent=2) + "\n" == (out / "metrics.json").read_text()


def test_each_image_has_its_own_figures(evaluated: tuple[Path, Quality], frames: list[Frame]) -> None:
    out, quality = evaluated
    each = PerImage.read(out / PER_IMAGE_FILE)
    assert each.ids.tolist() == [f"f{number}" for number in range(COUNT)]
    assert each.sequences.tolist() == ["", "", "", "s0", "s0", "s0", "s1", "s1", "s1"]
    assert each.classes.tolist() == [c.name for c in CLASSES]
    for number, frame in enumerate(frames):
        truth, guess, sure = valid([frame])
        counts = [np.bincount(a, minlength=4).tolist() for a in (truth[truth == guess], truth, guess)]
        assert [each.counts[name][number].tolist() for name in ("hits", "truth", "predicted")] == counts
        assert each.counts["calibration"][number, 1].sum() == pytest.approx(sure.sum(), rel=1e-5)
        present = np.unique(truth)
        own = sk.jaccard_score(truth, guess, labels=present, average="macro") if len(truth) else 0.0
        assert quality.own[number] == pytest.approx(own)
    # Images evenly spread; here all of them.
    assert len(quality.predicted) == COUNT
    task = get_task("semantic")
    for (_, _, guess, sure), (mix, confidence, by_class) in zip(frames, quality.predicted, strict=True):
        expected = task.describe(Prediction(guess, sure), task.parts(CLASSES))
        assert (mix.tolist(), confidence) == (expected[0].tolist(), pytest.approx(expected[1]))
        np.testing.assert_allclose(by_class, expected[2], rtol=1e-6)


def test_pictures_show_the_worst_the_median_and_the_best_and_six_predictions_are_kept(
    evaluated: tuple[Path, Quality], frames: list[Frame], data: Path
) -> None:
    out, quality = evaluated
    kept = {path.stem: read_label(path) for path in (out / "predictions").iterdir()}
    assert sorted(kept) == KEPT
    for name, _, guess, _ in frames:
        assert name not in kept or np.array_equal(kept[name], guess)
    order = sorted(range(COUNT), key=lambda number: quality.own[number])
    chosen = {"worst": order[0], "median": order[4], "best": order[8]}
    assert chosen["worst"] == 4
    assert {path.name for path in (out / "pictures").iterdir()} == {f"{t}-f{i}.png" for t, i in chosen.items()}
    palette = [c.color for c in CLASSES]
    for title, index in chosen.items():
        name, truth, guess, _ = frames[index]
        guess = guess.astype(np.uint8)
        tiles = [
            read_image(samples(data, "test")[index].image),
            pictures.colorize(truth, palette),
            pictures.colorize(guess, palette),
            pictures.error_map(truth, guess),
        ]
        titles = [name, "truth", f"prediction, mIoU {100 * quality.own[index]:.1f} %", "error"]
        shown = np.asarray(Image.open(out / "pictures" / f"{title}-{name}.png"))
        assert np.array_equal(shown, np.asarray(panel(tiles, titles)))


def test_nothing_of_an_earlier_evaluation_is_left(evaluated: tuple[Path, Quality]) -> None:
    out, _ = evaluated
    assert sorted(path.name for path in out.parent.iterdir()) == ["unet"]
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion.csv", "metrics.json", "per_class.csv", "per_image.npz", "pictures", "predictions", "profile.json",
        "speed.json",
    ]  # fmt: skip


def test_speed_is_that_of_the_first_image_with_all_that_is_averaged(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[Any] = []
    sized: list[Any] = []

    def milliseconds(*given: Any) -> float:
        timed.append(given)
        return 12.34567

    def gflops(*given: Any) -> float:
        sized.append(given)
        return 1.23456

    monkeypatch.setattr(evaluation, "prediction_milliseconds", milliseconds)
    monkeypatch.setattr(evaluation, "gflops", gflops)
    settings = EvaluateSettings(flip=True, batch_size=3, image_size=(32, 64))
    for how, size in ((settings, [32, 64]), (EvaluateSettings(), [40, 48])):
        evaluate(trained, data, tmp_path / "out", how, device="cpu")
        speed = json.loads((tmp_path / "out/speed.json").read_text())
        assert speed == {
            "parameters": sum(p.numel() for p in Predictor(trained, "cpu").model.parameters()),
            "gflops": 1.235,
            "ms_per_image": 12.35,
            "image_size": size,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "prediction": how.prediction.as_json(),
        }
        assert json.dumps(speed, indent=2) + "\n" == (tmp_path / "out/speed.json").read_text()
        predictor, image = timed[-1]
        assert predictor.settings == how.prediction and np.array_equal(image, scene(0)[0])
        assert sized[-1][0].architecture == "unet" and list(sized[-1][1]) == size
    assert "no test labels" not in capsys.readouterr().out


def test_without_a_test_split_the_validation_split_is_measured_and_said(
    trained: Path, evaluated: tuple[Path, Quality], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(str(trained), str(written(tmp_path / "data", "val")), str(out), SETTINGS).split == "val"
    assert "frames has no test labels; the figures are those of its val split\n" in capsys.readouterr().out
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, evaluated[0]))
    assert ours == {**theirs, "split": "val"}
    assert json.loads((out / "profile.json").read_text())["prediction"] == SETTINGS.as_json()


class Clock:
    """Seconds that pass only where somebody says so."""

    def __init__(self, steps: list[float]) -> None:
        self.now, self.steps, self.calls = 100.0, iter(steps), 0

    def __call__(self) -> float:
        return self.now

    def work(self, *_: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        self.now += next(self.steps)
        return {}


def test_times_are_the_median_of_what_comes_after_two_warm_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, turns = [90.0, 80.0, 0.004, 0.001, 0.5, 0.002, 0.003, 0.02, 0.001], list[str]()

    def counted(device: str) -> AbstractContextManager[Turn]:
        turns.append(device)
        return turn(device)

    monkeypatch.setattr(speed, "turn", counted)

    class Network(nn.Module):
        def __init__(self, clock: Clock) -> None:
            super().__init__()
            self.conv, self.clock, self.seen = nn.Conv2d(3, 2, 1), clock, list[torch.Tensor]()

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            self.seen.append(images)
            assert torch.is_inference_mode_enabled()
            return self.clock.work()

    for repeat, expected in ((None, 3.0), (3, 4.0)):
        how = {} if repeat is None else {"repeat": repeat}
        clock = Clock(steps)
        monkeypatch.setattr(time, "perf_counter", clock)
        network = Network(clock)
        assert speed.milliseconds(network, torch.zeros(1, 3, 8, 6), **how) == pytest.approx(expected)
        assert clock.calls == (repeat or 7) + 2
        assert all(image.is_contiguous(memory_format=torch.channels_last) for image in network.seen)
        clock = Clock(steps)
        monkeypatch.setattr(time, "perf_counter", clock)
        predictor: Any = type("Timed", (), {"predict": clock.work, "device": torch.device("cpu")})()
        image = np.zeros((4, 4, 3), np.uint8)
        assert speed.prediction_milliseconds(predictor, image, **how) == pytest.approx(expected)
        assert clock.calls == (repeat or 7) + 2
    assert turns == ["cpu"] * (9 + 9 + 5 + 5)


def test_means_of_columns_leave_out_what_is_not_there() -> None:
    values = np.array([[0.5, np.nan, 1.0], [0.25, np.nan, np.nan]])
    with np.errstate(all="raise"):
        found = column_means(values)
    np.testing.assert_array_equal(found, [0.375, np.nan, 1.0])


def test_a_class_of_one_pixel_counts_and_one_that_is_only_predicted_does_not() -> None:
    assert own_miou(np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]])) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert own_miou(np.array([[0, 0], [0, 0]])) == 0.0


def test_the_profile_is_that_of_the_split_and_its_predictions(
    evaluated: tuple[Path, Quality], data: Path, trained: Path, tmp_path: Path
) -> None:
    out, quality = evaluated
    config = read_config(trained)
    build_profile(data, config, "test", quality.predicted, SETTINGS.as_json()).write(tmp_path / "profile.json")
    assert (out / "profile.json").read_bytes() == (tmp_path / "profile.json").read_bytes()
    build_profile(data, config, "train", quality.predicted, SETTINGS.as_json()).write(tmp_path / "other.json")
    assert (tmp_path / "other.json").read_bytes() != (tmp_path / "profile.json").read_bytes()


def test_it_is_told_how_many_images_are_done(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Heartbeat:
        def __init__(self, say: Any) -> None:
            self.say = say

        def around(self, items: Any) -> Iterator[Any]:
            for item in items:
                told.append(self.say())
                yield item

    monkeypatch.setattr(evaluation, "Heartbeat", Heartbeat)
    evaluate(trained, data, tmp_path / "out", SETTINGS)
    assert told == [f"evaluated {done} of 9 images" for done in (0, 2, 4, 5, 7)]


def test_threads_beside_a_gpu_count_what_one_thread_counts(
    data: Path, trained: Path, evaluated: tuple[Path, Quality], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the images, and each prediction in its file; here with the network on the CPU."""
    monkeypatch.setattr(evaluation, "available_cores", lambda: 3)
    monkeypatch.setattr(evaluation, "images_counted_beside", lambda device: 4)
    quality = evaluate(trained, data, tmp_path / "out", SETTINGS)
    out, alone = evaluated
    assert quality.metrics == alone.metrics and quality.own == alone.own
    names = ["metrics.json", "per_class.csv", "confusion.csv", "per_image.npz", "profile.json"]
    names += [path.relative_to(out).as_posix() for path in sorted((out / "predictions").iterdir())]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name
