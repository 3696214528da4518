"""What an archive, a folder, a manifest or a file of settings may hold, and what it must not do to who reads it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.__main__ import main
from components.download import dvc_remote
from components.download.archives import unpack
from components.errors import StepError
from segmodels.data.folder import ClassInfo, DatasetInfo
from segmodels.data.writer import DatasetWriter
from tests.segmodels.test_files import ALIASES

CLASSES = (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (200, 2, 3)))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder below `tmp_path`, so that what leaves it is seen."""
    folder = tmp_path / "very/deep/place"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SEGMODELS_CACHE", raising=False)
    return folder


def png(size: tuple[int, int] = (40, 48), value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def label(value: int = 0, size: tuple[int, int] = (40, 48)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def download(source: str, capsys: pytest.CaptureFixture[str], **data: object) -> tuple[int, str]:
    """Runs the step as a person does; gives the exit status and what it complains of."""
    Path("params.yaml").write_text(json.dumps({"models": {"enet": {}}, "data": {"source": source, **data}}))
    status = main(["download"])
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return status, "".join(line for line in lines if not line.startswith("unpacking "))


def archive(described: dict[str, Any], **more: bytes) -> None:
    """`data.zip` with a dataset folder three levels down."""
    whole = {"name": "x", "classes": [{"name": "a", "color": [1, 2, 3]}], "splits": {"train": 1}} | described
    with zipfile.ZipFile("data.zip", "w") as file:
        file.writestr("a/b/c/dataset.json", json.dumps(whole))
        file.writestr("a/b/c/train/images/1.png", png())
        file.writestr("a/b/c/train/labels/1.png", label())
        for name, content in more.items():
            file.writestr(name, content)


def files_outside(here: Path) -> list[str]:
    top = here.parents[2]
    return [str(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and not p.is_relative_to(here)]


DESCRIBED: dict[str, tuple[dict[str, Any], str]] = {
    "target out": ({"targets": ["../../../pwned"]}, "target '../../../pwned' points out of the folder"),
    "absolute target": ({"targets": ["/pwned"]}, "target '/pwned' points out of the folder"),
    "hidden target": ({"targets": [".ssh"]}, "target '.ssh' begins with a dot"),
    "target no text": ({"targets": [["x"]]}, "target ['x'] is no text"),
    "target as every split": ({"targets": ["labels"]}, "target 'labels' is a folder that every split has"),
    "sequence out": ({"sequences": {"train": {"../../x": ["1"]}}}, "sequence '../../x' points out of the folder"),
    "absolute sequence": ({"sequences": {"train": {"/x": ["1"]}}}, "sequence '/x' has an absolute name"),
    "id out": ({"sequences": {"train": {"a": ["../1"]}}}, "id '../1' points out of the folder"),
    "id no text": ({"sequences": {"train": {"a": [["1"]]}}}, "id ['1'] is no text"),
    "split of sequences out": ({"sequences": {"../train": {}}}, "split '../train' is unknown; splits are train, val"),
    "split out": ({"splits": {"../../x": 1}}, "split '../../x' is unknown; splits are train, val, test"),
    "many classes": (
        {"classes": [{"name": f"c{i}", "color": [0, 0, 0]} for i in range(256)]},
        "has 256 classes; 1 to 255 fit into labels of 8 bits",
    ),
    "nothing to learn": ({"classes": []}, "has neither classes nor further targets"),
    "class twice": ({"classes": [{"name": "a", "color": [0, 0, 0]}] * 2}, "class 'a' stands twice"),
    "classes no list": ({"classes": 7}, "not a dataset description (TypeError"),
    "infinite count": ({"splits": {"train": float("inf")}}, "not a dataset description (OverflowError"),
    "not a mapping": ({"source": 7}, "not a dataset description (TypeError"),
}


@pytest.mark.parametrize("kind", DESCRIBED)
def test_a_description_that_lies_is_refused_and_writes_nothing(
    kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described, message = DESCRIBED[kind]
    archive(described, **{"pwned/1.png": b"x"})
    status, error = download("data.zip", capsys)
    assert status == 1
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert files_outside(here) == []
    assert not Path("data").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 900 + "1" + "}" * 900, "\ufffe\x00", "9" * 6000])
def test_a_description_that_is_no_description_is_a_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("own/train/images")
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(png())
    Path("own/dataset.json").write_text(text)
    status, error = download("own", capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "dataset.json" in error


SETTINGS = {
    "aliases": f"{ALIASES}seed: *a9\n",
    "aliases as a model": f"{ALIASES}models: {{enet: {{train: {{lr: *a7}}}}}}\n",
    "deep": "models: " + "[" * 50_000,
    "binary": "models:\x00\x01\x02",
    "no mapping": "7",
    "large number": "models: {enet: {}}\nseed: 0x" + "f" * 20_000,
    "deep value": "models: {enet: {train: {lr: " + "[" * 40 + "]" * 40 + "}}}",
    "long key": "models: {enet: {}}\n? " + "x" * 100_000 + "\n: 1",
    "long key below": "models: {enet: {}}\ntrain:\n  ? " + "x" * 100_000 + "\n  : 1",
    "a model that climbs": "models: {'../../pwned': {architecture: enet}}",
    "an absolute model": "models: {/tmp/pwned: {architecture: enet}}",
    "long text": "models: {enet: {train: {lr: " + "x" * 100_000 + "}}}",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_are_more_than_they_seem_are_a_sentence(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(SETTINGS[kind])
    assert main(["download"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: params.yaml: ")
    assert error.count("\n") == 1
    assert len(error) < 600


def test_binary_settings_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_bytes(png())
    assert main(["download"]) == 1
    assert capsys.readouterr().err == "error: params.yaml: is not text in UTF-8 (byte 0)\n"


def test_a_name_that_is_no_utf8_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, content in (("images", png()), ("labels", label())):
        Path("own", kind).mkdir(parents=True)
        Path(os.fsdecode(f"own/{kind}/".encode() + b"caf\xe9.png")).write_bytes(content)
    status, error = download("own", capsys)
    assert (status, error) == (1, "error: own/labels/caf\\udce9.png: its name is not UTF-8; rename the file\n")


def test_a_name_that_is_no_utf8_in_the_dataset_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with DatasetWriter("data", "x", CLASSES, source={}) as writer:
        writer.add("train", "1", np.zeros((40, 48, 3), np.uint8), np.zeros((40, 48), np.uint8))
    Path(os.fsdecode(b"data/train/images/caf\xe9.png")).write_bytes(png())
    Path("params.yaml").write_text("models: {enet: {}}")
    assert main(["validate"]) == 1
    assert "its name is not UTF-8" in capsys.readouterr().err


def test_more_classes_than_labels_can_hold_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, content in (("images", png()), ("labels", label())):
        Path("own", kind).mkdir(parents=True)
        Path("own", kind, "1.png").write_bytes(content)
    Path("own/classes.txt").write_text("\n".join(f"class {i}" for i in range(300)))
    status, error = download("own", capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "classes.txt: names 300 classes; labels of 8 bits hold at most 255" in error
    Path("own/classes.txt").unlink()
    deep = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) % 400
    Image.fromarray(deep).save("own/labels/1.png")
    status, error = download("own", capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "labels hold 399; class ids are 0..254" in error


def test_a_list_that_names_files_elsewhere_reads_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("own/train", "own/trainannot"):
        Path(folder).mkdir(parents=True)
    Path("1.png").write_bytes(png())
    Path("own/train/1.png").write_bytes(png())
    Path("own/trainannot/1.png").write_bytes(label())
    Path("own/train.txt").write_text("train/../../1.png trainannot/1.png\n")
    status, error = download("own", capsys)
    assert status == 1
    assert "train.txt:1: train/../../1.png is not there" in error
    assert not Path("data").exists()


def test_what_is_the_users_stays_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    """With DVC's cache of hard links: it makes what it caches read-only."""
    for kind in ("images", "labels"):
        Path("photos", kind).mkdir(parents=True)
        for number in range(8):
            content = png(value=number) if kind == "images" else label(number % 2)
            Path("photos", kind, f"{number}.png").write_bytes(content)
    assert download("photos", capsys)[0] == 0
    env = {k: v for k, v in os.environ.items() if not k.startswith("DVC")}
    for command in ("init --no-scm -q", "config cache.type hardlink", "add -q data"):
        subprocess.run([sys.executable, "-m", "dvc", *command.split()], env=env, check=True, capture_output=True)
    own = [p for p in Path("photos").rglob("*") if p.is_file()]
    assert len(own) == 16
    assert {p.stat().st_nlink for p in own} == {1}
    assert all(p.stat().st_mode & 0o200 for p in own)


def test_a_dataset_folder_is_taken_over_without_links(capsys: pytest.CaptureFixture[str]) -> None:
    with DatasetWriter("own", "x", CLASSES, source={}) as writer:
        writer.add("train", "1", np.zeros((40, 48, 3), np.uint8), np.zeros((40, 48), np.uint8))
    assert download("own", capsys)[0] == 0
    assert DatasetInfo.read("data").splits == {"train": 1}
    assert {p.stat().st_nlink for p in [*Path("own").rglob("*.*"), *Path("data").rglob("*.*")] if p.is_file()} == {1}


def stored(remote: Path, manifest: bytes) -> str:
    md5 = hashlib.md5(manifest).hexdigest() + ".dir"
    target = remote / dvc_remote.object_name(md5)
    target.parent.mkdir(parents=True)
    target.write_bytes(manifest)
    return md5


MANIFESTS = {
    "path out": (b'[{"md5": "' + b"0" * 32 + b'", "relpath": "a/../../x"}]', "points out of the folder"),
    "hash out": (b'[{"md5": "../../../../x", "relpath": "x"}]', r"'\.\./\.\./\.\./\.\./x' is no md5"),
    "no hash": (b'[{"relpath": "x"}]', "None is no md5"),
    "no path": (b'[{"md5": "' + b"0" * 32 + b'"}]', "None is no path"),
    "no list": (b'{"a": 1}', "is no list of files"),
    "deep": (b"[" * 100_000, "is nested more than 64 deep"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_of_a_remote_that_lies_is_refused(kind: str, here: Path) -> None:
    manifest, message = MANIFESTS[kind]
    md5 = stored(Path("remote"), manifest)
    with pytest.raises(Exception, match=message) as refused:
        dvc_remote.fetch(dvc_remote.Remote.at("remote"), md5, Path("data"), Path("cache"))
    assert type(refused.value).__module__.startswith(("segmodels", "components"))
    assert files_outside(here) == []


def test_the_download_cache_shares_no_file_with_the_dataset() -> None:
    content = b"an image"
    md5 = hashlib.md5(content).hexdigest()
    target = Path("remote", dvc_remote.object_name(md5))
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    listing = json.dumps([{"md5": md5, "relpath": "a.png"}, {"md5": md5, "relpath": "b.png"}]).encode()
    dvc_remote.fetch(dvc_remote.Remote.at("remote"), stored(Path("remote"), listing), Path("data"), Path("cache"))
    assert Path("data/b.png").read_bytes() == content
    found = [Path("data/a.png"), Path("data/b.png"), Path("cache", md5)]
    assert {p.stat().st_nlink for p in found} == {1}


def tar(*members: tuple[str, bytes, str, bytes]) -> Path:
    with tarfile.open("a.tar", "w") as file:
        for name, kind, linkname, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, linkname, len(content)
            file.addfile(info, io.BytesIO(content))
    return Path("a.tar")


def test_links_count_as_what_they_mean() -> None:
    """Each would be copied into the dataset: a hundred links to a megabyte are a hundred megabytes."""
    links = [(f"l{i}", tarfile.SYMTYPE, "real", b"") for i in range(100)]
    with pytest.raises(StepError, match=r"brings it to 0\.0 GB unpacked, more than .* data\.max_unpacked_gb"):
        unpack(tar(("real", tarfile.REGTYPE, "", bytes(1_000_000)), *links), Path("out"), max_bytes=20_000_000)


def test_a_long_chain_of_links_is_followed_once() -> None:
    links = [(f"l{i}", tarfile.SYMTYPE, f"l{i - 1}" if i else "real", b"") for i in range(20_000)]
    unpack(tar(*reversed(links), ("real", tarfile.REGTYPE, "", b"x")), Path("out"), max_bytes=1_000_000)
    assert Path("out/l19999").read_bytes() == b"x"


def test_a_name_that_is_no_utf8_in_an_archive_is_a_sentence() -> None:
    with tarfile.open("a.tar", "w", format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("caf\udce9.png"), io.BytesIO())
    with pytest.raises(StepError, match=r"member 'caf\\udce9\.png' is not UTF-8"):
        unpack(Path("a.tar"), Path("out"), max_bytes=1000)


def test_a_link_with_a_hostile_target_is_refused() -> None:
    link = zipfile.ZipInfo("evil")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile("a.zip", "w") as file:
        file.writestr(link, "a\0b")
    with pytest.raises(StepError, match=r"member 'evil' is a link to 'a\\x00b', which has a control character"):
        unpack(Path("a.zip"), Path("out"), max_bytes=1000)
