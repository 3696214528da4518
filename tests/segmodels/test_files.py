"""What comes from outside: names that become paths, and content that could be more than it seems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segmodels import files
from segmodels.data.folder import DatasetError, samples
from segmodels.errors import shown

NAMES = ["../x", "a/b", "a\\b", "..", ".", "", " ", ".hidden", "a\nb", "a\0b", "x" * 300, "\udcff", 7, None, ["x"]]
PATHS = ["../x", "/x", "a/../../x", "c:x", "\\x", "a\\..\\..\\x", "a/\0", "", "x/" * 40 + "x", "a/\udcff", 7, None]


@pytest.mark.parametrize("given", NAMES)
def test_a_name_that_would_lead_elsewhere_is_refused(given: object) -> None:
    with pytest.raises(files.NameRefusedError, match=r"^d: target ") as refused:
        files.name(given, "d: target")
    str(refused.value).encode()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", PATHS)
def test_a_path_that_leaves_its_folder_is_refused(given: object) -> None:
    with pytest.raises(files.NameRefusedError, match=r"^key ") as refused:
        files.relative(given, "key")
    str(refused.value).encode()


def test_ordinary_names_are_taken_as_they_are() -> None:
    for given in ("depth", "0001", "Straße 7", "a..b", "城", "x" * 255):
        assert files.name(given, "id") == given
    for given in ("a", "a/b/c.png", "a/.git/x", "./a", "a b/ü"):
        assert not os.fspath(files.relative(given, "key")).startswith(("/", "."))


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k0: 1, k1: 1}\n" + "".join(
    f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}, z: *a{i - 1}}}\n" for i in range(1, 40)
)
YAML: dict[str, tuple[str | bytes, str]] = {
    "aliases": (ALIASES, "has more than 100000 values, its aliases written out"),
    "merges": (MERGES, "has more than 100000 values, its aliases written out"),
    "circle": ("a: &a [*a]", "the alias \\*a lies in what it stands for"),
    "deep": ("[" * 200_000, "is nested more than 64 deep"),
    "indented": ("".join(" " * i + "k:\n" for i in range(500)), "is nested more than 64 deep"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", r"is not text in UTF-8 \(byte 0\)"),
    "control": (b"a: \x00\x01", "not valid YAML"),
    "large": ("a: 1\n" * 300_000, "has more than 1024 kB"),
    "digits": ("a: " + "9" * 100_000, "not valid YAML"),
    "tags": ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
    "keys": ("? [a, b]\n: 1", "not valid YAML"),
}


def test_a_key_that_stands_twice_is_refused_and_one_that_is_merged_is_not(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train:\n  lr: 0.1\n  epochs: 2\n  lr: 0.2\n")
    with pytest.raises(files.ContentError, match=r"params.yaml:4: key 'lr' stands in line 2, too"):
        files.read_yaml(path)
    path.write_text("base: &b {lr: 0.1}\nmine:\n  <<: *b\n  lr: 0.2\n")
    assert files.read_yaml(path)["mine"] == {"lr": 0.2}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_that_is_more_than_it_seems_is_told_in_a_sentence(kind: str, tmp_path: Path) -> None:
    content, message = YAML[kind]
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(files.ContentError, match=message) as refused:
        files.read_yaml(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_aliases_are_allowed_as_long_as_they_stay_small(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("\ufeffbase: &base {lr: 0.1}\na: {<<: *base, n: 2}\nb: *base\n")
    assert files.read_yaml(path) == {"base": {"lr": 0.1}, "a": {"lr": 0.1, "n": 2}, "b": {"lr": 0.1}}


JSON: dict[str, tuple[str | bytes, str]] = {
    "deep": ("[" * 100_000, "is nested more than 64 deep"),
    "deep but read": ('{"a":' * 500 + "1" + "}" * 500, "is nested more than 64 deep"),
    "binary": (b"\xff\xd8\xff", "is not text in UTF-8"),
    "cut": ('{"a": 1', "not JSON"),
    "digits": ("9" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("kind", JSON)
def test_json_that_is_more_than_it_seems_is_told_in_a_sentence(kind: str, tmp_path: Path) -> None:
    content, message = JSON[kind]
    path = tmp_path / "model.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(files.ContentError, match=message):
        files.read_json(path)


def test_a_copy_shares_no_file_with_its_source(tmp_path: Path) -> None:
    source, target = tmp_path / "mine", tmp_path / "copy"
    source.write_bytes(os.urandom(3_000_000))
    source.chmod(0o400)
    files.copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_ino != source.stat().st_ino
    target.write_bytes(b"changed")
    assert source.stat().st_size == 3_000_000


def test_a_value_in_a_message_is_short_whatever_it_is() -> None:
    huge: list = ["x"]
    for _ in range(60):
        huge = [huge, huge]
    assert shown(huge) == "a list of 2 entries"
    assert shown({"a": huge}) == "a mapping of 1 keys"
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(10**5000) == "a number of more than 80 digits"
    assert len(shown("x" * 10**7)) == 80


@pytest.mark.parametrize("split", ["../data/train", "train/../val", "/tmp", "labels"])
def test_a_split_of_another_name_is_none(tmp_path: Path, split: str) -> None:
    for name in ("train", "val"):
        (tmp_path / "data" / name / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no such split; the dataset has train, val"):
        samples(tmp_path / "data", split)
