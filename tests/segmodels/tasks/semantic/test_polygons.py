"""Outlines of class maps: they are valid, and filling them gives the map back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from shapely.geometry import shape

from segmodels.tasks.semantic.polygons import Polygon, coco, geojson, polygons

CLASSES, PALETTE = ("road", "sky", "pole"), ((128, 64, 128), (70, 130, 180), (200, 180, 20))
maps = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


def filled(shapes: list[Polygon], size: tuple[int, int]) -> np.ndarray:
    """The map that polygons cover, by crossings of each row from the left; each pixel is covered once."""
    label = np.full(size, 255, np.uint8)
    for polygon in shapes:
        inside = np.zeros((size[0], size[1] + 1), bool)
        for ring in (polygon.outline, *polygon.holes):
            for (x, y), (right, below) in zip(ring, np.roll(ring, -1, 0), strict=True):
                assert (x == right) != (y == below), "every side lies along pixels, and is as long as it can be"
                if x == right:
                    inside[min(y, below) : max(y, below), x:] ^= True
        assert (label[inside[:, :-1]] == 255).all()
        label[inside[:, :-1]] = polygon.label
        assert inside[:, :-1].sum() == polygon.area
    return label


@settings(max_examples=150, deadline=None)
@given(maps)
def test_filling_the_polygons_gives_the_map_back(label: np.ndarray) -> None:
    assert np.array_equal(filled(polygons(label), label.shape), label)


@settings(max_examples=150, deadline=None)
@given(maps)
def test_geojson_is_valid_and_of_the_same_areas(label: np.ndarray) -> None:
    document = json.loads(json.dumps(geojson(polygons(label), "x.png", CLASSES, PALETTE)))
    areas = dict.fromkeys(range(3), 0.0)
    for feature in document["features"]:
        polygon = shape(feature["geometry"])
        assert polygon.is_valid and polygon.area == feature["properties"]["area"]
        assert polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors)
        areas[feature["properties"]["class_id"]] += polygon.area
    assert areas == {i: float((label == i).sum()) for i in range(3)}


@settings(max_examples=150, deadline=None)
@given(maps)
def test_cocos_own_tools_read_the_map_back(label: np.ndarray) -> None:
    document = json.loads(json.dumps(coco([label], ["x.png"], CLASSES, [polygons(label)])))
    height, width = label.shape
    found = np.full(label.shape, 255, np.uint8)
    for annotation in document["annotations"]:
        encoded = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
        region = coco_mask.decode(encoded).astype(bool)
        assert region.sum() == annotation["area"] == coco_mask.area(encoded)
        assert list(coco_mask.toBbox(encoded)) == annotation["bbox"]
        found[region] = annotation["category_id"]
    assert np.array_equal(found, label)


def test_a_ring_in_a_ring_is_a_hole_and_a_region_of_its_own() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 2:7] = 1
    label[4, 4] = 0
    outer, inner, middle = polygons(label)
    assert (outer.label, len(outer.holes), outer.area) == (0, 1, 81 - 25)
    assert (inner.label, inner.holes, inner.box) == (0, (), (4, 4, 1, 1))
    assert (middle.label, len(middle.holes), middle.box) == (1, 1, (2, 2, 5, 5))


@pytest.mark.parametrize("size", [(1, 1), (64, 48)])
def test_a_map_of_one_class_is_one_rectangle(size: tuple[int, int]) -> None:
    (polygon,) = polygons(np.full(size, 2, np.uint8))
    assert polygon.outline.tolist() == [[0, 0], [size[1], 0], [size[1], size[0]], [0, size[0]]]
