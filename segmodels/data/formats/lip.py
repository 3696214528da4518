"""LIP (Look into Person): 19 parts of people and clothes, and background.

Gong et al., "Look into Person: Self-supervised Structure-sensitive Learning and A New Benchmark for Human Parsing"
(CVPR 2017). Ids: `README_parsing.md` of the annotations' archive.

    TrainVal_images/train_images/77_471474.jpg                       without the upper folder, or with it twice, too
    TrainVal_parsing_annotations/train_segmentations/77_471474.png   8 bits, 0..19; the same for `val_`

An image is named after a photo and a person in it: people of one photo are a group. `Testing_images` has no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired

ABOVE = {"images": "TrainVal_images", "segmentations": "TrainVal_parsing_annotations"}
SPLITS = ("train", "val")


def _folder(root: Path, split: str, kind: str) -> Path | None:
    upper = ABOVE[kind]
    places = (root, root / upper, root / upper / upper)
    return next((p for place in places if (p := place / f"{split}_{kind}").is_dir()), None)


def _detect(root: Path) -> Fit | None:
    labels = next((p for split in SPLITS if (p := _folder(root, split, "segmentations"))), None)
    if labels is None or first(labels, "[0-9]*_[0-9]*.png") is None:
        return None
    lacking = [f"{s}_images/" for s in SPLITS if _folder(root, s, "segmentations") and not _folder(root, s, "images")]
    return Fit(labels.relative_to(root).as_posix() + "/", " and ".join(lacking))


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("lip")

    def samples() -> Iterator[Raw]:
        for split in SPLITS:
            images, labels = _folder(root, split, "images"), _folder(root, split, "segmentations")
            if images is None or labels is None:
                continue
            for image, label in paired(image_files(images), named_alike(labels), job):
                yield Raw(image.stem, image, by_id(label, table.ids(255)), split, image.stem.partition("_")[0])

    return Reading(table.classes, samples(), "lip")


LAYOUT = Layout(
    "lip",
    "LIP (Look into Person)",
    home="http://sysu-hcp.net/lip/",
    licence="non-commercial research",
    looks_for="train_segmentations/ and train_images/, each in its TrainVal folder or without",
    read=_read,
    detect=_detect,
    classes="20",
)
