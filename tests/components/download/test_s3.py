"""Downloads from a real object store, over a line that is not always good."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.download import dvc_remote, step
from components.download.fetch import Fetched, fetch
from components.errors import StepError
from components.lineage import folder_md5
from components.params import Params
from segmodels.data.folder import ClassInfo
from segmodels.data.writer import DatasetWriter
from tests.servers.line import Line
from tests.servers.swift import Swift


def get(url: str, *, sha256: str | None = None, retries: int = 3, backoff: float = 0.05) -> Fetched:
    return fetch(url, Path("cache"), sha256=sha256, retries=retries, backoff=backoff)


@pytest.fixture
def stored(swift: Swift, bucket: str, archive: bytes) -> str:
    """The address of an archive of 3 MB."""
    swift.client().put_object(Bucket=bucket.removeprefix("s3://"), Key="sets/mine.zip", Body=archive)
    return f"{bucket}/sets/mine.zip"


def test_an_archive_comes_whole_with_its_checksum(stored: str, archive: bytes) -> None:
    fetched = get(stored)
    assert fetched.path.read_bytes() == archive
    assert fetched.source == {"url": stored, "sha256": hashlib.sha256(archive).hexdigest()}


def test_everything_below_a_prefix_comes(swift: Swift, bucket: str) -> None:
    for name in ("a.txt", "deep/b.txt"):
        swift.client().put_object(Bucket=bucket.removeprefix("s3://"), Key=f"set/{name}", Body=name.encode())
    swift.client().put_object(Bucket=bucket.removeprefix("s3://"), Key="settings.txt", Body=b"another")
    folder = get(f"{bucket}/set").path
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.txt")} == {
        "a.txt": "a.txt",
        "deep/b.txt": "deep/b.txt",
    }


def test_wrong_credentials_are_told_in_one_sentence(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StepError, match=r"mine.zip: access is denied \(\w+\); set AWS_ACCESS_KEY_ID") as failed:
        get(stored)
    assert "\n" not in str(failed.value) and "wrong" not in str(failed.value)


def test_a_bucket_that_does_not_exist_is_named(bucket: str) -> None:
    with pytest.raises(StepError, match=r"s3://no-such-bucket/a.zip: there is no such bucket or object"):
        get("s3://no-such-bucket/a.zip")


def test_a_cut_connection_is_resumed_in_the_middle(stored: str, archive: bytes, line: Line) -> None:
    line.cuts = [1_000_000, 800_000]
    assert get(stored).path.read_bytes() == archive
    assert line.cuts == []
    assert line.received < 1.5 * len(archive)


def test_a_slow_server_is_waited_for(stored: str, archive: bytes, line: Line) -> None:
    line.bytes_per_second = 3e6
    assert get(stored).path.read_bytes() == archive


def test_an_object_that_changes_under_us_comes_in_its_new_version(
    stored: str, archive: bytes, line: Line, swift: Swift
) -> None:
    changed = archive[::-1]
    bucket, _, key = stored.removeprefix("s3://").partition("/")
    line.cuts = [1_000_000]
    line.on_cut = lambda: swift.client().put_object(Bucket=bucket, Key=key, Body=changed)
    assert get(stored, backoff=0.5).path.read_bytes() == changed


def test_a_store_that_is_away_for_twenty_seconds_is_waited_for(
    stored: str, archive: bytes, swift: Swift, tmp_path: Path
) -> None:
    swift.stop()
    back = threading.Timer(20, swift.start)
    back.start()
    try:
        settings = Params.parse({"models": {"enet": {}}, "data": {"source": stored}})
        step.run(settings, out=tmp_path / "data")
        assert (tmp_path / "data/dataset.json").is_file()
    finally:
        back.join()


def test_what_dvc_has_pushed_is_brought_in_exactly_that_version(
    bucket: str, tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    with DatasetWriter(tmp_path / "data", "boxes", (ClassInfo("a", (1, 2, 3)),), source={"kind": "made"}) as writer:
        import numpy as np

        for number in range(4):
            image = np.random.default_rng(number).integers(0, 256, (90, 90, 3), np.uint8)
            writer.add("train", str(number), image, np.zeros((90, 90), np.uint8))
    for arguments in (
        ("init", "--no-scm"),
        ("remote", "add", "-d", "storage", f"{bucket}/dvc"),
        ("add", "data"),
        ("push",),
    ):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)
    version = folder_md5(tmp_path / "data")
    remote = dvc_remote.Remote.at(f"{bucket}/dvc", backoff=0.05)
    assert dvc_remote.unpushed(remote, version, tmp_path / "cache") == []
    line.cuts = [12_000]
    step.run(Params.parse({"models": {"unet": {}}}), out=tmp_path / "again", remote=f"{bucket}/dvc", md5=version)
    assert folder_md5(tmp_path / "again") == version
    assert line.cuts == []


def test_a_store_that_stays_away_is_given_up_in_one_sentence(stored: str, line: Line, swift: Swift) -> None:
    swift.stop()
    try:
        with pytest.raises(StepError, match=r"no answer after 2 attempts: .*check the network and run it again"):
            get(stored, retries=1)
    finally:
        swift.start()
