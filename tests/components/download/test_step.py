"""`download` brings every kind of source to the same dataset folder, or says in one sentence why not."""

from __future__ import annotations

import filecmp
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.download import step
from components.errors import StepError
from components.lock import only_one
from components.params import Params
from segmodels.data.folder import DatasetError, DatasetInfo, samples
from tests.samples import KITTI, needs_kitti

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Params]


@pytest.fixture
def unpacked(archive: bytes, tmp_path: Path) -> Path:
    """The data of `archive` as a folder."""
    (tmp_path / "mine.zip").write_bytes(archive)
    with zipfile.ZipFile(tmp_path / "mine.zip") as file:
        file.extractall(tmp_path / "source")
    return tmp_path / "source/mine"


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {".cache", "mine.zip", "source"}


def test_a_folder_becomes_the_dataset_folder_with_its_images_as_they_were(params: Make, unpacked: Path) -> None:
    result = step.run(params(source=str(unpacked), licence="mine alone"), out=Path("data"))
    assert (result.format, result.name, sum(result.splits.values())) == (
        "folder",
        "mine",
        12,
    )
    for split in result.splits:
        for sample in samples("data", split):
            assert filecmp.cmp(sample.image, unpacked / "images" / sample.image.name, shallow=False)
    assert dict(DatasetInfo.read("data").source) == {
        "path": str(unpacked),
        "licence": "mine alone",
    }
    assert left(Path()) == {"data"}


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
def test_a_local_archive_is_unpacked_and_its_checksum_recorded(params: Make, unpacked: Path, kind: str) -> None:
    packed = shutil.make_archive("packed", kind, unpacked.parent)
    result = step.run(params(source=packed), out=Path("data"))
    assert sum(result.splits.values()) == 12
    assert DatasetInfo.read("data").source["sha256"] == hashlib.sha256(Path(packed).read_bytes()).hexdigest()
    assert left(Path()) == {"data", Path(packed).name}


def test_the_generator_writes_as_many_frames_as_it_is_told(params: Make) -> None:
    wanted = {"train": 2, "val": 1, "test": 1, "height": 48, "width": 64, "targets": ["depth"]}
    result = step.run(params(streets=wanted), out=Path("data"))
    assert (result.format, dict(result.splits)) == ("streets", {"train": 2, "val": 1, "test": 1})
    assert DatasetInfo.read("data").targets == {"depth": {"unit": "m", "scale": 0.01}}


def test_an_address_gives_the_same_dataset_as_the_folder(params: Make, unpacked: Path, server: Any) -> None:
    server.cuts = [500_000]
    step.run(params(source=server.url), out=Path("data"))
    step.run(params(source=str(unpacked)), out=Path("again"))
    assert DatasetInfo.read("data").source["url"] == server.url
    found = [sorted(p.relative_to(d) for p in Path(d).rglob("*.png")) for d in ("data", "again")]
    assert found[0] == found[1]


@needs_kitti
def test_a_public_format_in_an_archive_is_recognised(params: Make, tmp_path: Path) -> None:
    packed = shutil.make_archive("data_road", "zip", KITTI)
    assert step.run(params(source=packed), out=Path("data")).format == "kitti_road"


def test_a_hostile_archive_leaves_the_dataset_that_was_there(params: Make, unpacked: Path) -> None:
    step.run(params(source=str(unpacked)), out=Path("data"))
    with zipfile.ZipFile("hostile.zip", "w") as file:
        file.write(unpacked / "images/0.png", "images/0.png")
        file.writestr("../../evil.png", b"x")
    with pytest.raises(
        StepError,
        match=r"hostile.zip: refused, .*'../../evil.png' points out of the archive",
    ):
        step.run(params(source="hostile.zip"), out=Path("data"))
    assert DatasetInfo.read("data").name == "mine"
    assert left(Path()) == {"data", "hostile.zip"}


def test_a_wrong_checksum_is_refused_before_anything_is_unpacked(params: Make, unpacked: Path) -> None:
    with pytest.raises(
        StepError,
        match=r"mine.zip: its sha256 is [0-9a-f]{64}, but data.sha256 wants ffff",
    ):
        step.run(params(source="mine.zip", sha256="f" * 64), out=Path("data"))
    assert left(Path()) == set()


def test_an_image_without_a_label_is_named_and_nothing_is_left(params: Make, unpacked: Path) -> None:
    (unpacked / "labels/7.png").unlink()
    with pytest.raises(DatasetError, match=r"images/7.png: has no label"):
        step.run(params(source=str(unpacked)), out=Path("data"))
    assert left(Path()) == set()


def test_two_runs_at_once_are_one_sentence(params: Make, unpacked: Path) -> None:
    with (
        only_one(Path("data")),
        pytest.raises(StepError, match=r"data: another run is writing it"),
    ):
        step.run(params(source=str(unpacked)), out=Path("data"))
    step.run(params(source=str(unpacked)), out=Path("data"))


LIMITED = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from components.download import step
    from components.errors import StepError
    from components.params import Params
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        step.run(Params.model_validate({"models": {"enet": {}}, "data": {"source": sys.argv[1]}}), out=Path("data"))
    except StepError as error:
        print("error:", error)
    """
)


@pytest.mark.parametrize("limit", [100_000, 1_000_000])
def test_a_file_that_the_disk_cannot_take_is_one_sentence(params: Make, server: Any, limit: int) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, server.url, str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "the disk is full" in done.stdout
    assert done.stdout.count("\n") == 1
    assert left(Path()) == set()
    step.run(params(source=server.url), out=Path("data"))
    assert [request.status for request in server.requests] == [200, 206], "the part that fitted was kept"


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"),
    reason="needs a small file system of its own",
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(params: Make, unpacked: Path) -> None:
    small = Path("small")
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        for source in (str(unpacked), "mine.zip"):
            with pytest.raises(
                StepError,
                match=r"(the disk is full|needs 3.* MB, but the disk).*free some space",
            ):
                step.run(params(source=source), out=small / "data")
            assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
