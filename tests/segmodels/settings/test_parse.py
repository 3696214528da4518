"""Settings from `KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segmodels.settings.parse import OverrideError, build, parse
from segmodels.settings.schema import EvaluateSettings, TrainSettings, merge
from segmodels.tasks import task_info
from segmodels.tasks.base import TaskError


def settings(*pairs: str) -> TrainSettings:
    return build(TrainSettings, parse(pairs))


def test_values_are_json_and_else_text() -> None:
    assert parse(["a=1", "b.c=0.5", "b.d=[1, 2]", "e=poly", "f=", "g=x=y"]) == {
        "a": 1, "b": {"c": 0.5, "d": [1, 2]}, "e": "poly", "f": "", "g": "x=y",
    }  # fmt: skip
    assert parse(["a=True", "b=None", "c=null"]) == {"a": True, "b": None, "c": None}


def test_values_get_the_types_of_the_settings() -> None:
    made = settings("lr=1", "augment.crop=[192, 256]", "clip=null", "precision=32", "devices=2", "augment.scale=[1, 2]")
    assert (made.lr, made.augment.crop, made.clip, made.precision, made.devices) == (1.0, (192, 256), None, "32", 2)
    assert isinstance(made.lr, float)
    assert isinstance(made.augment.scale[0], float)
    assert settings("devices=auto").devices == "auto"
    assert settings() == TrainSettings()


def test_a_loss_that_is_given_replaces_the_default() -> None:
    base = {"loss": {"cross_entropy": 1.0}, "augment": {"flip": 0.5, "color": 0.2}}
    over = parse(["loss.dice=0.5", "augment.flip=0"])
    assert merge(base, over) == {"loss": {"dice": 0.5}, "augment": {"flip": 0, "color": 0.2}}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("augment.colour=1", "unknown setting 'augment.colour'; did you mean 'color'?"),
        ("epochs=1.5", "epochs is 1.5; it must be a whole number"),
        ("epochs=true", "epochs is true; it must be a whole number"),
        ("lr=fast", 'lr is "fast"; it must be a number'),
        ("optimizer=adams", 'optimizer is "adams"; it must be one of adamw, adam, sgd, rmsprop'),
        ("augment.crop=192", "augment.crop is 192; it must be [a whole number, a whole number] or null"),
        ("augment.crop=[1,2,3]", "augment.crop is [1, 2, 3]; it must be"),
        ("augment=3", "augment is 3; it must be a mapping"),
        ("epochs=0", "train.epochs is 0; it is at least 1"),
        ("lr", "'lr': give KEY=VALUE"),
        ("=1", "'=1': give KEY=VALUE"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(pair: str, message: str) -> None:
    with pytest.raises(OverrideError) as error:
        settings(pair)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_terms_of_the_loss_are_those_of_the_task_and_none_are_those_that_it_has_by_default() -> None:
    info = task_info("semantic")
    with pytest.raises(TaskError) as error:
        info.with_loss(settings("loss.dise=1"))
    assert str(error.value) == "train.loss: unknown term 'dise'; known are cross_entropy, focal, dice, lovasz, ohem"
    assert info.with_loss(settings()) == settings("loss.cross_entropy=1")
    assert info.with_loss(settings("loss.dice=0.5")).loss == {"dice": 0.5}


def test_a_precision_may_be_a_number() -> None:
    assert TrainSettings(precision=32) == TrainSettings(precision="32") != TrainSettings()
    for given in (64, "64", 8.5):
        with pytest.raises(ValueError, match=rf"^train\.precision is {given}; it is one of auto, 32, bf16, 16$"):
            TrainSettings(precision=given)  # type: ignore[arg-type]


def test_a_value_and_a_section_of_one_name_contradict() -> None:
    with pytest.raises(OverrideError, match="augment has a value of its own"):
        parse(["augment=1", "augment.flip=0"])


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (lambda: TrainSettings(loss={"cross_entropy": float("nan")}), "train.loss.cross_entropy is nan"),
        (lambda: TrainSettings(weight_decay=float("inf")), "train.weight_decay is inf"),
        (lambda: EvaluateSettings(scales=(1.0, float("nan"))), "evaluate.scales is nan"),
    ],
)
def test_numbers_that_are_none_are_refused(made: Callable[[], object], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        made()
