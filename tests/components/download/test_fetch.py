"""Downloads over a real, unreliable server."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from components.download import http
from components.download.fetch import Fetched, fetch
from components.errors import StepError
from tests.servers import ports

CACHE = Path("cache")


def get(url: str, *, sha256: str | None = None, retries: int = 2) -> Fetched:
    return fetch(url, CACHE, sha256=sha256, retries=retries, backoff=0.01)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_comes_whole_with_its_checksum(server: Any) -> None:
    fetched = get(server.url, sha256=digest(server.content))
    assert fetched.path.read_bytes() == server.content
    assert fetched.source == {"url": server.url, "sha256": digest(server.content)}


def test_a_cut_connection_is_resumed_in_the_middle(server: Any) -> None:
    server.cuts = [1_000_000, 700_000]
    assert get(server.url).path.read_bytes() == server.content
    assert [request.status for request in server.requests] == [200, 206, 206]
    assert server.sent == pytest.approx(len(server.content), abs=600_000)  # a reset drops what is under way
    assert server.requests[1].headers["If-Range"] == '"one"'


def test_a_later_run_goes_on_where_the_first_one_gave_up(server: Any) -> None:
    server.cuts = [len(server.content) // 2]
    with pytest.raises(StepError, match=r"cut.* are kept, and the next run goes on from there"):
        get(server.url, retries=0)
    before = server.sent
    assert get(server.url).path.read_bytes() == server.content
    assert server.sent - before < 0.8 * len(server.content)


def test_a_part_of_another_version_is_not_continued(server: Any, archive: bytes) -> None:
    server.cuts = [1_000_000]
    with pytest.raises(StepError):
        get(server.url, retries=0)
    server.content, server.etag = archive[::-1], '"two"'
    assert get(server.url).path.read_bytes() == archive[::-1]
    assert server.requests[-1].status == 200


def test_a_server_that_ignores_ranges_starts_anew(server: Any) -> None:
    server.cuts, server.ranges = [1_000_000], False
    assert get(server.url).path.read_bytes() == server.content


def test_without_a_version_only_a_known_checksum_lets_a_part_be_continued(
    server: Any,
) -> None:
    server.etag = None
    server.cuts = [1_000_000]
    assert get(server.url).path.read_bytes() == server.content
    assert [request.status for request in server.requests] == [200, 200]
    next(CACHE.glob("*mine.zip")).unlink()
    server.cuts = [1_000_000]
    assert get(server.url, sha256=digest(server.content)).path.read_bytes() == server.content
    assert [request.status for request in server.requests[2:]] == [200, 206]


def test_a_busy_server_is_asked_again(server: Any) -> None:
    server.statuses = [503, 500]
    assert get(server.url).path.read_bytes() == server.content
    assert [request.status for request in server.requests] == [503, 500, 200]


def test_a_server_that_stays_busy_is_given_up_in_one_sentence(server: Any) -> None:
    server.statuses = [503] * 9
    with pytest.raises(
        StepError,
        match=r"mine.zip: cannot be downloaded after 3 attempts: the server answers 503",
    ):
        get(server.url)


@pytest.mark.parametrize(
    "status, advice",
    [(404, "no such file"), (403, "access is denied"), (401, "wants a login")],
)
def test_a_refusal_is_not_tried_again(server: Any, status: int, advice: str) -> None:
    server.statuses = [status] * 9
    with pytest.raises(StepError, match=rf"mine.zip: the server answers {status} .*{advice}"):
        get(server.url)
    assert len(server.requests) == 1


def test_a_file_that_did_not_change_is_not_downloaded_again(server: Any) -> None:
    get(server.url)
    assert get(server.url).path.read_bytes() == server.content
    assert [request.status for request in server.requests] == [200, 304]


def test_a_file_that_changed_is_downloaded_again(server: Any) -> None:
    get(server.url)
    server.content, server.etag = b"new", '"two"'
    assert get(server.url).path.read_bytes() == b"new"


def test_a_file_with_the_right_checksum_needs_no_network(server: Any) -> None:
    get(server.url)
    get(server.url, sha256=digest(server.content))
    assert len(server.requests) == 1


def test_a_wrong_checksum_names_both_sums_and_keeps_the_file_aside(server: Any) -> None:
    wrong = "0" * 64
    with pytest.raises(
        StepError,
        match=rf"its sha256 is {digest(server.content)}, but data.sha256 wants {wrong}",
    ):
        get(server.url, sha256=wrong)
    assert [p.suffix for p in CACHE.glob("*mine.zip*") if p.suffix != ".json"] == [".mismatch"]
    assert get(server.url, sha256=digest(server.content)).path.read_bytes() == server.content
    assert len(server.requests) == 1, "the file that was put aside is the right one"


def test_no_network_is_one_sentence() -> None:
    with pytest.raises(
        StepError,
        match=r"after 3 attempts: the connection is refused; check the network",
    ) as failed:
        get(f"http://127.0.0.1:{ports.free()}/a.zip")
    assert "\n" not in str(failed.value)


def test_a_name_that_does_not_resolve_is_one_sentence() -> None:
    with pytest.raises(StepError, match=r"the name cannot be resolved|proxy|answers"):
        get("http://no-such-host.invalid/a.zip", retries=0)


@pytest.mark.timeout(120)
def test_a_server_that_falls_silent_is_tried_again(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.download.transfer import LineError

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ask = http.opener(f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip", timeout=(0.2, 0.2))
        with pytest.raises(LineError, match="no answer in time"):
            ask(0, None, False)


def test_an_s3_server_that_is_away_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports.free()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(
        StepError,
        match=r"s3://bucket/a.zip: no answer after 2 attempts: no connection to http",
    ) as failed:
        get("s3://bucket/a.zip", retries=1)
    assert "\n" not in str(failed.value)


def test_passwords_and_signatures_are_neither_printed_nor_recorded() -> None:
    url = "https://me:pass@host:8080/a.zip?X-Amz-Signature=abc&versionId=3&X-Amz-Security-Token=def#x"
    assert http.shown(url) == "https://host:8080/a.zip?versionId=3"


def test_an_unknown_scheme_or_a_missing_file_is_named() -> None:
    with pytest.raises(StepError, match=r"ftp:// is not known"):
        get("ftp://host/a.zip")
    with pytest.raises(StepError, match=r"no/such.zip: no such file or folder"):
        get("no/such.zip")


def test_a_file_address_is_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "a b.zip").write_bytes(b"x")
    assert get((tmp_path / "a b.zip").as_uri(), sha256=digest(b"x")).path == tmp_path / "a b.zip"
