"""The page at `/`, in a real browser: an image is chosen, its classes are seen over it, nothing goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.artifacts.sources import FolderSource
from segmodels.data.folder import ClassInfo
from tests.segmodels.serving.running import CLASSES, ask, encoded, in_process, write_model

PALETTE = np.array([c.color for c in CLASSES], np.uint8)
WITH_BACKGROUND = (ClassInfo("background", (90, 90, 90)), ClassInfo("cat", (200, 30, 30)))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = write_model(tmp_path_factory.mktemp("page") / "boxes")
    with in_process(FolderSource(folder)) as (_, port):
        yield port


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A model that tells cats from what is behind them."""
    torch.manual_seed(8)  # random weights that see both
    config = ModelConfig("unet", WITH_BACKGROUND, {"width": 4, "batch_norm": True})
    folder = tmp_path_factory.mktemp("page") / "cats"
    save_model(folder, config, config.build().state_dict())
    with in_process(FolderSource(folder)) as (_, port):
        yield port


def opened(browser: Any, port: int, image: Path | None, **options: Any) -> Any:
    page = browser.new_page(**options)
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#legend li").first.wait_for()
    if image is not None:
        page.get_by_label("Choose an image").set_input_files(image)
        page.get_by_text("100 × 72 · ").wait_for()
    return page


def drawn(page: Any) -> np.ndarray:
    """What the canvas of classes shows, RGBA `[72, 100, 4]`."""
    code = "map => [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]"
    return np.array(page.locator("#map").evaluate(code), np.uint8).reshape(72, 100, 4)


@pytest.fixture
def street(picture: np.ndarray, tmp_path: Path) -> Path:
    Image.fromarray(picture).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def test_a_chosen_image_is_seen_with_its_classes_and_no_request_goes_elsewhere(browser, port, picture, street):
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

    page.get_by_label("Choose an image").set_input_files(street)
    page.get_by_text("100 × 72 · ").wait_for()
    assert page.locator("#image").evaluate("image => [image.naturalWidth, image.alt]") == [100, "street.png"]
    assert np.array_equal(drawn(page)[..., :3], PALETTE[classes])
    for label, item in enumerate(legend.all_inner_texts()):
        share = float((classes == label).mean())
        assert (f"{100 * share:.1f} %" if share >= 0.001 else "–" if share == 0 else "<") in item
    assert errors == []
    own = (f"http://127.0.0.1:{port}/", f"blob:http://127.0.0.1:{port}/", "data:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    page.close()


def test_classes_are_switched_on_and_off(browser, port, picture, street):
    classes = ask(port, "/predict", encoded(picture)).classes
    page = opened(browser, port, street)
    (common,) = {int(np.bincount(classes.ravel()).argmax())}
    page.get_by_role("checkbox", name=CLASSES[common].name).uncheck()
    assert np.array_equal(drawn(page)[..., 3] == 0, classes == common)
    page.get_by_role("button", name="None").click()
    assert (drawn(page)[..., 3] == 0).all()
    assert not page.get_by_role("checkbox", name="sky").is_checked()
    page.get_by_role("button", name="All").click()
    assert np.array_equal(drawn(page)[..., :3], PALETTE[classes])
    page.close()


def test_the_background_is_left_as_the_image_is(browser, cats, picture, street):
    classes = ask(cats, "/predict", encoded(picture)).classes
    assert set(np.unique(classes)) == {0, 1}
    page = opened(browser, cats, street)
    assert np.array_equal(drawn(page)[..., 3] == 0, classes == 0)
    assert not page.get_by_role("checkbox", name="background").is_checked()
    page.get_by_role("checkbox", name="background").check()
    assert (drawn(page)[..., 3] == 255).all()
    page.close()


def test_mask_and_overlay_are_downloaded(browser, port, picture, street, tmp_path):
    classes = ask(port, "/predict", encoded(picture)).classes
    page = opened(browser, port, None)
    assert page.get_by_role("button", name="Download mask").is_disabled()
    page.get_by_label("Choose an image").set_input_files(street)
    page.get_by_text("100 × 72 · ").wait_for()
    with page.expect_download() as mask:
        page.get_by_role("button", name="Download mask").click()
    assert mask.value.suggested_filename == "street.png"
    mask.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        assert np.array_equal(np.asarray(saved), classes)
    page.locator("#opacity").fill("50")
    with page.expect_download() as overlay:
        page.get_by_role("button", name="Download overlay").click()
    assert overlay.value.suggested_filename == "street.overlay.png"
    overlay.value.save_as(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as saved:
        expected = (picture.astype(int) + PALETTE[classes]) / 2
        assert np.abs(np.asarray(saved.convert("RGB")) - expected).max() < 3
    page.close()


def test_the_class_under_the_pointer_is_named(browser, port, picture, street):
    classes = ask(port, "/predict", encoded(picture)).classes
    page = opened(browser, port, street)
    box = page.locator("#map").bounding_box()
    for y, x in ((5, 5), (40, 60), (70, 95)):
        page.mouse.move(box["x"] + (x + 0.5) / 100 * box["width"], box["y"] + (y + 0.5) / 72 * box["height"])
        assert page.locator("#tip").inner_text() == CLASSES[classes[y, x]].name
        assert page.locator("#legend .pointed").inner_text().split("\n")[0] == CLASSES[classes[y, x]].name
    page.mouse.move(2, 2)
    assert not page.locator("#tip").is_visible()
    page.close()


@pytest.mark.parametrize("name", ["notes.txt", "notes.png"])
def test_a_file_that_is_no_image_is_told_clearly(name, browser, port, street, tmp_path):
    """One that the browser knows to be none, and one that only the server can tell."""
    (tmp_path / name).write_text("no image")
    page = opened(browser, port, street)
    page.get_by_label("Choose an image").set_input_files(tmp_path / name)
    told = page.get_by_role("alert")
    told.get_by_text("not an image that can be read").wait_for()
    assert told.inner_text().startswith(f"{name}: ")
    assert "PNG" in told.inner_text()
    assert not page.locator("#stage").is_visible()
    assert page.get_by_role("button", name="Download mask").is_disabled()
    page.get_by_label("Choose an image").set_input_files(street)
    page.get_by_text("100 × 72 · ").wait_for()
    assert not told.is_visible()
    page.close()


def test_an_image_that_the_browser_cannot_show_is_predicted(browser, port, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "scan.tif")
    page = opened(browser, port, tmp_path / "scan.tif")
    page.wait_for_function("document.getElementById('image').naturalWidth === 100")
    assert page.locator("#map").bounding_box()["height"] > 50
    page.close()


def test_the_focus_is_seen_wherever_it_is(browser, port, street):
    page = opened(browser, port, street)
    seen = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        name, width = page.evaluate(
            """() => {
                const inner = document.activeElement, outer = inner.id === "file" ? inner.closest("#drop") : inner;
                const style = getComputedStyle(outer);
                const width = style.outlineStyle === "none" ? "0" : style.outlineWidth;
                return [inner.id || inner.type || inner.tagName, width];
            }"""
        )
        if name != "BODY":
            seen.add(name)
            assert int(width.removesuffix("px")) >= 2, name
    assert {"file", "opacity", "save-mask", "save-overlay", "all", "none", "checkbox"} <= seen
    page.close()


def test_a_narrow_screen_needs_no_scrolling_sideways(browser, port, street):
    page = opened(browser, port, street, viewport={"width": 400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.close()
