"""Bands of image files: which are read, how they are scaled, and what is refused rather than read wrongly."""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from segmodels.data.bands import Bands, Pixels, view
from segmodels.data.folder import DatasetError, DatasetInfo, read_image
from segmodels.data.formats import Choices, convert
from segmodels.data.images import TooManyPixelsError

HEIGHT, WIDTH = 40, 56


def tiff(path: Path, values: np.ndarray, **kind: object) -> Path:
    """Write a TIFF, `[H, W, C]`, with GDAL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = {"height": values.shape[0], "width": values.shape[1], "count": values.shape[2]}
        with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype.name, **shape, **kind) as file:
            file.write(values.transpose(2, 0, 1))
    return path


def ramp(count: int, dtype: type = np.uint16, step: int = 100) -> np.ndarray:
    """Values that differ in every band, row and column."""
    rows, columns, bands = np.mgrid[:HEIGHT, :WIDTH, :count]
    return (rows + columns + step * bands).astype(dtype)


def labelled(root: Path, images: dict[str, np.ndarray]) -> Path:
    """A folder of one's own: images, and labels of two classes."""
    for name, values in images.items():
        tiff(root / "images" / f"{name}.tif", values)
        label = np.zeros(values.shape[:2], np.uint8)
        label[8:20, 8:24] = 1
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(root / "labels" / f"{name}.png")
    (root / "classes.txt").write_text("ground\nplant\n")
    return root


def test_bands_are_taken_in_their_order_and_scaled(tmp_path: Path) -> None:
    values = ramp(5)
    bands = Bands((4, 1), ((0.0, 1000.0), (50.0, 100.0)))
    pixels = bands.read(tiff(tmp_path / "a.tif", values))
    assert isinstance(pixels, Pixels) and pixels.dtype == np.float32 and bands.channels == 2
    np.testing.assert_allclose(pixels[..., 0], values[..., 3] * 0.255, rtol=1e-5)
    # What lies outside the scale is cut off.
    np.testing.assert_allclose(pixels[..., 1], np.clip((values[..., 0] - 50.0) * 5.1, 0, 255), rtol=1e-5)


def test_one_scale_makes_grey_and_deep_images_rgb(tmp_path: Path) -> None:
    grey = Bands(None, ((0.0, 4095.0),)).read(tiff(tmp_path / "a.tif", ramp(1)))
    assert grey.shape == (HEIGHT, WIDTH, 3) and (grey[..., 0] == grey[..., 2]).all()
    deep = ramp(3, step=9000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            tmp_path / "b.png", "w", driver="PNG", dtype="uint16", height=HEIGHT, width=WIDTH, count=3
        ) as file:
            file.write(deep.transpose(2, 0, 1))
    pixels = Bands(None, ((0.0, 65535.0),)).read(tmp_path / "b.png")
    np.testing.assert_allclose(pixels, deep * (255 / 65535), rtol=1e-5)


def test_what_is_no_number_and_what_is_no_data_is_black(tmp_path: Path) -> None:
    values = np.full((HEIGHT, WIDTH, 1), 5.0, np.float32)
    values[0, 0], values[1, 1] = np.nan, -9999
    pixels = Bands((1,), ((0.0, 10.0),)).read(tiff(tmp_path / "a.tif", values, nodata=-9999))
    assert pixels[0, 0, 0] == pixels[1, 1, 0] == 0 and pixels[2, 2, 0] == 127.5


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_single_band_is_turned_as_its_exif_says(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(ramp(1, np.uint8)[..., 0]).convert("RGB").save(tmp_path / "a.png", exif=exif)
    shown = read_image(tmp_path / "a.png")
    bands = Bands((1,))
    assert (bands.read(tmp_path / "a.png")[..., 0] == shown[..., 0]).all()
    assert bands.size(tmp_path / "a.png") == shown.shape[:2]
    assert (bands.read((tmp_path / "a.png").read_bytes(), "a")[..., 0] == shown[..., 0]).all()


def test_the_size_of_what_pillow_does_not_know(tmp_path: Path) -> None:
    assert Bands((5,), ((0.0, 1.0),)).size(tiff(tmp_path / "a.tif", ramp(5))) == (HEIGHT, WIDTH)


def test_arrays_are_what_files_hold(tmp_path: Path) -> None:
    values = ramp(5)
    bands = Bands((4, 2), ((0.0, 500.0),))
    wanted = bands.read(tiff(tmp_path / "a.tif", values))
    assert (bands.of_array(values) == wanted).all()
    assert (bands.of_array(values[..., [3, 1]]) == wanted).all()
    assert bands.of_array(wanted) is wanted  # scaled once
    with pytest.raises(DatasetError, match="has not the 2 bands"):
        bands.of_array(values[..., :3])


def test_a_picture_of_bands_has_three(tmp_path: Path) -> None:
    pixels = Bands((1, 2, 3, 4), ((0.0, 500.0),)).read(tiff(tmp_path / "a.tif", ramp(4)))
    assert view(pixels).shape == (HEIGHT, WIDTH, 3) and view(pixels).dtype == np.uint8
    assert view(pixels[..., :1]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("bands", "values", "said"),
    [
        (Bands((6,), ((0.0, 1.0),)), ramp(5), "a.tif: has 5 bands; band 6 of 0 to 1 asks for more"),
        (Bands((1,)), ramp(5), r"holds uint16 from 0 to 94, and black and white may be \[0, 65535\], \[0, 127\] or"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, bands: Bands, values: np.ndarray, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        bands.read(tiff(tmp_path / "a.tif", values))


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", ramp(5, step=1), compress="deflate")
    data = path.read_bytes()
    bands = Bands((1, 5), ((0.0, 1.0),))
    for cut in (0, 3, 60, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:cut])
        with pytest.raises(DatasetError, match=r"a\.tif: "):
            bands.read(path)
    with pytest.raises(DatasetError, match=r"b: is no image that has bands"):
        bands.read(b"<VRTDataset><SourceFilename>/etc/passwd", "b")
    with pytest.raises(TooManyPixelsError):
        bands.read(data, "b", max_pixels=100)


def test_a_dataset_of_deep_bands_says_how_its_images_are_read(tmp_path: Path) -> None:
    root = labelled(tmp_path / "src", {f"{i:02}": ramp(5) + i for i in range(9)})
    convert(root, out=tmp_path / "d", choices=Choices(bands=(4, 1), scale=(0, 500)))
    info = DatasetInfo.read(tmp_path / "d")
    assert Bands.of(info.image) == Bands((4, 1), ((0.0, 500.0),))
    assert (tmp_path / "d/train/images/00.tif").read_bytes() == (root / "images/00.tif").read_bytes()
    stacked = np.concatenate(
        [Bands.of(info.image).read(p).reshape(-1, 2) for p in (tmp_path / "d/train/images").iterdir()]
    )
    np.testing.assert_allclose(info.image["mean"], stacked.mean(0) / 255, atol=1e-4)
    np.testing.assert_allclose(info.image["std"], stacked.std(0) / 255, atol=1e-4)
    # As a source of its own it says the same.
    convert(tmp_path / "d", out=tmp_path / "again")
    assert DatasetInfo.read(tmp_path / "again").image == info.image
    convert(tmp_path / "d", out=tmp_path / "mapped", choices=Choices(classes={"all": ("*",)}))
    assert DatasetInfo.read(tmp_path / "mapped").image == info.image


def test_auto_scales_by_the_training_images(tmp_path: Path) -> None:
    root = labelled(tmp_path / "src", {f"{i:02}": ramp(4) for i in range(9)})
    convert(root, out=tmp_path / "d", choices=Choices(bands=(1, 4), scale="auto"))
    (low, high), (second, _) = DatasetInfo.read(tmp_path / "d").image["scale"]
    assert 0 <= low < 5 and 85 < high <= 94 and 300 <= second < 305


def test_targets_may_be_bands(tmp_path: Path) -> None:
    """Depth beside colours: images are written anew, with both."""
    from segmodels.data.streets import write_dataset

    write_dataset(tmp_path / "streets", seed=0, train=4, val=1, test=1, height=48, width=64, targets=("depth",))
    from segmodels.data.folder import samples
    from segmodels.data.formats import converting
    from segmodels.data.formats.common import Splitting
    from segmodels.data.formats.layout import Layout, Raw, Reading
    from segmodels.data.targets import target

    source = DatasetInfo.read(tmp_path / "streets")

    def read(root: Path, job: object) -> Reading:
        raws = []
        for sample in samples(root, "train", ("labels", "depth")):
            path = sample.targets["depth"]
            raws.append(
                Raw(
                    sample.id, sample.image, sample.label, "train",
                    targets={"depth": partial(target("depth").read, path, source.targets["depth"])},
                )
            )  # fmt: skip
        return Reading(source.classes, raws, "rgbd")

    layout = Layout("rgbd", "RGB-D", "", "", "", read, targets=("depth",))
    choices = Choices(bands=(1, 2, 3, "depth"), scale=((0, 255), (0, 255), (0, 255), (0, 80)))
    converting.write(layout, tmp_path / "streets", tmp_path / "d", "rgbd", {}, Splitting(0), choices)
    info = DatasetInfo.read(tmp_path / "d")
    bands = Bands.of(info.image)
    assert bands.take == (1, 2, 3, 4)
    sample = samples(tmp_path / "d", "train")[0]
    pixels = bands.read(sample.image)
    original = tmp_path / "streets/train"
    assert (view(pixels) == read_image(original / f"images/{sample.id}.png")).all()
    metres = target("depth").read(original / f"depth/{sample.id}.png", source.targets["depth"])
    np.testing.assert_allclose(pixels[..., 3], np.clip(metres * (255 / 80), 0, 255), rtol=1e-4, atol=1e-3)


def _sixteen_bit_png(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="PNG", dtype="uint16", height=HEIGHT, width=WIDTH, count=3) as file:
            file.write(ramp(3).transpose(2, 0, 1))


def _pages(path: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (i, 0, 0)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.png", _sixteen_bit_png, r"a\.png: holds uint16 from 0 to 294, and black and white may be .*set data.scale"),
        ("a.png", _pages, r"a\.png: it holds 3 pages or frames; save each as an image of its own"),
        ("a.tif", _pages, r"a\.tif: it holds 3 pages or frames; save each as an image of its own"),
        (
            "a.tif",
            lambda p: tiff(p, ramp(5)),
            r"a\.tif: holds 5 bands of uint16, not RGB; set data.bands .* and data.s",
        ),
        ("a.tif", lambda p: tiff(p, ramp(5, np.uint8)), r"a\.tif: holds 5 bands of uint8, not RGB; set data.bands"),
        ("a.tif", lambda p: tiff(p, ramp(1)), r"a\.tif: holds uint16 from 0 to 94"),
        ("a.tif", lambda p: tiff(p, ramp(1, np.float32)), r"a\.tif: holds float32 from 0 to 94"),
        (
            "a.tif",
            lambda p: tiff(p, ramp(4, np.uint8), photometric="RGB", alpha="no"),
            r"a\.tif: has a fourth band that",
        ),
    ],
)
def test_images_that_would_lose_something_ask_how_they_are_meant(tmp_path: Path, name: str, make, said: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "src"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    make(root / "images" / name)
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)).save(root / "labels/a.png")
    (root / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DatasetError, match=said):
        convert(root, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_smaller_copies_inside_a_tiff_are_no_pages(tmp_path: Path) -> None:
    """A cloud-optimised GeoTIFF holds its overviews as further pages."""
    values = ramp(3, np.uint8).repeat(8, 0).repeat(8, 1)
    path = tiff(tmp_path / "a.tif", values, photometric="RGB", tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    assert (read_image(path) == values).all()


def test_one_scale_does_not_mean_two_depths(tmp_path: Path) -> None:
    root = labelled(tmp_path / "src", {"a": ramp(3), "b": ramp(3), "c": ramp(3, np.uint8)})
    with pytest.raises(DatasetError, match=r"c\.tif: holds uint8 where other images hold uint16"):
        convert(root, out=tmp_path / "d", choices=Choices(bands=(1,), scale=(0, 500)))


def test_bytes_are_read_as_files_are(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", ramp(5))
    bands = Bands((5,), ((0.0, 1000.0),))
    assert (bands.read(path.read_bytes(), "a") == bands.read(path)).all()
    assert (bands.read(io.BytesIO(path.read_bytes()).getvalue(), "a") == bands.read(path)).all()
