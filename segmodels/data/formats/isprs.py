"""ISPRS 2D semantic labelling: Potsdam and Vaihingen, six classes from above.

Rottensteiner et al., "The ISPRS benchmark on urban object classification and 3D building reconstruction" (2012);
colours and which tiles are for training: the contest's pages. Ids of img_dir: mmsegmentation's `potsdam.py` and
`vaihingen.py`. Black is what was left out along borders of objects (`_noBoundary`): void.

    2_Ortho_RGB/top_potsdam_2_10_RGB.tif           or …_IRRG.tif, or …_RGBIR.tif, of which `data.bands` names the bands
    5_Labels_all/top_potsdam_2_10_label.tif        or …_label_noBoundary.tif
    top/top_mosaic_09cm_area1.tif                  infrared, red, green
    gts_for_participants/top_mosaic_09cm_area1.tif or …_noBoundary.tif
    img_dir/{train,val}/2_10_0_0_512_512.png       ann_dir/…: 8 bits, 0 = void, 1..6, or 0..5; area1_…

Folders of the first four may be called otherwise, but `top`. Labels with borders are taken where both are there.
`data.format: isprs_from_0` and `isprs_from_1` say how ids of img_dir are meant where the files do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, values_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.data.formats.truth import by_corner

TRAIN = {
    "potsdam": {f"{r}_{c}" for r in range(2, 8) for c in (10, 11, 12)}
    | {f"{r}_{c}" for r in (6, 7) for c in (7, 8, 9)},
    "vaihingen": {f"area{n}" for n in (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)},
}
TILE = re.compile(r"top_potsdam_0?(\d+_\d+)_|top_mosaic_09cm_(area\d+)")
CONVERTED = {"potsdam": "[2-7]_[0-9]*_*_*_*_*.png", "vaihingen": "area[0-9]*_*_*_*_*.png"}
KINDS = ("RGBIR", "IRRG", "RGB")
DEPTHS = ("", "*/", "*Ortho*/*/", "*Label*/*/", "*Vaihingen*/*/")
VOID, SLACK, THICK = (0, 0, 0), 16, 21


def _detect(root: Path) -> Fit | None:
    for pattern in CONVERTED.values():
        if (label := first(root, f"ann_dir/*/{pattern}")) is not None:
            return Fit(label.relative_to(root).as_posix(), "" if first(root, f"img_dir/*/{pattern}") else "img_dir/")
    labels = [p for d in DEPTHS if (p := first(root, f"{d}top_potsdam_*_label*.tif"))]
    images = [p for d in DEPTHS for k in KINDS if (p := first(root, f"{d}top_potsdam_*_{k}.tif"))]
    areas = [p for d in DEPTHS for p in root.glob(f"{d}top_mosaic_09cm_area*.tif")]
    labels += [p for p in areas if p.parent.name != "top"]
    images += [p for p in areas if p.parent.name == "top"]
    if not labels and not images:
        return None
    lacks = "the images (*_RGB.tif or top/)" if not images else "the labels" if not labels else ""
    return Fit((labels or images)[0].relative_to(root).as_posix(), lacks)


def reading(root: Path, job: Job, start: int | None = None) -> Reading:
    """Return the samples; `start` says whether ids of img_dir begin at 0 or at 1, None looks at them."""
    table = Table.official("isprs")
    kinds = [k for k, pattern in CONVERTED.items() if first(root, f"ann_dir/*/{pattern}")]
    samples = _converted(root, job, table, start) if kinds else _original(root, job, table)
    return Reading(table.classes, list(samples), "isprs" if len(kinds) != 1 else kinds[0])


def _original(root: Path, job: Job, table: Table) -> Iterator[Raw]:
    ranked: dict[str, list[tuple[int, Path]]] = {}
    labels: dict[str, Path] = {}
    for path in sorted((p for p in image_files(root) if TILE.match(p.name)), key=lambda p: "noBoundary" in p.name):
        match = TILE.match(path.name)
        assert match is not None
        if "label" in path.name or (match[2] and path.parent.name != "top"):
            labels.setdefault(match[1] or match[2], path)
        elif match[2] or (kind := path.stem.rpartition("_")[2]) in KINDS:
            rank = len(KINDS) if match[2] else KINDS.index(kind)
            ranked.setdefault(match[1] or match[2], []).append((rank, path))
    images = {tile: max(paths)[1] for tile, paths in ranked.items()}
    for tile in sorted(labels.keys() - images.keys()):
        job.problems.append(f"{labels[tile]}: has no image; add top_…_{tile}, or remove the label")
    job.left_out([images[tile] for tile in sorted(images.keys() - labels.keys())], "these have no label")
    for tile in sorted(images.keys() & labels.keys()):
        split = "train" if any(tile in tiles for tiles in TRAIN.values()) else "test"
        yield Raw(tile, images[tile], by_corner(labels[tile], table.colors(VOID), SLACK), split, tile)


def _converted(root: Path, job: Job, table: Table, start: int | None) -> Iterator[Raw]:
    pairs = []
    for split in ("train", "val"):
        photos = image_files(root / "img_dir" / split)
        pairs += [(image, label, split) for image, label in paired(photos, named_alike(root / "ann_dir" / split), job)]
    if start is None:
        start = _start([label for _, label, _ in pairs], job)
    ids = {0: 255, 255: 255} | {start + index: index for index in range(len(table.rows))}
    for image, label, split in pairs:
        tile = "_".join(image.stem.split("_")[: 1 if image.stem.startswith("area") else 2])
        yield Raw(image.stem, image, by_id(label, ids), split, tile)


def _start(labels: list[Path], job: Job) -> int:
    """Return the first class's id: 1, or 0 where a wide area is 0, since void is but a line along borders.

    Raises:
        DatasetError: Neither a 6 nor such an area, nor a 255, is anywhere.
    """
    from scipy.ndimage import minimum_filter

    for label in labels:
        values = values_of(label)
        if (values == 6).any():
            return 1
        if (values == 255).any() or minimum_filter(values == 0, THICK, mode="constant").any():
            job.noted(f"{label}: 0 is a wide area, and 6 is nowhere; ids are taken as 0..5, 0 = impervious_surface")
            return 0
    raise DatasetError(
        f"{labels[0].parent if labels else 'ann_dir'}: ids are 1..6 with 0 as void, or 0..5: neither 6 nor a wide area "
        "of 0 is anywhere; set data.format to isprs_from_1 or to isprs_from_0"
    )


LAYOUT = Layout(
    "isprs",
    "ISPRS Potsdam and Vaihingen",
    home="https://www.isprs.org/education/benchmarks/UrbanSemLab/",
    licence="research use, on request",
    looks_for="top_potsdam_*_label.tif beside top_potsdam_*_RGB.tif, or top_mosaic_09cm_area*.tif beside top/",
    read=reading,
    detect=_detect,
    classes="6",
)
