"""`make pin-images`, against a stand-in for a registry that asks for a token, as public ones do."""

from __future__ import annotations

import base64
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from infra.images import pin

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64


@dataclass
class Registry:
    address: str = ""
    versions: dict[str, str] = field(default_factory=lambda: {"team/app:1.2.3": NEW})
    login: str | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def registry(monkeypatch, tmp_path) -> Iterator[Registry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.login and self.headers["Authorization"] != f"Basic {state.login}":
                return self.answer(401)
            return self.answer(200, json.dumps({"token": "abc"}).encode())

        def do_HEAD(self) -> None:
            if self.headers["Authorization"] != "Bearer abc":
                realm = (
                    f'Bearer realm="http://{state.address}/token",service="registry",scope="repository:team/app:pull"'
                )
                return self.answer(401, headers={"WWW-Authenticate": realm})
            path, _, tag = self.path.removeprefix("/v2/").partition("/manifests/")
            digest = state.versions.get(f"{path}:{tag}")
            return self.answer(200, headers={"Docker-Content-Digest": digest}) if digest else self.answer(404)

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture
def manifests(registry, monkeypatch, tmp_path) -> Path:
    """A tree like infra/ whose images are in that registry."""
    for folder in ("images", "k8s/overlays/production"):
        (tmp_path / "infra" / folder).mkdir(parents=True)
    (tmp_path / "infra/images/Dockerfile").write_text(f"ARG BASE={registry.address}/team/app:1.2.3@{OLD}\n")
    (tmp_path / "infra/compose.yaml").write_text(f"image: {registry.address}/team/app:1.2.3\nother: segmodels:0.1.0\n")
    (tmp_path / "infra/k8s/overlays/production/kustomization.yaml").write_text(
        f"images:\n  - name: app\n    newName: {registry.address}/team/app\n    newTag: 1.2.3\n"
        "  - name: mine\n    newName: registry.example.com/mine\n    newTag: 0.1.0\n"
    )
    monkeypatch.setattr(pin, "INFRA", tmp_path / "infra")
    return tmp_path / "infra"


def test_every_version_gets_its_digest_and_a_second_time_changes_nothing(registry, manifests, capsys):
    assert pin.main(["--check"]) == 1
    assert "Dockerfile: is not pinned to that" in capsys.readouterr().err
    assert pin.main([]) == 0
    app = f"{registry.address}/team/app"
    assert (manifests / "images/Dockerfile").read_text() == f"ARG BASE={app}:1.2.3@{NEW}\n"
    assert (manifests / "compose.yaml").read_text() == f"image: {app}:1.2.3@{NEW}\nother: segmodels:0.1.0\n"
    written = yaml.safe_load((manifests / "k8s/overlays/production/kustomization.yaml").read_text())
    assert written["images"] == [
        {"name": "app", "newName": app, "newTag": "1.2.3", "digest": NEW},
        {"name": "mine", "newName": "registry.example.com/mine", "newTag": "0.1.0"},
    ]
    assert pin.main(["--check"]) == 0


def test_a_version_that_is_not_there_is_named_and_its_file_left_alone(registry, manifests, capsys):
    registry.versions.clear()
    before = (manifests / "compose.yaml").read_text()
    assert pin.main([]) == 1
    assert "team/app:1.2.3: localhost" in capsys.readouterr().err
    assert (manifests / "compose.yaml").read_text() == before


def test_a_registry_that_does_not_answer_is_named(registry):
    with pytest.raises(pin.PinError, match="team/app:1: localhost:1 does not answer"):
        pin.digest("localhost:1/team/app", "1")


def test_the_credentials_of_docker_login_are_used(registry, tmp_path):
    registry.login = base64.b64encode(b"me:secret").decode()
    (tmp_path / "docker").mkdir()
    kept = {"auths": {registry.address: {"auth": registry.login}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(kept))
    assert pin.digest(f"{registry.address}/team/app", "1.2.3") == NEW
    assert "scope=repository%3Ateam%2Fapp%3Apull" in registry.asked[-1]


def test_every_image_of_others_is_pinned_by_digest_in_git():
    found = [match for path in pin.files() for match in pin.REFERENCE.finditer(path.read_text())]
    assert {re.sub(r".*/", "", match["name"]) for match in found} == {"python", "postgres", "seaweedfs"}
    assert all(match["digest"] for match in found)
