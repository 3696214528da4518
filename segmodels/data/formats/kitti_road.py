"""KITTI Road in its genuine layout, as `data_road.zip` unpacks.

Fritsch, Kühnl, Geiger, "A New Performance Measure and Evaluation Benchmark for Road Detection Algorithms" (2013).

    data_road/training/image_2/um_000000.png
    data_road/training/gt_image_2/um_road_000000.png       magenta road, red not road, black ignored
    data_road/training/gt_image_2/um_lane_000000.png       the ego lane; not read: `kitti_lane`
    data_road/testing/image_2/…                            without public labels; not read

`val` is dealt from the training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import ClassInfo
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, paired

VOID = (0, 0, 0)


def reading(root: Path, job: Job, kind: str, name: str) -> Reading:
    """Return the samples with a truth of this kind, `road` or `lane`; magenta is it, red is not."""
    table = Table(((0, ClassInfo(f"not {kind}", (255, 0, 0))), (1, ClassInfo(kind, (255, 0, 255)))))
    truth = root / "training" / "gt_image_2"

    def label(image: Path) -> Path:
        category, _, number = image.stem.partition("_")
        return truth / f"{category}_{kind}_{number}.png"

    def samples() -> Iterator[Raw]:
        images = image_files(root / "training" / "image_2")
        if kind == "lane":  # the ego lane is marked in the urban marked category alone
            images = (image for image in images if image.stem.startswith("um_"))
        for image, path in paired(images, label, job, "ground truth"):
            yield Raw(image.stem, image, by_color(path, table.colors(VOID)), "train")

    return Reading(table.classes, samples(), name)


def _read(root: Path, job: Job) -> Reading:
    return reading(root, job, "road", "kitti_road")


LAYOUT = Layout(
    "kitti_road",
    "KITTI Road",
    home="https://www.cvlibs.net/datasets/kitti/eval_road.php",
    licence="CC BY-NC-SA 3.0",
    looks_for="training/image_2/ beside training/gt_image_2/",
    read=_read,
    marks=("training/gt_image_2",),
    needs=("training/image_2",),
    splits="train; val is dealt",
    classes="2",
)
