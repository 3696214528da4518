"""Oxford-IIIT Pet: cats and dogs of 37 breeds, the animal on its background.

Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs" (CVPR 2012). Ids and lists: `annotations/README` of the archive.

    images/Abyssinian_1.jpg
    annotations/trimaps/Abyssinian_1.png       1 = foreground, 2 = background, 3 = not classified, which is void
    annotations/trainval.txt, test.txt         `image class species breed` a line

`val` is dealt from trainval. Images that no list names are left out.
"""

from __future__ import annotations

from pathlib import Path

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, named_alike, paired
from segmodels.data.formats.truth import listed

LISTS = {"trainval": "train", "test": "test"}
TABLE = Table(((2, ClassInfo("background", (0, 0, 0))), (1, ClassInfo("pet", (255, 128, 0)))))
VOID = 3


def _read(root: Path, job: Job) -> Reading:
    truth = root / "annotations"
    lists = {split: truth / f"{name}.txt" for name, split in LISTS.items() if (truth / f"{name}.txt").is_file()}
    if not lists:
        raise DatasetError(f"{truth}: has no trainval.txt and no test.txt; restore them from annotations.tar.gz")
    splits = {line.split()[0]: split for split, path in lists.items() for line in listed(path) if line[0] != "#"}
    images = {path.stem: path for path in image_files(root / "images")}
    for name in sorted(splits.keys() - images.keys()):
        job.problems.append(f"{root / 'images'}: {name}.jpg is missing; add it, or take it out of the list")
    job.left_out([images[name] for name in sorted(images.keys() - splits.keys())], "no list names them")
    there = [images[name] for name in sorted(splits.keys() & images.keys())]
    pairs = paired(there, named_alike(truth / "trimaps"), job, "trimap")
    ids = TABLE.ids(VOID)
    return Reading(TABLE.classes, (Raw(i.stem, i, by_id(t, ids), splits[i.stem]) for i, t in pairs), "oxford_pet")


LAYOUT = Layout(
    "oxford_pet",
    "Oxford-IIIT Pet",
    home="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0",
    looks_for="annotations/trimaps/ beside images/",
    read=_read,
    marks=("annotations/trimaps/*.png",),
    needs=("images/*.jpg",),
    splits="official; val is dealt",
    classes="2",
)
