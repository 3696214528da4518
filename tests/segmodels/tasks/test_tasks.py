"""What every task does, whichever it is: a new one is held to the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.catalog.registry import check_fits, create_model, list_models, model_info
from segmodels.data.folder import ClassInfo
from segmodels.data.targets import target
from segmodels.settings.schema import EvaluateSettings, TrainSettings
from segmodels.tasks import get_task, list_tasks, task_info
from segmodels.tasks.base import Answered, Prediction, TaskError
from segmodels.tasks.per_image import PerImage

CLASSES = tuple(ClassInfo(f"c{i}", (40 * i, 10, 200 - 20 * i)) for i in range(4))
SIZE = (40, 48)
every_task = pytest.mark.parametrize("name", list_tasks())


def truth(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Random values of the targets that a task needs, with some void, as files give them."""
    rng = np.random.default_rng(seed)
    made: dict[str, Tensor] = {}
    for kind in task_info(name).needs:
        if kind == "labels":
            values = torch.tensor(rng.integers(0, len(CLASSES), SIZE, dtype=np.uint8))
        elif kind == "depth":
            values = torch.tensor(rng.uniform(1, 60, SIZE).astype(np.float32))
        else:
            drawn = rng.normal(size=(3, *SIZE)).astype(np.float32)
            values = torch.tensor(drawn / np.linalg.norm(drawn, axis=0))
        values[..., :5, :7] = target(kind).void
        made[kind] = values
    return made


def batch(name: str, count: int = 2) -> dict[str, Tensor]:
    """Images and targets as a training step takes them."""
    samples = [{key: target(key).finish(values) for key, values in truth(name, seed).items()} for seed in range(count)]
    stacked = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    return {"image": torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1)), **stacked}


def predicted(name: str, seed: int = 0) -> Prediction:
    """What the task decides on random maps."""
    task = get_task(name)
    maps = torch.randn(1, task.channels(CLASSES), *SIZE, generator=torch.Generator().manual_seed(seed))
    value, confidence = task.decide(task.activate({"out": maps}))
    return Prediction(value[0].numpy(), None if confidence is None else confidence[0].numpy())


def measured(name: str, count: int = 3) -> tuple[PerImage, np.ndarray]:
    task, parts = get_task(name), get_task(name).parts(CLASSES)
    counts = [task.count(predicted(name, i), truth(name, i), parts, EvaluateSettings()) for i in range(count)]
    names = [part.name for part in parts]
    each = PerImage.of(name, names, [str(i) for i in range(count)], counts, ())
    return each, np.sum([one.confusion for one in counts], axis=0)


@every_task
def test_what_is_told_of_a_task_needs_no_torch(name: str) -> None:
    code = f"import sys; from segmodels.tasks import task_info; task_info({name!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@every_task
def test_every_figure_that_is_shown_is_computed_of_any_draw(name: str) -> None:
    info, (each, confusion) = task_info(name), measured(name)
    figures = each.figures(np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]))
    assert {figure.key for figure in info.shown} <= figures.keys()
    assert {f"{info.each.key}/{part}" for part in each.classes.tolist()} <= figures.keys()
    assert all(values.shape == (2,) for values in figures.values())
    metrics = get_task(name).metrics(each.measured, confusion)
    for figure in info.shown:
        assert metrics[figure.key] == pytest.approx(float(figures[figure.key][0])), figure.key
        assert figure.number(metrics[figure.key]) != "-"
    assert list(metrics["per_class"]) == each.classes.tolist()


@every_task
def test_the_truth_itself_is_better_than_anything_else(name: str) -> None:
    task, main = get_task(name), task_info(name).main
    parts, given = task.parts(CLASSES), truth(name)
    right = Prediction(task.value(next(iter(given.values())).numpy()), np.ones(SIZE, np.float32))
    if name == "semantic":  # ids of void are no prediction
        right = Prediction(np.where(right.value == 255, 0, right.value).astype(np.uint8), right.confidence)
    counts = [task.count(one, given, parts, EvaluateSettings()) for one in (right, predicted(name))]
    values = [
        float(PerImage.of(name, [p.name for p in parts], ["0"], [one], ()).figures(np.ones((1, 1)))[main.key][0])
        for one in counts
    ]
    assert main.quality(values[0]) > main.quality(values[1]) and counts[0].own > counts[1].own


@every_task
def test_validation_tells_what_it_says(name: str) -> None:
    info, task = task_info(name), get_task(name)
    metric = task.summed(task.channels(CLASSES), TrainSettings())
    raw = {key: values[None] for key, values in truth(name).items()}
    metric.update(torch.randn(1, task.channels(CLASSES), *SIZE), raw)
    assert set(info.validated) <= metric.figures().keys() and info.main.key in info.validated


@every_task
def test_the_gates_rules_are_of_figures_that_there_are(name: str) -> None:
    info = task_info(name)
    for key in info.rules:
        if key not in ("ms_per_image", "parameters"):
            info.figure(key)
    assert info.rules[info.main.key].get("gain", 0) > 0 and "floor" in info.rules[info.main.key]
    with pytest.raises(TaskError, match="has no figure 'mlou'"):
        info.figure("mlou")


@every_task
def test_every_form_can_be_sent_as_every_type_that_it_names(name: str) -> None:
    task = get_task(name)
    forms = task.forms()
    assert {form: tuple(made.encode) for form, made in forms.items()} == dict(task.info.forms)
    image = np.zeros((*SIZE, 3), np.uint8)
    answered = Answered(image, predicted(name).value, "photo.jpg", task.parts(CLASSES))
    for form, made in forms.items():
        for kind, encode in made.encode.items():
            assert len(encode(answered)) > 20, (form, kind)


@every_task
def test_exported_outputs_are_what_is_decided(name: str) -> None:
    task = get_task(name)
    value, confidence = task.decide(task.activate({"out": torch.randn(2, task.channels(CLASSES), *SIZE)}))
    given = [value, *([confidence] if confidence is not None else [])]
    for tensor, told in zip(given, task.outputs().values(), strict=True):
        assert str(tensor.dtype) == f"torch.{told['dtype']}" and tensor.ndim == len(told["shape"])


@every_task
def test_a_mirror_image_of_the_mirror_image_is_the_image(name: str) -> None:
    task = get_task(name)
    maps = task.activate({"out": torch.randn(1, task.channels(CLASSES), *SIZE)})
    once = task.restore(maps, mirrored=True, scale=1.0)
    assert not torch.equal(once, maps) and torch.equal(task.restore(once, mirrored=True, scale=1.0), maps)


@every_task
def test_pictures_have_the_size_of_what_they_show(name: str) -> None:
    task, parts = get_task(name), get_task(name).parts(CLASSES)
    value, other = predicted(name).value, predicted(name, 1).value
    image = np.full((*SIZE, 3), 90, np.uint8)
    palette = [part.color for part in parts]
    pictures = [*task.draw([value, other], parts), task.errors(value, other), task.overlay(image, value, palette, 0.5)]
    for picture in pictures:
        assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8
    assert np.array_equal(task.overlay(image, value, palette, 0.0), image)
    assert task.note(value, other)


@every_task
def test_a_criterion_learns_and_ignores_a_batch_of_void(name: str) -> None:
    task = get_task(name)
    criterion = task.criterion(task.info.with_loss(TrainSettings()), None)
    maps = torch.randn(2, task.channels(CLASSES), *SIZE, requires_grad=True)
    loss = criterion(maps, batch(name))
    loss.backward()
    assert maps.grad is not None and maps.grad.isfinite().all() and maps.grad.abs().sum() > 0
    void = {key: torch.full_like(v, target(key).void) if key != "image" else v for key, v in batch(name).items()}
    assert criterion(maps.detach().requires_grad_(), void).item() == pytest.approx(0, abs=1e-5)


def dense() -> list[Any]:
    return [name for name in list_models() if "dense" in model_info(name).tasks]


@pytest.mark.parametrize("name", dense())
def test_every_dense_architecture_learns_depth(name: str) -> None:
    """Nothing in an architecture, its own objective included, knows what its maps mean."""
    torch.manual_seed(0)
    task = get_task("depth")
    model = create_model(name, task.channels(()), **model_info(name).small).train()
    model.criterion = task.criterion(task.info.with_loss(TrainSettings()), None)
    given = batch("depth")
    model.loss(model(given["image"]), given).backward()
    learnt = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert learnt and all(gradient.isfinite().all() for gradient in learnt)
    assert any(gradient.abs().sum() > 0 for gradient in learnt)


def test_an_architecture_of_classes_alone_says_so() -> None:
    check_fits("unet", "normals")
    with pytest.raises(TaskError, match="pointrend learns semantic, not depth"):
        check_fits("pointrend", "depth")
    with pytest.raises(TaskError, match="unknown task 'deph'; did you mean 'depth'"):
        check_fits("unet", "deph")
