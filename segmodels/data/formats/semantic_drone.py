"""Semantic Drone Dataset: houses and gardens from 5 to 30 metres above, 22 classes.

Institute of Computer Graphics and Vision, TU Graz (2019). Classes and colours: `class_dict.csv` of the authors, on
Kaggle `class_dict_seg.csv`, whose lines are numbered from 0. `unlabeled` and `conflicting` are void.

    training_set/images/000.jpg            training_set/gt/semantic/label_images/000.png      colours
    original_images/000.jpg                label_images_semantic/000.png                      Kaggle: 8 bits, 0..23
    original_images/000.jpg                RGB_color_image_masks/000.png                      Kaggle: colours

Another data set on Kaggle has the same folders and five classes: where no list of classes is there, an id above 4 tells
that it is this one. There are no public labels of the test images; splits are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color, by_id, values_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired

FOLDERS = (
    ("training_set/images", "training_set/gt/semantic/label_images"), ("images", "gt/semantic/label_images"),
    ("original_images", "label_images_semantic"), ("original_images", "RGB_color_image_masks"),
)  # fmt: skip
UNLABELED, CONFLICTING = (0, 0, 0), (255, 0, 0)
FIVE, IDS, LIST = 5, "label_images_semantic", "class_dict_seg.csv"


def _folders(root: Path) -> tuple[Path, Path] | None:
    pair = next((pair for pair in FOLDERS if first(root, f"{pair[1]}/[0-9]*.png")), None)
    return (root / pair[0], root / pair[1]) if pair else None


def _detect(root: Path) -> Fit | None:
    folders = _folders(root)
    if folders is None:
        return None
    images, labels = folders
    return Fit(f"{labels.relative_to(root).as_posix()}/", "" if images.is_dir() else images.name + "/")


def _read(root: Path, job: Job) -> Reading:
    table, folders = Table.official("semantic_drone"), _folders(root)
    assert folders is not None
    images, labels = folders
    if labels.name == IDS and not any((folder / LIST).is_file() for folder in (root, *list(root.parents)[:2])):
        highest = next((label for label in image_files(labels) if values_of(label).max() >= FIVE), None)
        if highest is None:
            raise DatasetError(
                f"{labels}: ids are 0..{FIVE - 1}, as of another data set with five classes; add {LIST} if it is this "
                "one, or name the classes in classes.txt and set data.format to folder"
            )

    def samples() -> Iterator[Raw]:
        for image, label in paired(image_files(images), named_alike(labels), job):
            ids, colors = table.ids(0, len(table.rows) + 1), table.colors(UNLABELED, CONFLICTING)
            yield Raw(image.stem, image, by_id(label, ids) if labels.name == IDS else by_color(label, colors))

    return Reading(table.classes, samples(), "semantic_drone")


LAYOUT = Layout(
    "semantic_drone",
    "Semantic Drone Dataset",
    home="http://dronedataset.icg.tugraz.at",
    licence="non-commercial research (TU Graz)",
    looks_for="training_set/gt/semantic/label_images/, or label_images_semantic/ beside original_images/",
    read=_read,
    detect=_detect,
    splits="dealt",
    classes="22",
)
