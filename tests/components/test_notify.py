"""Who wants to know of a failed run is told, and where that fails nothing else does."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from components import notify
from tests.servers import ports


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What an address is told."""
    heard: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(notify.VARIABLE, f"http://127.0.0.1:{server.server_port}/hook")
        yield heard
        server.shutdown()


def test_the_last_task_tells_of_a_failure_and_of_nothing_else(told, monkeypatch, capsys):
    from kfp import dsl

    from pipeline.finish import finish

    monkeypatch.setenv("KFP_RUN_ID", "r1")
    for state, message in (("SUCCEEDED", ""), ("FAILED", "validate failed")):
        status = dsl.PipelineTaskFinalStatus(
            state=state,
            pipeline_job_resource_name="nightly-7",
            pipeline_task_name="steps",
            error_code=0,
            error_message=message,
        )
        finish.python_func(status=status)
    assert told == [{"text": "nightly-7 ended as FAILED: validate failed; python -m pipeline status r1"}]
    assert "the run ended as FAILED: validate failed" in capsys.readouterr().out


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/secret-hook", "no address"])
def test_an_address_that_does_not_take_it_is_not_shown_and_stops_nothing(address: str, monkeypatch, capsys):
    monkeypatch.setenv(notify.VARIABLE, address.format(port=ports.free()))
    notify.tell("a")
    said = capsys.readouterr().out
    assert said.startswith("nobody could be told: SEGMODELS_NOTIFY_URL does not take it (") and "hook" not in said


def test_without_an_address_nobody_is_told(monkeypatch, capsys):
    monkeypatch.delenv(notify.VARIABLE, raising=False)
    notify.tell("a")
    assert capsys.readouterr().out == ""
