"""GeoTIFFs labelled by vectors or by large rasters, cut into tiles that keep their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.transform import from_origin
from rasterio.warp import transform_geom

from segmodels.data.folder import DatasetError, DatasetInfo, read_label, samples
from segmodels.data.formats import Choices, convert
from segmodels.data.formats.georaster import _cuts
from tests.segmodels.data.formats.making import Converted

EAST, NORTH, CRS = 500_000.0, 5_400_000.0, "EPSG:32632"


def raster(path: Path, height: int, width: int, count: int = 3, **kind: Any) -> Path:
    """A GeoTIFF of 8 bits with a metre to the pixel; pixels differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns, bands = np.mgrid[:height, :width, :count]
    values = ((7 * rows + 3 * columns + 50 * bands) % 251 + 1).astype(np.uint8)
    place = {"crs": CRS, "transform": from_origin(EAST, NORTH, 1, 1), "photometric": "rgb" if count == 3 else None}
    place |= kind
    place = {key: value for key, value in place.items() if value is not None}
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", height=height, width=width, count=count, **place
    ) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def box(left: float, top: float, right: float, bottom: float) -> Any:
    """A rectangle of pixels, in the raster's system."""
    return shapely.box(EAST + left, NORTH - bottom, EAST + right, NORTH - top)


def features(path: Path, shapes: list[tuple[Any, dict[str, Any]]], crs: str = "EPSG:4326") -> Path:
    """A GeoJSON (RFC 7946: longitude and latitude)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {"type": "Feature", "properties": props, "geometry": transform_geom(CRS, crs, shapely.geometry.mapping(shape))}
        for shape, props in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    return path


def table(path: Path, shapes: list[tuple[Any, str]], layer: str = "areas", key: str = "class") -> Path:
    """A GeoPackage or a shapefile, in the raster's system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wkb = shapely.to_wkb(np.array([shape for shape, _ in shapes], object))
    names = np.array([name for _, name in shapes], object)
    options = {"layer": layer} if path.suffix == ".gpkg" else {}
    pyogrio.raw.write(path, wkb, [names], [key], geometry_type="Polygon", crs=CRS, **options)
    return path


def wanted(height: int = 40, width: int = 60) -> np.ndarray:
    """Field (1) in rows 4..19 and columns 5..29, house (2) on top of it in rows 10..14, columns 10..19."""
    ids = np.zeros((height, width), np.uint8)
    ids[4:20, 5:30] = 1
    ids[10:15, 10:20] = 2
    return ids


SHAPES = [(box(5, 4, 30, 20), "field"), (box(10, 10, 20, 15), "house")]


def whole(out: Path) -> np.ndarray:
    (sample,) = [s for split in ("train", "val", "test") if (out / split).is_dir() for s in samples(out, split)]
    return read_label(sample.label)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp"])
def test_polygons_are_drawn_where_they_lie(tmp_path: Path, suffix: str) -> None:
    """GeoJSON is in degrees: a polygon that comes back from there may miss a pixel at its edge."""
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    if suffix == ".geojson":
        features(root / "labels/a.geojson", [(shape, {"class": name, "id": 3}) for shape, name in SHAPES])
    else:
        table(root / f"labels/a{suffix}", SHAPES)
    read = Converted(root, tmp_path / "d")
    assert read.key == "georaster" and read.names == ["background", "field", "house"]
    assert (whole(tmp_path / "d") != wanted()).sum() <= (4 if suffix == ".geojson" else 0)
    # An image that is not cut is copied byte for byte.
    assert next((tmp_path / "d").rglob("images/a.tif")).read_bytes() == (root / "images/a.tif").read_bytes()


def test_one_file_may_hold_the_polygons_of_all_images(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    raster(root / "images/b.tif", 40, 60, transform=from_origin(EAST + 60, NORTH, 1, 1))
    table(root / "labels.gpkg", [*SHAPES, (box(70, 0, 80, 40), "house")])
    Converted(root, tmp_path / "d")
    labels = {s.id: read_label(s.label) for split in ("train", "val") for s in samples(tmp_path / "d", split)}
    assert (labels["a"] == wanted()).all()
    assert (labels["b"][:, 10:20] == 2).all() and not labels["b"][:, 20:].any()


def test_layers_are_classes_where_no_attribute_is(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    for (shape, name), mode in zip(SHAPES, (False, True), strict=True):
        pyogrio.raw.write(
            root / "labels.gpkg", shapely.to_wkb(np.array([shape], object)), [np.array([1.5])], ["height"],
            layer=name, geometry_type="Polygon", crs=CRS, append=mode,
        )  # fmt: skip
    read = Converted(root, tmp_path / "d")
    assert read.names == ["background", "field", "house"] and (whole(tmp_path / "d") == wanted()).all()


def test_spacenet_images_find_their_buildings(tmp_path: Path) -> None:
    """Names of SpaceNet 2 (Van Etten, Lindenbaum, Bacastow, 2018); an image without buildings is background."""
    root = tmp_path / "AOI_2_Vegas_Train"
    for number in (1, 2):
        raster(root / f"RGB-PanSharpen/RGB-PanSharpen_AOI_2_Vegas_img{number}.tif", 40, 60)
    features(root / "geojson/buildings/buildings_AOI_2_Vegas_img1.geojson", [(box(5, 4, 30, 20), {"partialDec": 1})])
    features(root / "geojson/buildings/buildings_AOI_2_Vegas_img2.geojson", [])
    read = Converted(root, tmp_path / "d")
    assert read.names == ["background", "buildings"]
    labels = {s.id[-4:]: read_label(s.label) for split in ("train", "val") for s in samples(tmp_path / "d", split)}
    assert abs(int(labels["img1"].sum()) - 16 * 25) <= 4 and not labels["img2"].any()


@pytest.mark.parametrize(
    ("image", "label", "named"),
    [
        ("3band/3band_AOI_1_RIO_img{}.tif", "geojson/Geo_AOI_1_RIO_img{}.geojson", "object"),
        (
            "PS-RGB/SN6_Train_AOI_11_Rotterdam_PS-RGB_20190804111224_20190804111453_tile_{}.tif",
            "geojson_buildings/SN6_Train_AOI_11_Rotterdam_Buildings_20190804111224_20190804111453_tile_{}.geojson",
            "buildings",
        ),
    ],
)
def test_spacenet_1_and_6_have_other_folders_and_names(tmp_path: Path, image: str, label: str, named: str) -> None:
    """As `SN1_buildings` and `SN6_buildings` unpack; microsoft/torchgeo, tests/data/spacenet, has their names."""
    root = tmp_path / "train/AOI"
    for number in (1, 2):
        raster(root / image.format(number), 40, 60)
        features(root / label.format(number), [(box(5, 4, 30, 20), {"partialDec": 1})])
    read = Converted(tmp_path, tmp_path / "d")
    assert (read.key, read.names, sum(read.info.splits.values())) == ("georaster", ["background", named], 2)


def test_a_large_raster_is_cut_into_tiles_that_keep_their_place(tmp_path: Path) -> None:
    root = tmp_path / "src"
    path = raster(root / "images/a.tif", 1000, 1300)
    table(root / "labels.gpkg", [(box(100, 100, 900, 700), "field")])
    convert(root, out=tmp_path / "d", choices=Choices(tile=256))
    with rasterio.open(path) as source:
        pixels = source.read()
    ids, seen = np.zeros((1000, 1300), np.uint8), np.zeros((1000, 1300), int)
    ids[100:700, 100:900] = 1
    splits = {}
    for split in ("train", "val", "test"):
        for sample in samples(tmp_path / "d", split):
            with rasterio.open(sample.image) as tile:
                left, top = round(tile.transform.c - EAST), round(NORTH - tile.transform.f)
                there = slice(top, top + tile.height), slice(left, left + tile.width)
                assert tile.crs.to_epsg() == 32632
                assert (tile.read() == pixels[:, there[0], there[1]]).all()
            assert (read_label(sample.label) == ids[there]).all()
            seen[there] += 1
            splits[top // 1024, left // 1024] = split
            assert splits[top // 1024, left // 1024] == split  # a block of four by four stays together
    assert (seen == 1).all()


def test_a_small_rest_belongs_to_the_last_tile() -> None:
    assert _cuts(1000, 256) == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    assert _cuts(800, 256) == [(0, 256), (256, 512), (512, 800)]
    assert _cuts(100, 256) == [(0, 100)]


def test_no_data_is_void_and_empty_tiles_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "src"
    path = raster(root / "images/a.tif", 64, 128, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.write(np.zeros((3, 64, 80), np.uint8), window=rasterio.windows.Window(0, 0, 80, 64))
    table(root / "labels.gpkg", [(box(0, 0, 128, 32), "field")])
    convert(root, out=tmp_path / "d", choices=Choices(tile=64))
    label = whole(tmp_path / "d")
    assert (label[:, :16] == 255).all() and (label[:32, 16:] == 1).all() and not label[32:, 16:].any()
    assert "1 left out, a_0000_0000 first: tiles without any data" in caplog.text


def test_large_rasters_of_ids_are_read_by_their_classes(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 2100, 2000)
    ids = np.zeros((2100, 2000), np.uint8)
    ids[:900], ids[900:1000] = 7, 3
    path = raster(root / "labels/a.tif", 2100, 2000, count=1)
    with rasterio.open(path, "r+") as file:
        file.write(ids, 1)
    (root / "classes.txt").write_text("0: ground\n3: void\n7: water\n")
    read = Converted(root, tmp_path / "d")
    assert read.key == "georaster" and read.names == ["ground", "water"]
    counted = np.zeros(256, int)
    for split in ("train", "val", "test"):
        for sample in samples(tmp_path / "d", split):
            counted += np.bincount(read_label(sample.label).ravel(), minlength=256)
    assert counted[0] == 1100 * 2000 and counted[1] == 900 * 2000 and counted[255] == 100 * 2000


def test_bands_of_tiles_may_be_chosen(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 256, 256, count=5)
    table(root / "labels.gpkg", [(box(0, 0, 128, 256), "field")])
    with pytest.raises(DatasetError, match=r"a_0000_0000\.tif: holds 5 bands of uint8, not RGB; set data.bands"):
        convert(root, out=tmp_path / "d", choices=Choices(tile=64))
    convert(root, out=tmp_path / "d", choices=Choices(tile=64, bands=(5, 1), scale=(0, 255)))
    assert DatasetInfo.read(tmp_path / "d").image["take"] == [5, 1]


def _no_attribute(root: Path) -> None:
    features(root / "labels/a.geojson", [(box(5, 4, 30, 20), {"type": "a", "label": "b"})])


def _null(root: Path) -> None:
    features(root / "labels/a.geojson", [(box(5, 4, 30, 20), {"class": "a"}), (box(0, 0, 3, 3), {"class": None})])


def _unlisted(root: Path) -> None:
    table(root / "labels/a.gpkg", SHAPES)
    (root / "classes.txt").write_text("field\nroad\n")


def _cut(root: Path) -> None:
    path = features(root / "labels/a.geojson", [(box(5, 4, 30, 20), {"class": "a"})])
    path.write_bytes(path.read_bytes()[:-60])


def _homeless(root: Path) -> None:
    table(root / "labels/a.gpkg", SHAPES)
    Image.new("RGB", (60, 40)).save(root / "images/a.tif")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_attribute, r"a\.geojson: its class may be in (type or label|label or type); set data.attribute to one of"),
        (_null, r"a\.geojson: a feature has no class; fill it in, or set data.attribute"),
        (_unlisted, r"a\.gpkg: class 'house' is not in the file of classes"),
        (_cut, r"a\.geojson: cannot be read as vectors"),
        (_homeless, r"a\.gpkg: the raster has no reference system, and the other has one"),
    ],
)
def test_what_is_open_or_broken_is_one_sentence(tmp_path: Path, spoil: Any, said: str) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    spoil(root)
    with pytest.raises(DatasetError, match=said):
        convert(root, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_attribute_is_chosen(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    features(root / "labels/a.geojson", [(box(5, 4, 30, 20), {"type": "a", "label": "b", "code": 7})])
    assert Converted(root, tmp_path / "d", attribute="code").names == ["background", "7"]
    with pytest.raises(DatasetError, match="has no attribute 'kind'; it has type, label, code"):
        convert(root, out=tmp_path / "e", choices=Choices(attribute="kind"))


def test_small_rasters_of_labels_stay_a_plain_folder(tmp_path: Path) -> None:
    root = tmp_path / "src"
    raster(root / "images/a.tif", 40, 60)
    raster(root / "labels/a.tif", 40, 60, count=1)
    (root / "classes.txt").write_text("\n".join(f"{i}: c{i}" for i in range(256) if i != 255))
    assert Converted(root, tmp_path / "d").key == "folder"
