"""A person promotes in MLflow's UI and `segmodels serve` follows: a real browser, MLflow's server, PostgreSQL.

With `SCREENSHOTS=docs` the pictures of the documentation are written, from models that are trained a little longer.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from components.__main__ import main as by_hand
from segmodels.data.streets import render
from tests.segmodels.serving.running import Server, encoded, serving
from tests.servers import mlflow as mlflow_server
from tests.servers.line import Line, line_to
from tests.servers.postgres import Postgres

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the UI is not tested")

ROOT = Path(__file__).resolve().parents[2]
NAME = "streets"
SCREENSHOTS = os.environ.get("SCREENSHOTS")
FRAMES = {"train": 24, "val": 2, "test": 8}
EPOCHS = (2, 60) if SCREENSHOTS else (1, 4)
# Models that have seen so little are good for little: what counts here is that the second is better.
LENIENT = {
    "miou": {"floor": 0.0},
    "iou/*": {"loss": 1.0},
    "boundary_f1": {"loss": 1.0},
    "ece": {"loss": 1.0},
    "ms_per_image": {"times": 100.0},
}


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's server on PostgreSQL; gives its address."""
    with mlflow_server.serving(tmp_path_factory.mktemp("mlflow"), postgres.create("promotion")) as running:
        yield running.url


def steps(epochs: int) -> dict[str, Any]:
    """Trains a U-Net and registers it; gives `register.json`."""
    settings = {
        "data": {"source": "streets", "streets": {**FRAMES, "height": 96, "width": 128}},
        "train": {"epochs": epochs, "batch_size": 2, "precision": "32"},
        "models": {"unet": {"options": {"width": 8, "batch_norm": True}}},
        "register": {"experiment": NAME, "model_name": NAME, "rules": LENIENT},
    }
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    first = [] if Path("data").exists() else [["download"], ["validate"]]
    one = ["--model", "unet"]
    for step in (*first, ["train", *one, "--no-tracking"], ["evaluate", *one], ["register"]):
        assert by_hand(step) == 0
    registered: dict[str, Any] = json.loads(Path("outputs/register.json").read_text())
    return registered


@pytest.fixture(scope="module")
def registry(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Version 1 is the champion, version 2 the challenger."""
    from components import promotion
    from components.tracking import Store

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("project"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        few, more = EPOCHS
        assert steps(few)["challenger"] == "unet"
        store = Store(None)
        promotion.promote(store, NAME, "1", why="the first one")
        registered = steps(more)
        assert registered["challenger"] == "unet", registered["versions"]
        yield store


@pytest.fixture
def page(browser: Any, registry: Any, server: str) -> Iterator[Any]:
    """The page of the challenger's version, reached as a person reaches it, without MLflow's own panels."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{server}/#/models/{NAME}")
    for panel in ("Close", "Toggle sidebar"):
        with contextlib.suppress(sync_api.TimeoutError):
            page.get_by_role("button", name=panel, exact=True).first.click(timeout=5000)
    page.get_by_role("link", name="Version 2").click()
    page.get_by_text("Gate: passed", exact=True).wait_for()
    yield page
    context.close()


@pytest.fixture(scope="module")
def line(server: str) -> Iterator[Line]:
    """The way of `segmodels serve` to MLflow, which can be cut."""
    with line_to(server) as made:
        yield made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `segmodels serve` keeps what it downloads."""
    return tmp_path_factory.mktemp("cache")


@contextlib.contextmanager
def served(line: Line, cache: Path, log: str) -> Iterator[Server]:
    """`segmodels serve` of the champion."""
    environment = {"MLFLOW_TRACKING_URI": line.url, "SEGMODELS_CACHE": str(cache)}
    with serving(f"models:/{NAME}@champion", cache / log, "--poll=0.5", **environment) as running:
        running.wait(running.is_ready)
        yield running


def answering(running: Server) -> str:
    """The version that predicts an image now."""
    image = encoded(render(0, "test", 0, height=96, width=128).image)
    reply = running.ask("/predict", image)
    assert reply.status == 200, reply.body
    return reply.model[1]


def screenshot(page: Any, name: str, height: int) -> None:
    if SCREENSHOTS:
        page.set_viewport_size({"width": 1280, "height": height})
        page.get_by_role("heading", name="Version 2", exact=True).scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.quantize(128).save(ROOT / SCREENSHOTS / name, optimize=True)


def pipeline(server: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MLFLOW_TRACKING_URI": server, "MLFLOW_TRACKING_USERNAME": "ada"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def champion(registry: Any, line: Line, cache: Path) -> Iterator[Server]:
    with served(line, cache, "serve.log") as running:
        yield running


def test_a_person_reads_the_card_and_promotes_in_the_ui_the_shell_rolls_back_and_the_server_follows(
    page: Any, registry: Any, server: str, champion: Server
) -> None:
    assert answering(champion) == "1"

    # The card, as the browser shows it.
    text = page.locator("body").inner_text()
    for told in (
        "better than the champion (version 1)",
        "Against the champion",
        "more than noise",
        "Limits",
        "Lineage",
    ):
        assert told in text, told
    assert "|---" not in text and "&emsp;" not in text, "tables are tables"
    pictures = page.locator("img[src^=get-artifact]")
    assert pictures.count() == 3
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("picture => picture.decode()")
        assert picture.evaluate("picture => picture.naturalWidth") > 500
    screenshot(page, "mlflow-card.png", 1900)

    # The act.
    page.get_by_title("Edit aliases").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").fill("champion")
    page.keyboard.press("Enter")
    screenshot(page, "mlflow-alias.png", 760)
    dialog.get_by_role("button", name="Save aliases").click()
    dialog.wait_for(state="hidden")
    assert registry.alias(NAME, "champion") == "2"
    champion.wait(lambda: answering(champion) == "2", seconds=60)

    # The trail notices it, and one command takes it back.
    audited = pipeline(server, "audit", NAME)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert "was moved to version 2 elsewhere" in audited.stdout
    back = pipeline(server, "rollback", NAME, "--why", "halos around trees")
    assert back.stdout == f"{NAME}: rolled back from version 2 to version 1 by ada\n", back.stderr
    assert registry.alias(NAME, "champion") == "1"
    champion.wait(lambda: answering(champion) == "1", seconds=60)
    page.reload()
    page.get_by_text("Gate: passed", exact=True).wait_for()
    page.wait_for_timeout(2000)
    assert "@ champion" not in page.locator("body").inner_text()
    table = pipeline(server, "history", NAME).stdout
    assert [line.split()[2] for line in table.splitlines()[1:]] == ["promote", "elsewhere", "rollback"]


def test_a_server_that_starts_while_mlflow_is_away_serves_what_served_last_and_then_follows(
    registry: Any, champion: Server, line: Line, cache: Path
) -> None:
    last = answering(champion)
    line.cuts[:] = [0] * 10_000
    with served(line, cache, "restarted.log") as restarted:
        assert answering(restarted) == last
        trouble = restarted.ask("/model").json["trouble"]
        assert "does not answer" in trouble and f"version {last} is what it meant when it last answered" in trouble
        assert f"starting with version {last}, which served last" in restarted.log.read_text()
        assert restarted.metric("segmodels_source_up") == 0
        line.cuts.clear()
        other = "2" if last == "1" else "1"
        registry.set_alias(NAME, "champion", other)
        restarted.wait(lambda: answering(restarted) == other, seconds=60)
        assert restarted.ask("/model").json["trouble"] is None
