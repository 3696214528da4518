"""Rasters: predicted in windows without seams, in bounded memory, where they lie on the earth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmodels.data.folder import DatasetError
from segmodels.inference.files import run
from segmodels.inference.inputs import find_inputs, plan
from segmodels.inference.rasters import is_raster, predict_raster
from segmodels.tasks import get_task
from tests.segmodels.inference.test_files import Brightness, picture

rasterio = pytest.importorskip("rasterio")
ORIGIN = (500_000.0, 5_400_000.0)
SEMANTIC = get_task("semantic")


def raster(path: Path, bands: np.ndarray, **options: Any) -> Path:
    """Writes bands `[B, H, W]` as a GeoTIFF with half a metre to the pixel."""
    from rasterio.transform import from_origin

    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    place = {"crs": "EPSG:32632", "transform": from_origin(*ORIGIN, 0.5, 0.5)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **{**place, **options}) as target:
        target.write(bands)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    """Classes that depend on pixels up to four away, as a network's do; at an edge they are told apart."""
    from scipy.ndimage import correlate1d

    # Sums of integers are the same whatever they began with.
    sums = image.astype(np.int64).sum(2)
    for axis in (0, 1):
        sums = correlate1d(sums, np.ones(9, np.int64), axis, mode="constant")
    return (sums > 3 * 81 * 120).astype(np.uint8)


def sure(predict: Any, classes: int = 2) -> Any:
    """Maps of a model that is sure of its classes."""
    return lambda image: torch.nn.functional.one_hot(
        torch.from_numpy(predict(image)).long(), classes
    ).permute(2, 0, 1).float()  # fmt: skip


@pytest.mark.parametrize("window", [(64, 96), (400, 400), (1024, 1024)])
def test_no_seam_is_seen(window: tuple[int, int], tmp_path: Path) -> None:
    bands = noise(3, 333, 417)
    path, out = raster(tmp_path / "a.tif", bands), tmp_path / "ids.tif"
    predict_raster(path, sure(blurred), SEMANTIC, [(0, 0, 0), (1, 1, 1)], masks=out, overlays=None, window=window)
    with rasterio.open(out) as result:
        assert np.array_equal(result.read(1), blurred(bands.transpose(1, 2, 0)))


def test_the_result_lies_where_the_source_lies(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = raster(tmp_path / "in/field.tif", noise(3, 70, 90))
    found, _ = find_inputs([tmp_path / "in"], tmp_path / "out")
    assert [item.kind for item in found] == ["raster"]
    assert run(plan(found, tmp_path / "out"), Brightness()).problems == []
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["field.overlay.tif", "field.tif"]
    with rasterio.open(path) as source, rasterio.open(tmp_path / "out/field.tif") as result:
        assert (result.crs, result.transform, result.shape) == (source.crs, source.transform, source.shape)
        assert (result.dtypes, result.nodata) == (("uint8",), 255)
        assert result.colormap(1)[1][:3] == (200, 200, 0)
    with rasterio.open(tmp_path / "out/field.overlay.tif") as film:
        assert (film.count, film.shape) == (3, (70, 90))


def test_where_there_is_no_data_there_is_no_class(tmp_path: Path) -> None:
    bands = noise(4, 80, 100).clip(1)
    bands[3] = 255
    bands[3, :, :30] = 0
    path, out = raster(tmp_path / "a.tif", bands, photometric="rgb", alpha="yes"), tmp_path / "ids.tif"
    predict_raster(path, sure(blurred), SEMANTIC, [(0, 0, 0)], masks=out, overlays=None)
    with rasterio.open(out) as result:
        ids = result.read(1)
    assert (ids[:, :30] == 255).all()
    assert ids[:, 30:].max() <= 1


def test_one_band_is_grey_or_a_palette(tmp_path: Path) -> None:
    grey = noise(1, 40, 50)
    path = raster(tmp_path / "grey.tif", grey)
    seen: list[np.ndarray] = []

    def watched(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.zeros(image.shape[:2], np.uint8)

    predict_raster(path, sure(watched), SEMANTIC, [(0, 0, 0)], masks=tmp_path / "ids.tif", overlays=None)
    assert np.array_equal(seen[0], np.repeat(grey[0][..., None], 3, 2))
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {i: (i, 255 - i, 7) for i in range(256)})
    predict_raster(path, sure(watched), SEMANTIC, [(0, 0, 0)], masks=tmp_path / "ids.tif", overlays=None)
    assert np.array_equal(seen[1][..., 1], 255 - grey[0])


def test_other_bands_and_cut_files_are_told_in_a_sentence_and_the_rest_goes_on(tmp_path: Path) -> None:
    raster(tmp_path / "deep.tif", noise(3, 40, 50).astype(np.uint16))
    whole = raster(tmp_path / "whole.tif", noise(3, 400, 500)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    found, _ = find_inputs([tmp_path], tmp_path / "out")
    outcome = run(plan(found, tmp_path / "out"), Brightness())
    assert outcome.written == 1
    assert [text.split(":")[0].rpartition("/")[2] for text in sorted(outcome.problems)] == ["cut.tif", "deep.tif"]
    assert all("\n" not in text for text in outcome.problems)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["whole.overlay.tif", "whole.tif"]
    again = run(plan(found, tmp_path / "out"), Brightness())
    assert (again.skipped, len(again.problems)) == (1, 2)


def test_a_plain_tiff_stays_an_image(tmp_path: Path) -> None:
    assert not is_raster(picture(tmp_path / "plain.tif"))
    assert not is_raster(picture(tmp_path / "not.png"))


def test_without_rasterio_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster(tmp_path / "a.tif", noise(3, 40, 50))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(DatasetError, match=r"a\.tif: is a raster, which needs rasterio; `pip install rasterio`"):
        predict_raster(path, sure(blurred), SEMANTIC, [(0, 0, 0)], masks=tmp_path / "ids.tif", overlays=None)


def test_memory_does_not_grow_with_the_raster(tmp_path: Path) -> None:
    # 243 MB of pixels, of which one window holds data; the file has no bytes for the rest.
    code = f"""
import resource, numpy, rasterio, torch
from pathlib import Path
from rasterio.windows import Window
from segmodels.inference.rasters import is_raster, predict_raster
from segmodels.tasks import get_task
task = get_task("semantic")
path = Path({str(tmp_path)!r}, "large.tif")
options = dict(driver="GTiff", dtype="uint8", count=3, height=9000, width=9000, nodata=0, tiled=True, sparse_ok=True)
with rasterio.open(path, "w", **options) as target:
    target.write(numpy.full((3, 100, 100), 200, "uint8"), window=Window(7000, 8000, 100, 100))
assert is_raster(path)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ones = lambda image: torch.stack([torch.zeros(image.shape[:2]), torch.ones(image.shape[:2])])
predict_raster(path, ones, task, [(0, 0, 0)], masks=path.with_name("ids.tif"), overlays=None)
with rasterio.open(path.with_name("ids.tif")) as result:
    assert (result.read(1, window=Window(7000, 8000, 100, 100)) == 1).all()
    assert (result.read(1, window=Window(0, 0, 500, 500)) == 255).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 120e6


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    """80 x 2,687,040 pixels in 15 kB: a network would look at nothing for hours."""
    path = tmp_path / "bomb.tif"
    options = {"driver": "GTiff", "dtype": "uint8", "count": 3, "sparse_ok": True, "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", width=2_687_040, height=80, blockxsize=65536, blockysize=512, **options):
        pass
    assert path.stat().st_size < 100_000
    model = Brightness()
    found, _ = find_inputs([path], tmp_path / "out")
    outcome = run(plan(found, tmp_path / "out"), model)
    assert "its header promises 2687040 x 80 pixels" in outcome.problems[0]
    assert model.calls == 0


def test_a_raster_of_one_value_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "sea.tif"
    options = {"driver": "GTiff", "dtype": "uint8", "count": 1, "compress": "deflate", "zlevel": 9, "tiled": True}
    with rasterio.open(path, "w", width=8192, height=6144, **options) as target:
        target.write(np.zeros((1, 6144, 8192), np.uint8))
    assert is_raster(path)
    seen: list[int] = []

    def plain(image: np.ndarray) -> np.ndarray:
        seen.append(image.size)
        return np.zeros(image.shape[:2], np.uint8)

    predict_raster(
        path,
        sure(plain),
        SEMANTIC,
        [(0, 0, 0)],
        masks=tmp_path / "ids.tif",
        overlays=None,
        window=(2048, 2048),
    )
    assert sum(seen) > 3 * 8192 * 6144


def test_a_description_of_other_files_named_as_a_tiff_is_not_followed(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", (40, 40))
    named = '<SourceFilename relativeToVRT="1">secret.png</SourceFilename>'
    source = f"<SimpleSource>{named}<SourceBand>1</SourceBand></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    path = tmp_path / "a.tif"
    path.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="40">{band}</VRTDataset>')
    with pytest.raises(DatasetError, match=r"a\.tif: cannot be read as a raster"):
        predict_raster(
            path,
            Brightness().maps,
            SEMANTIC,
            [(0, 0, 0)] * 2,
            masks=tmp_path / "ids.tif",
            overlays=None,
            window=(64, 64),
        )
