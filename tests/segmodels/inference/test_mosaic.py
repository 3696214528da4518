"""Windows over a raster: how they lie, how they are blended, and what a stop leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmodels.data.folder import DatasetError
from segmodels.inference.mosaic import GRID, Mosaic, Side
from segmodels.inference.rasters import predict_raster
from segmodels.models.unet import UNet
from segmodels.tasks import get_task

SEMANTIC = get_task("semantic")
PALETTE = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


@given(st.integers(1, 4000), st.integers(32, 1500))
def test_windows_cover_a_side_and_their_weights_sum_to_one(length: int, window: int) -> None:
    side = Side(length, window)
    total, final = np.zeros(length), 0
    for index in range(side.count):
        start, stop = side.span(index)
        assert 0 <= start < stop <= length and stop - start <= window
        assert start == final and (window < 4 * GRID or start % GRID == 0)
        total[start:stop] += side.weights(index)
        final += side.final(index)
    assert final == length
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_weights_are_those_of_gaussians_about_the_middles() -> None:
    side = Side(3000, 512)
    places = np.arange(side.overlap) + 0.5
    one, other = (np.exp(-0.5 * ((places + begin - 256) / 64) ** 2) for begin in (side.stride, 0))
    np.testing.assert_allclose(side.weights(1)[: side.overlap], other / (one + other), rtol=1e-5)
    assert side.weights(1)[0] < 0.02 and (side.weights(1)[side.overlap : side.stride] == 1).all()


def test_blended_maps_are_the_weighted_mean_of_all_windows(tmp_path: Path) -> None:
    """Against a plain sum over whole planes, with windows that see nothing."""
    height, width = 300, 420
    mosaic = Mosaic(Side(height, 96), Side(width, 128), tmp_path / "work", {})
    rng = np.random.default_rng(0)
    rows, columns = mosaic.rows, mosaic.columns
    given_maps: dict[tuple[int, int], np.ndarray | None] = {}
    total, shares = np.zeros((2, height, width)), np.zeros((height, width))
    for r in range(rows.count):
        for c in range(columns.count):
            (top, bottom), (left, right) = rows.span(r), columns.span(c)
            seen = (
                None if (r, c) in ((1, 1), (1, 2), (0, 0)) else rng.random((2, bottom - top, right - left), np.float32)
            )
            given_maps[top, left] = seen
            if seen is not None:
                weight = rows.weights(r)[:, None] * columns.weights(c)
                total[:, top:bottom, left:right] += seen * weight
                shares[top:bottom, left:right] += weight
    result = np.full((2, height, width), np.nan)

    def keep(row: int, blocks: Any, file: Path) -> None:
        for (top, left, bottom, right), blended in blocks:
            if blended is not None:
                result[:, top:bottom, left:right] = blended
        file.write_bytes(b"")

    mosaic.begin()
    mosaic.run(lambda place: None if (m := given_maps[place[0], place[1]]) is None else m.copy(), keep)
    there = shares > 1e-3
    np.testing.assert_allclose(result[:, there], (total / np.maximum(shares, 1e-6))[:, there], atol=4e-3)
    assert not list((tmp_path / "work").glob("overlap-*"))


def _raster(path: Path, height: int, width: int, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (3, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    values = values.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    place = rasterio.transform.from_origin(4e5, 5e6, 1, 1)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=3, height=height, width=width, crs="EPSG:32633",
        transform=place, photometric="rgb",
    ) as file:  # fmt: skip
        file.write(values)
    return path


def _network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = UNet(3, width=4, batch_norm=True).eval()

    def maps(image: np.ndarray) -> torch.Tensor:
        batch = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            return model(batch)["out"].softmax(1)[0]

    return maps


def test_a_network_sees_the_same_in_windows_as_in_the_whole(tmp_path: Path) -> None:
    """Windows begin where the network's grid does; at other offsets one pixel in a hundred is another class."""
    path = _raster(tmp_path / "a.tif", 700, 900)
    maps = _network()
    predict_raster(path, maps, SEMANTIC, PALETTE, masks=tmp_path / "ids.tif", overlays=None, window=(400, 400))
    with rasterio.open(path) as file, rasterio.open(tmp_path / "ids.tif") as result:
        whole = maps(file.read().transpose(1, 2, 0)).argmax(0).numpy()
        assert (result.read(1) != whole).mean() < 1e-3


def test_results_are_cloud_optimised(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", 1100, 1300)
    masks, overlays = tmp_path / "ids.tif", tmp_path / "film.tif"
    predict_raster(path, _network(), SEMANTIC, PALETTE, masks=masks, overlays=overlays, window=(512, 512))
    for file, compression in ((masks, "deflate"), (overlays, "jpeg")):
        with rasterio.open(file) as result:
            assert result.block_shapes[0] == (256, 256) and result.overviews(1) == [2, 4, 8][: len(result.overviews(1))]
            assert result.overviews(1) and result.compression.name == compression
            assert result.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert result.crs.to_epsg() == 32633
    with rasterio.open(masks) as result:
        assert result.nodata == 255 and result.colormap(1)[2][:3] == (2, 2, 2)


def test_a_stopped_run_goes_on_with_the_first_row_that_is_missing(tmp_path: Path) -> None:
    path = _raster(tmp_path / "a.tif", 900, 500)
    maps, calls = _network(), 0

    def counted(image: np.ndarray) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return maps(image)

    def predict(out: Path, model: str) -> None:
        predict_raster(
            path, counted, SEMANTIC, PALETTE, masks=out, overlays=None, window=(256, 256), model=model
        )  # fmt: skip

    stop = 0
    predict(tmp_path / "whole.tif", "a")
    windows, calls, stop = calls, 0, 8
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "stopped.tif", "a")
    assert not (tmp_path / "stopped.tif").exists()
    calls, stop = 0, 0
    predict(tmp_path / "stopped.tif", "a")
    assert calls == windows - 6  # two rows of three windows were whole
    assert (tmp_path / "stopped.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "stopped.tif", "whole.tif"]
    # What another model computed is not gone on with.
    calls, stop = 0, 8
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "other.tif", "a")
    calls, stop = 0, 0
    predict(tmp_path / "other.tif", "b")
    assert calls == windows


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_a_predicted_raster_becomes_polygons_and_they_the_raster(tmp_path: Path, suffix: str) -> None:
    import pyogrio
    import shapely
    from rasterio.features import rasterize

    from segmodels.inference.outlines import outlines

    path, ids = _raster(tmp_path / "a.tif", 300, 400), tmp_path / "ids.tif"
    predict_raster(
        path, _network(), SEMANTIC, PALETTE, masks=ids, overlays=None, window=(256, 256), names=("sea", "land", "sky")
    )
    out = tmp_path / f"ids{suffix}"
    count = outlines(ids, out)
    meta, _, geometries, columns = pyogrio.raw.read(out)
    named = dict(zip(meta["fields"], columns, strict=True))
    assert count == len(geometries) and set(named["class"]) <= {"sea", "land", "sky"}
    with rasterio.open(ids) as result:
        classes, transform = result.read(1), result.transform
    if suffix != ".geojson":  # that one is in degrees
        shapes = zip(shapely.from_wkb(geometries), named["id"], strict=True)
        assert (rasterize(shapes, classes.shape, transform=transform, fill=255, dtype="uint8") == classes).all()
        assert named["area"].sum() == classes.size
    else:
        assert meta["crs"] == "EPSG:4326" and shapely.from_wkb(geometries)[0].bounds[0] < 180
    largest = named["class"][named["area"].argmax()]
    few = outlines(ids, tmp_path / f"few{suffix}", classes=[largest], smallest=named["area"].max())
    assert 1 <= few < count
    with pytest.raises(DatasetError, match=r"ids\.tif: has no class 'lake'; it has sea, land, sky"):
        outlines(ids, tmp_path / "b.gpkg", classes=["lake"])
    with pytest.raises(DatasetError, match=r"b\.txt: its ending says no format"):
        outlines(ids, tmp_path / "b.txt")
