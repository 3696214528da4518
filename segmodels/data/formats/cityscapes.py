"""Cityscapes, fine and coarse.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding" (CVPR 2016). Ids, names, colours and
which are trained: cityscapesScripts, `helpers/labels.py`; the coding of instances: `preparation/json2instanceImg.py`.

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/<split>/<city>/…_gtFine_labelIds.png        8 bits, 0..33; 19 of them are trained, the others are void
    gtFine/<split>/<city>/…_gtFine_labelTrainIds.png   8 bits, 0..18 and 255; read where labelIds are not there
    gtFine/<split>/<city>/…_gtFine_polygons.json       drawn where there are no ids
    gtFine/<split>/<city>/…_gtFine_instanceIds.png     16 bits, id * 1000 + number where objects are told apart
    gtCoarse/…                                         the same with `gtCoarse`; read where gtFine is not there

The labels of the test images hold nothing and are not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segmodels.data.formats import cityscapes_json
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, Table, first, paired

SPLITS = {"train": "train", "train_extra": "train", "val": "val"}
ENDING = "_leftImg8bit.png"


def _kind(root: Path) -> str:
    endings = ("_label*Ids.png", "_polygons.json")
    kinds = (k for e in endings for k in ("gtFine", "gtCoarse") if first(root, f"{k}/*/*/*{e}"))
    return next(kinds, "")


def _detect(root: Path) -> Fit | None:
    image, kind = first(root, f"leftImg8bit/*/*/*{ENDING}"), _kind(root)
    if image is None and not kind:
        return None
    lacks = f"leftImg8bit/*/*/*{ENDING}" if image is None else "" if kind else "gtFine/*/*/*_gtFine_labelIds.png"
    return Fit("leftImg8bit/ and " + kind if image and kind else kind or "leftImg8bit/", lacks)


def _read(root: Path, job: Job) -> Reading:
    table, kind = Table.official("cityscapes"), _kind(root)
    by_train_id = {i: i for i in range(len(table.rows))} | {255: 255}

    def truth(image: Path) -> Path:
        base = root / kind / image.relative_to(root / "leftImg8bit").parent / image.name.removesuffix(ENDING)
        ids = base.with_name(f"{base.name}_{kind}_labelIds.png")
        trained = ids.with_name(ids.name.replace("labelIds", "labelTrainIds"))
        drawn = ids.with_name(ids.name.replace("labelIds.png", "polygons.json"))
        return next((file for file in (ids, trained, drawn) if file.is_file()), ids)

    def samples() -> list[Raw]:
        images = [image for split in SPLITS for image in image_files(root / "leftImg8bit" / split)]
        raws = []
        for image, label in paired(images, truth, job):
            city, split = image.parent.name, SPLITS[image.parent.parent.name]
            name = image.name.removesuffix(ENDING)
            if label.suffix == ".json":
                classes, things = cityscapes_json.decoders(label, {c.name: i for i, c in enumerate(table.classes)})
                raws.append(Raw(name, image, classes, split, city, "", {"instances": things}))
                continue
            codes = by_train_id if "TrainIds" in label.name else table.ids(*range(34))
            objects = label.with_name(label.name.rpartition("_")[0] + "_instanceIds.png")
            targets = {"instances": _objects(objects)} if objects.is_file() else {}
            raws.append(Raw(name, image, by_id(label, codes), split, city, "", targets))
        return raws

    return Reading(table.classes, samples(), "cityscapes")


def _objects(path: Path) -> Decoder:
    def decode() -> np.ndarray:
        values = values_of(path)
        return instances_of(np.where(values >= 1000, values, 0))

    return decode


LAYOUT = Layout(
    "cityscapes",
    "Cityscapes",
    home="https://www.cityscapes-dataset.com",
    licence="Cityscapes terms (non-commercial)",
    looks_for="leftImg8bit/<split>/<city>/ beside gtFine/ or gtCoarse/",
    read=_read,
    detect=_detect,
    obtain="register on its page, then leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked side by side",
    targets=("instances",),
    classes="19",
)
