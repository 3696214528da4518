"""CelebAMask-HQ: 19 parts of faces.

Lee, Liu, Wu, Luo, "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation" (CVPR 2020). Order of the parts,
of which the later lie on top: the authors' `g_mask.py`; splits by the number that an image has in CelebA:
`g_partition.py`. Labels have 512 x 512 pixels and images 1024 x 1024: labels are enlarged, each pixel to four.

    CelebA-HQ-img/0.jpg
    CelebAMask-HQ-mask-anno/0/00000_skin.png      0 and 255, one file for each part that there is
    CelebAMask-HQ-mask/0.png                      in its place what g_mask.py writes: 8 bits, 0..18
    CelebA-HQ-to-CelebA-mapping.txt               `idx orig_idx orig_file` a line; without it splits are dealt
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, packed_colors
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.data.formats.truth import at_size, listed

IMAGES, PARTS, MAPPING = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebA-HQ-to-CelebA-mapping.txt"
MERGED = ("CelebAMask-HQ-mask", "CelebAMaskHQ-mask", "CelebAMask-HQ-label", "CelebAMaskHQ-label")
VAL, TEST = 162771, 182638  # the first of each


def _labels(root: Path) -> Path | None:
    parts = first(root, f"{PARTS}/**/*_skin.png") and root / PARTS
    return parts or next((root / name for name in MERGED if first(root, f"{name}/[0-9]*.png")), None)


def _detect(root: Path) -> Fit | None:
    labels, image = _labels(root), first(root, f"{IMAGES}/[0-9]*.*")
    if labels is None and image is None:
        return None
    lacks = f"{IMAGES}/" if image is None else f"{PARTS}/*/*_skin.png" if labels is None else ""
    return Fit(f"{labels.name if labels else IMAGES}/", lacks)


def _read(root: Path, job: Job) -> Reading:
    table, labels = Table.official("celebamask_hq"), _labels(root) or root
    numbers = {info.name: number for number, info in table.rows}
    parts: dict[int, dict[int, Path]] = {}
    for path in image_files(labels):
        number, _, part = path.stem.partition("_")
        if not number.isdecimal() or (part not in numbers if labels.name == PARTS else part):
            job.problems.append(f"{path}: is no label of this layout; its name is not NUMBER_PART.png; remove it")
        else:
            parts.setdefault(int(number), {})[numbers.get(part, 0)] = path
    of_celeba = _mapping(root / MAPPING)
    samples = []
    for image in image_files(root / IMAGES):
        face = int(image.stem) if image.stem.isdecimal() else -1
        if face not in parts or (of_celeba and face not in of_celeba):
            where = labels if face not in parts else root / MAPPING
            job.problems.append(f"{image}: {where} has nothing for it; add it, or remove the image")
            continue
        own, place = parts[face], of_celeba.get(face)
        decode = partial(_merged, own) if labels.name == PARTS else by_id(own[0], table.ids())
        split = None if place is None else "train" if place < VAL else "val" if place < TEST else "test"
        samples.append(Raw(image.stem, image, at_size(decode, image), split))
    return Reading(table.classes, samples, "celebamask_hq")


def _mapping(path: Path) -> dict[int, int]:
    rows = [line.split() for line in listed(path)] if path.is_file() else []
    return {int(row[0]): int(row[1]) for row in rows if len(row) > 1 and row[0].isdecimal() and row[1].isdecimal()}


def _merged(parts: Mapping[int, Path]) -> np.ndarray:
    out: np.ndarray | None = None
    for index in sorted(parts):
        covered = packed_colors(parts[index]) != 0
        out = np.zeros(covered.shape, np.uint8) if out is None else out
        if covered.shape != out.shape:
            raise DatasetError(f"{parts[index]}: is {covered.shape}, and other parts of its face {out.shape} (h, w)")
        out[covered] = index
    assert out is not None
    return out


LAYOUT = Layout(
    "celebamask_hq",
    "CelebAMask-HQ",
    home="https://github.com/switchablenorms/CelebAMask-HQ",
    licence="non-commercial research",
    looks_for="CelebA-HQ-img/ beside CelebAMask-HQ-mask-anno/ (or CelebAMask-HQ-mask/)",
    read=_read,
    detect=_detect,
    splits="official where CelebA-HQ-to-CelebA-mapping.txt is there; otherwise dealt",
    classes="19",
)
