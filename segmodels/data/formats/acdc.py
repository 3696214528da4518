"""ACDC: streets in fog, at night, in rain and in snow, with Cityscapes' classes; Dark Zurich has the same folders.

Sakaridis, Dai, Van Gool, "ACDC: The Adverse Conditions Dataset with Correspondences for Semantic Driving Scene
Understanding" (ICCV 2021). Ids are those of Cityscapes (cityscapesScripts, `helpers/labels.py`).

    rgb_anon/<condition>/<split>/<sequence>/X_rgb_anon.png      Dark Zurich: rgb_anon/<split>/night/<sequence>/
    gt/<condition>/<split>/<sequence>/X_gt_labelIds.png         8 bits, 0..33; 19 of them are trained
    gt/<condition>/<split>/<sequence>/X_gt_labelTrainIds.png    8 bits, 0..18 and 255; read where those are not there

Images in `*_ref` folders show the places in good weather and have no labels; those of the test have none, either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table

SPLITS = ("train", "val")
ENDING = "_rgb_anon.png"


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("cityscapes")
    trained = {i: i for i in range(len(table.rows))} | {255: 255}

    def samples() -> Iterator[Raw]:
        bare = []
        for image in image_files(root / "rgb_anon"):
            parts = image.relative_to(root / "rgb_anon").parts
            split = next((split for split in SPLITS if split in parts), None)
            if split is None or not image.name.endswith(ENDING):
                continue
            name = image.name.removesuffix(ENDING)
            ids = root.joinpath("gt", *parts[:-1], f"{name}_gt_labelIds.png")
            label = ids if ids.is_file() else ids.with_name(f"{name}_gt_labelTrainIds.png")
            if not label.is_file():
                bare.append(image)
                continue
            codes = table.ids(*range(34)) if label == ids else trained
            yield Raw(name, image, by_id(label, codes), split, image.parent.name)
        job.left_out(bare, "these have no labels")

    return Reading(table.classes, samples(), "acdc")


LAYOUT = Layout(
    "acdc",
    "ACDC, and Dark Zurich",
    home="https://acdc.vision.ee.ethz.ch",
    licence="ACDC terms (non-commercial)",
    looks_for="rgb_anon/<condition>/<split>/ beside gt/",
    read=_read,
    marks=("gt/*/*/*/*_gt_label*Ids.png",),
    needs=("rgb_anon/*/*/*/*_rgb_anon.png",),
    obtain="register on its page, then rgb_anon_trainvaltest.zip and gt_trainval.zip, unpacked side by side",
    classes="19",
)
