"""The page at `/`, in a real browser: an image is chosen, its classes are seen over it, nothing goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.sources import FolderSource
from tests.segmodels.serving.running import CLASSES, ask, encoded, in_process, write_model


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = write_model(tmp_path_factory.mktemp("page") / "boxes")
    with in_process(FolderSource(folder)) as (_, port):
        yield port


def test_a_chosen_image_is_seen_with_its_classes_and_no_request_goes_elsewhere(browser, port, picture, tmp_path):
    image = tmp_path / "street.png"
    Image.fromarray(picture).save(image)
    reply = ask(port, "/predict", encoded(picture))
    classes, version = reply.classes, reply.model[1]

    page = browser.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    page.get_by_text(f"boxes · version {version}").wait_for()
    legend = page.locator("#legend li")
    assert [name.split("\n")[0] for name in legend.all_inner_texts()] == [c.name for c in CLASSES]

    page.get_by_label("Choose an image").set_input_files(image)
    page.get_by_text("100 × 72 · ").wait_for()
    assert page.locator("#image").evaluate("image => [image.naturalWidth, image.alt]") == [100, "street.png"]
    drawn = page.locator("#map").evaluate(
        "map => [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]"
    )
    palette = np.array([c.color for c in CLASSES], np.uint8)
    assert np.array_equal(np.array(drawn, np.uint8).reshape(72, 100, 4)[..., :3], palette[classes])
    for label, item in enumerate(legend.all_inner_texts()):
        share = float((classes == label).mean())
        assert (f"{100 * share:.1f} %" if share >= 0.001 else "–" if share == 0 else "<") in item

    page.get_by_label("Choose an image").set_input_files(Path(__file__))
    page.get_by_text("not an image that can be read").wait_for()
    # The browser itself tells of the answer with status 422; anything else would be a fault of the page.
    assert [error for error in errors if "422" not in error] == []
    own = (f"http://127.0.0.1:{port}/", f"blob:http://127.0.0.1:{port}/", "data:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    page.close()
