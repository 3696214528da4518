"""Settings from `KEY=VALUE`."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from segmodels.settings.parse import SettingsError, build, parse, words
from segmodels.settings.schema import CRFSettings, EvaluateSettings, TrainSettings, merge
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
        ('epochs="12"', 'epochs is "12"; it must be a whole number'),
        ("epochs=12.0", "epochs is 12.0; it must be a whole number"),
        ("epochs=null", "epochs is null; it must be a whole number"),
        ("lr=true", "lr is true; it must be a number"),
        ('lr="0.1"', 'lr is "0.1"; it must be a number'),
        ("lr=NaN", "lr is nan; it must be a finite number"),
        ("lr=[1]", "lr is [1]; it must be a number"),
        ("decay_norms=1", "decay_norms is 1; it must be true or false"),
        ("decay_norms=yes", 'decay_norms is "yes"; it must be true or false'),
        ("compile=1", "compile is 1; it must be true or false or auto"),
        ("workers=true", "workers is true; it must be a whole number of at least 0 or auto"),
        ("workers=many", 'workers is "many"; it must be a whole number of at least 0 or auto'),
        ("weights=3", "weights is 3; it must be text or null"),
        ("loss=dice", 'loss is "dice"; it must be a mapping'),
        ("loss.dice=much", 'loss.dice is "much"; it must be a number'),
        ("lr_factors.a.b=2", "lr_factors.a is a mapping of 1 keys; it must be a number"),
        ("milestones=5", "milestones is 5; it must be [a whole number of at least 1, …]"),
        ("milestones=[5,true]", "milestones.1 is true; it must be a whole number"),
        ("stages=[3]", "stages.0 is 3; it must be a mapping"),
        ("augment.extra.Blur=3", "augment.extra.Blur is 3; it must be a mapping"),
        ("augment.flip=2", "augment.flip is 2; it must be a number of at least 0 and of at most 1"),
        ("augment.scale=[2,1]", "augment.scale is [2.0, 1.0]; give [smallest, largest] factor"),
        ("lr=fast", 'lr is "fast"; it must be a number'),
        ("optimizer=adams", 'optimizer is "adams"; it must be one of adamw, adam, sgd, rmsprop'),
        (
            "augment.crop=192",
            "augment.crop is 192; it must be [a whole number of at least 1, a",
        ),
        ("image_size=x", "a whole number of at least 1] or null"),
        ("augment.crop=[1,2,3]", "augment.crop is [1, 2, 3]; it must be"),
        ("augment.crop=[1,true]", "augment.crop is [1, True]; it must be [a whole number"),
        ("augment=3", "augment is 3; it must be a mapping"),
        ("augment=null", "augment is null; it must be a mapping"),
        ("epochs=0", "epochs is 0; it must be a whole number of at least 1"),
        ("lr", "'lr': give KEY=VALUE"),
        ("=1", "'=1': give KEY=VALUE"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(pair: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
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


def test_a_value_and_a_section_of_one_name_contradict() -> None:
    with pytest.raises(SettingsError, match="augment has a value of its own"):
        parse(["augment=1", "augment.flip=0"])


def test_an_unknown_setting_is_told_before_all_others_and_what_is_like_none_with_the_list() -> None:
    with pytest.raises(SettingsError, match=r"^unknown setting 'epoch'; did you mean 'epochs'"):
        build(TrainSettings, {"lr": "fast", "epoch": 3})
    with pytest.raises(SettingsError, match=r"^unknown setting 'crf.q'; known are bilateral_rgb, bilateral_weight, "):
        build(EvaluateSettings, {"crf": {"q": 1}})
    with pytest.raises(SettingsError, match=r"^unknown setting '5'; known are "):
        build(EvaluateSettings, {5: 1})  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match=r"^loss has the key 5; a key must be text$"):
        build(TrainSettings, {"loss": {5: 1.0}})


def test_a_message_names_its_source_and_stays_short_whatever_is_given() -> None:
    with pytest.raises(SettingsError, match=r"^crf.json: iterations is 0; it must be"):
        build(CRFSettings, {"iterations": 0}, "crf.json")
    for value in ("x" * 10**6, 10**5000, list(range(10**5)), {str(i): i for i in range(10**4)}, b"x" * 10**6):
        with pytest.raises(SettingsError, match=r"^lr is .*; it must be a number above 0$") as error:
            build(TrainSettings, {"lr": value})
        assert len(str(error.value)) < 150
    with pytest.raises(SettingsError) as error:
        build(TrainSettings, {"x" * 10**6: 1})
    assert len(str(error.value)) < 1000


def test_an_annotation_in_words() -> None:
    assert words(int | None) == "a whole number or null"
    assert words(dict[str, float] | Literal["auto"], quote="`") == "a mapping {text: a number, …} or `auto`"
    assert words(tuple[bool, ...]) == "[true or false, …]"
    assert words(Annotated[int | None, Field(ge=1, le=9)]) == "a whole number of at least 1 and of at most 9 or null"
    assert words(Annotated[str, Field(pattern="^a$")], quote="`") == "text that matches `^a$`"
    assert (
        words(Annotated[dict[str, int], Field(min_length=1)])
        == "a mapping {text: a whole number, …} with a length of at least 1"
    )
