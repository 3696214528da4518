"""Sets with an alpha matte: P3M-10k, AM-2k, Composition-1k, PPM-100, as masks of foreground and background.

Li et al., "Privacy-Preserving Portrait Matting" (ACM MM 2021) and "Bridging Composite and Real" (IJCV 2022), with the
READMEs of github.com/JizhiziLi/P3M and /GFM; Xu et al., "Deep Image Matting" (CVPR 2017). A pixel is foreground from
half of its opacity on; soft edges are what such sets are about, and what a mask leaves out.

    train/blurred_image/p_1.jpg  train/mask/p_1.png          P3M-10k; validation/P3M-500-P/blurred_image, …/mask
    train/original/m_1.jpg       train/mask/m_1.png          AM-2k; validation/original, …/mask
    image/1.jpg  matte/1.png  or  fg/1.jpg  alpha/1.jpg      one folder, with splits above it or without
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import ClassInfo, reading
from segmodels.data.formats.common import image_files
from segmodels.data.formats.folder import SPLIT_FOLDERS
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first
from segmodels.data.images import open_image

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("foreground", (255, 255, 255)))
PAIRS = (
    ("blurred_image", "mask"), ("original", "mask"), ("original_image", "mask"), ("image", "matte"),
    ("images", "matte"), ("image", "alpha"), ("images", "alpha"), ("fg", "alpha"),
)  # fmt: skip
PLACES = (".", "*", "*/*")
HALF = 128


def _folders(root: Path) -> list[tuple[Path, Path]]:
    return [
        (alphas.with_name(images), alphas)
        for place in PLACES
        for images, mattes in PAIRS
        for alphas in sorted(root.glob(f"{place}/{mattes}"))
        # `mask` may hold anybody's class ids; P3M-10k's and AM-2k's files begin with p_ and m_.
        if alphas.with_name(images).is_dir() and first(alphas, "[pm]_*.png" if mattes == "mask" else "*.[pj][np]*g")
    ]


def _detect(root: Path) -> Fit | None:
    folders = _folders(root)
    if not folders:
        return None
    images, alphas = folders[0]
    return Fit(f"{images.relative_to(root).as_posix()}/ beside {alphas.relative_to(root).as_posix()}/")


def _read(root: Path, job: Job) -> Reading:
    def samples() -> Iterator[Raw]:
        for images, alphas in _folders(root):
            named = {path.stem: path for path in image_files(alphas)}
            parts = [part.lower() for part in images.relative_to(root).parts]
            split = next((SPLIT_FOLDERS[part] for part in parts if part in SPLIT_FOLDERS), None)
            inner = "_".join(images.relative_to(root).parts[1:-1])
            for image in image_files(images):
                if image.stem in named:
                    name = f"{inner}_{image.stem}" if inner else image.stem
                    yield Raw(name, image, partial(_opaque, named[image.stem]), split)
                else:
                    job.problems.append(f"{image}: has no matte in {alphas}; add it, or remove the image")

    return Reading(CLASSES, samples())


def _opaque(path: Path) -> np.ndarray:
    with reading(path, "a matte"), open_image(path) as image:
        values = np.asarray(image.convert("L"))
    return (values >= HALF).astype(np.uint8)


LAYOUT = Layout(
    "mattes",
    "alpha mattes (P3M-10k, AM-2k, Composition-1k)",
    home="https://github.com/JizhiziLi/P3M",
    licence="",
    looks_for="blurred_image/ or original/ beside mask/, image/ beside matte/, fg/ beside alpha/",
    read=_read,
    detect=_detect,
    splits="folders called train, validation, test; otherwise dealt",
    classes="2",
)
