"""Pictures of labels."""

import numpy as np
import pytest
from PIL import Image

from segmodels.data.palette import default_palette
from segmodels.tasks.pictures import RIGHT, WRONG, panel
from segmodels.tasks.semantic.pictures import colorize, error_map, legend, overlay

PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_each_class_gets_its_colour_and_void_is_black():
    label = np.array([[0, 1], [2, 255]], np.uint8)
    assert colorize(label, PALETTE).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]


def test_an_id_without_a_colour_is_black():
    assert colorize(np.array([[7]], np.uint8), PALETTE).tolist() == [[[0, 0, 0]]]


def test_void_shows_the_image_under_an_overlay():
    image = np.full((1, 2, 3), 100, np.uint8)
    seen = overlay(image, np.array([[0, 255]], np.uint8), PALETTE, alpha=0.5)
    assert seen.dtype == np.uint8
    assert seen.tolist() == [[[178, 50, 50], [100, 100, 100]]]


def test_alpha_goes_from_the_image_to_the_colours():
    image, label = np.full((2, 2, 3), 9, np.uint8), np.ones((2, 2), np.uint8)
    assert (overlay(image, label, PALETTE, alpha=0) == image).all()
    assert (overlay(image, label, PALETTE, alpha=1) == colorize(label, PALETTE)).all()


def test_an_error_map_tells_right_from_wrong_from_void():
    seen = error_map(np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 1]], np.uint8))
    assert [tuple(p) for p in seen[0].tolist()] == [RIGHT, WRONG, (0, 0, 0)]


@pytest.mark.parametrize("draw", [lambda a, b: overlay(a, b, PALETTE), lambda a, b: error_map(a[..., 0], b)])
def test_different_sizes_are_named(draw):
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(4, 5\)"):
        draw(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))


def test_a_panel_stands_side_by_side_under_its_captions():
    tiles = [np.full((60, 80, 3), v, np.uint8) for v in (10, 200)]
    plain = panel(tiles)
    assert plain.size == (164, 60)
    assert plain.getpixel((5, 5)) == (10, 10, 10) and plain.getpixel((160, 5)) == (200, 200, 200)
    titled = panel([tiles[0], Image.fromarray(tiles[1])], ["image", "truth"])
    # Captions need more than 80 pixels: three times as large.
    assert titled.width == 3 * 160 + 4 and titled.height > 180
    assert titled.getpixel((5, 100)) == (10, 10, 10) and titled.getpixel((480, 100)) == (200, 200, 200)
    assert panel([np.zeros((60, 300, 3), np.uint8)], ["image"]).width == 300


def test_a_panel_brings_images_to_one_height():
    assert panel([np.zeros((40, 40, 3), np.uint8), np.zeros((80, 160, 3), np.uint8)]).size == (40 + 4 + 80, 40)


def test_a_panel_without_images_or_with_a_caption_too_few_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        panel([])
    with pytest.raises(ValueError, match="1 images, but 2 captions"):
        panel([np.zeros((4, 4, 3), np.uint8)], ["a", "b"])


def test_a_legend_wraps_to_its_width():
    names = [f"class {i}" for i in range(30)]
    narrow, wide = (legend(names, default_palette(30), width=w) for w in (200, 2000))
    assert narrow.width == 200 and narrow.height > wide.height


def test_default_colours_are_distinct_and_never_near_black():
    palette = default_palette(60)
    assert len(set(palette)) == 60
    assert all(max(color) > 120 for color in palette)
    assert default_palette(60)[:10] == default_palette(10)
