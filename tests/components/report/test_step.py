"""The step `report`."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.errors import StepError
from components.report import charts, step


class Page(HTMLParser):
    """Every address that a browser would open, and the text of the commands."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.commands: list[str] = []
        self._pre = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._pre = tag == "pre"

    def handle_endtag(self, tag):
        self._pre = False

    def handle_data(self, data):
        if self._pre:
            self.commands.append(data)


CARD = "**enet**: mIoU\n\n### Classes\n\n| class | IoU |\n|---|---:|\n| sky | 4 |\n\nhttps://arxiv.org <script>"


def registered(challenger: str | None = "unet", champion: str | None = None) -> Path:
    versions = [
        {
            "key": "enet",
            "run_id": "r1",
            "version": None,
            "passed": False,
            "reason": "mIoU is 42.0 %, below the gate",
            "card": CARD,
        },
        {
            "key": "unet",
            "run_id": "r2",
            "version": "3" if challenger else None,
            "passed": bool(challenger),
            "reason": "low",
            "card": "",
        },
    ]
    tags = {"params.hash": "0123456789abcdef", "git.commit": "c0ffee", "dvc.data.md5": "ab.dir", "image.digest": "none"}
    content: dict[str, Any] = {
        "experiment": "segmentation",
        "tracking_uri": "sqlite:///mlflow.db",
        "model_name": "segmentation",
    }
    content |= {
        "versions": versions,
        "challenger": challenger,
        "champion": champion,
        "lineage": {"enet": tags, "unet": tags},
    }
    path = Path("outputs/register.json")
    path.write_text(json.dumps(content))
    return path


def write(results, register: Path | None) -> tuple[str, str]:
    result = step.run(results.params, **results.folders, registered=register, out=Path("reports"))
    assert result.winner == "unet"
    return result.html.read_text(), result.leaderboard.read_text()


def test_the_page_needs_nothing_but_itself(results):
    html, _ = write(results, registered())
    page = Page(html)
    assert page.addresses and all(address.startswith("data:image/webp;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert "@import" not in html and "url(" not in html
    assert len(html) < 5_000_000


def test_the_page_shows_every_model_class_picture_and_fact(results):
    html, _ = write(results, registered())
    for text in ("enet", "unet", "pole &amp; &lt;sign&gt;", "61.0", "363,791", "challenger", "c0ffee", "ab.dir", "CC0"):
        assert text in html, text
    assert "<sign>" not in html
    assert html.count('<svg viewBox="0 0 420 280"') == 3
    # six images: image, truth and two models each; three pictures of each model
    assert len(Page(html).addresses) == 6 * 4 + 3 * 2
    assert "covers 0.05 % of train" in html and "with 1 warning." in html
    assert "enet has no version: mIoU is 42.0 %, below the gate." in html


def test_the_same_inputs_give_the_same_bytes(results):
    register = registered()
    assert write(results, register) == write(results, register)
    assert {p.name for p in Path("reports").iterdir()} == {"report.html", "leaderboard.md"}


def test_the_commands_predict_with_the_winner_and_serve_it(results):
    html, _ = write(results, registered())
    predict, serve, ask = Page(html).commands
    words = shlex.split(predict.splitlines()[-1])
    assert words[:2] == ["segmodels", "predict"]
    assert words[2:] == ["--model", "outputs/models/unet", "data/test/images/0000.png", "--out", "predictions"]
    assert Path(words[3]).is_dir() and Path(words[4]).is_file()
    assert "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in serve
    assert shlex.split(serve.splitlines()[-1]) == ["segmodels", "serve", "models:/segmentation@challenger"]
    subprocess.run(["bash", "-n", "-c", ask], check=True)
    words = shlex.split(ask)
    assert words[words.index("-F") + 1] == "image=@data/test/images/0000.png"
    assert words[-3:] == ["http://127.0.0.1:8000/predict?output=classes", "-o", "classes.png"]


def test_the_page_tells_its_date_the_settings_and_what_was_mistaken_for_what(results, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    path = results.models["unet"] / "model.json"
    made = {"settings": {"lr": 0.0123, "epochs": 7, "augment": {"crop": [48, 64]}}, "seed": 11, "data_md5": "x.dir"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "options": {"width": 0.5}, "training": made}))
    html, _ = write(results, registered())
    assert "2023-11-14" in html
    trained = html.partition("<h2>How they were trained</h2>")[2].partition("</section>")[0]
    for text in ("<dt>best epoch</dt><dd>5</dd>", "<td>0.0123</td>", "<td>7</td>", "<td>[48, 64]</td>", "option width"):
        assert text in trained, text
    assert "<td>0.002</td>" in trained, "a folder of an earlier release is described by the settings"
    confusion = html.partition("<h2>Confusion</h2>")[2].partition("</section>")[0]
    assert confusion.count("<table") == 2
    assert confusion.count("76.9") == 6  # 10 of 13 pixels of each class in the first column
    assert "pole &amp; &lt;sign&gt;" in confusion


def test_a_narrow_screen_shows_the_page_without_scrolling_sideways(results, browser):
    html, _ = write(results, registered())
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.set_content(html)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    for table in page.locator(".scroll").all():
        assert table.evaluate("e => e.getBoundingClientRect().right") <= 400
    if name := os.environ.get("SEGMODELS_SCREENSHOT"):
        page.screenshot(path=name, full_page=True)
    page.close()


def test_without_a_version_there_is_nothing_to_serve(results):
    html, _ = write(results, registered(challenger=None))
    assert "No model passed the gate" in html and len(Page(html).commands) == 1
    html, board = write(results, None)
    assert "not registered" in html and len(Page(html).commands) == 1
    assert board.splitlines()[-1].endswith("| - |")


def test_the_page_has_every_card_and_takes_no_markup_from_it(results):
    html, _ = write(results, registered())
    page = html.partition("<h2>Model cards</h2>")[2].partition("</section>")[0]
    assert page.count('<details class="card">') == 1
    assert "<strong>enet</strong>: mIoU" in page and "<h4>Classes</h4>" in page and "<td>sky</td>" in page
    assert "https://arxiv.org &lt;script&gt;" in page
    assert "Model cards" not in write(results, None)[0]


def test_the_champion_is_served_where_there_is_no_challenger(results):
    path = registered(challenger=None, champion="3")
    content = json.loads(path.read_text())
    content["versions"][1] |= {"version": "3", "passed": True}
    path.write_text(json.dumps(content))
    html, board = write(results, path)
    assert "segmodels serve models:/segmentation@champion" in html
    assert "| 3, champion |" in board


def test_a_version_that_did_not_pass_the_gate_says_why(results):
    path = registered()
    content = json.loads(path.read_text())
    content["versions"][0] |= {"version": "2", "reason": "worse than the champion"}
    path.write_text(json.dumps(content))
    assert "enet, version 2, did not pass the gate: worse than the champion." in write(results, path)[0]


def test_the_leader_board_is_sorted_by_miou(results):
    _, board = write(results, registered())
    head, _, first, second = [line for line in board.splitlines() if line.startswith("|")]
    assert "| road | sky | pole & <sign> |" in head
    assert first.startswith("| 1 | unet | **61.0** |") and first.endswith("| 3, challenger |")
    assert second.startswith("| 2 | enet | **42.0** |") and "| - |" in second
    assert {line.count("|") for line in (head, first, second)} == {13 + 1}


def test_many_models_stay_within_the_size(results):
    names = [f"model{i:02}" for i in range(24)]
    models = dict.fromkeys(names, results.models["unet"])
    evaluations = dict.fromkeys(names, results.evaluations["enet"])
    many = replace(results, models=models, evaluations=evaluations)
    result = step.run(many.params, **many.folders, registered=None, out=Path("reports"))
    html = result.html.read_text()
    assert all(name in html for name in names) and len(html) < 5_000_000


def test_one_model_is_enough(results):
    alone = replace(results, models={"unet": results.models["unet"]})
    html = step.run(alone.params, **alone.folders, registered=None, out=Path("reports")).html.read_text()
    assert "1 architecture compared" in html and 'class="best"' not in html


def test_a_missing_result_is_named(results):
    (results.evaluations["enet"] / "speed.json").unlink()
    with pytest.raises(StepError, match=r"outputs/evaluation/enet/speed.json: no such file"):
        write(results, None)


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (0.61, [0, 0.2, 0.4, 0.6, 0.8]),
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (2.4, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(high, ticks):
    found = charts.nice_ticks(0.0, high, 5)
    assert found[0] == 0 and found[-1] >= high
    assert found == pytest.approx(ticks[: len(found)])


def test_the_front_joins_what_none_beats_in_both():
    points = [("slow good", 30.0, 0.6), ("fast bad", 5.0, 0.3), ("beaten", 31.0, 0.5), ("middle", 10.0, 0.4)]
    assert [points[i][0] for i in charts.pareto(points)] == ["fast bad", "middle", "slow good"]


def test_names_are_escaped_in_charts_and_one_epoch_is_enough():
    svg = charts.curves({"a<b": {1: 0.5}, "empty": {}}, title='"t"', percent=True)
    assert "a&lt;b" in svg and "&quot;t&quot;" in svg and "nan" not in svg
    assert not re.search(r"empty", svg)
    assert charts.curves({"empty": {}}, title="t", percent=True) == ""
