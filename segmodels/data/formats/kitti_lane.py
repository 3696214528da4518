"""The ego lane of KITTI Road, in the same folders as the road: `training/gt_image_2/um_lane_000000.png`.

Fritsch, Kühnl, Geiger, "A New Performance Measure and Evaluation Benchmark for Road Detection Algorithms" (2013).
Only the category `um` has it. Files of the road are there, too, so this layout is read where it is named.
"""

from __future__ import annotations

from pathlib import Path

from segmodels.data.formats import kitti_road
from segmodels.data.formats.layout import Job, Layout, Reading


def _read(root: Path, job: Job) -> Reading:
    return kitti_road.reading(root, job, "lane", "kitti_lane")


LAYOUT = Layout(
    "kitti_lane",
    "KITTI Road, the ego lane",
    home=kitti_road.LAYOUT.home,
    licence=kitti_road.LAYOUT.licence,
    looks_for="training/image_2/ beside training/gt_image_2/um_lane_*.png",
    read=_read,
    marks=("training/gt_image_2/um_lane_*.png",),
    needs=("training/image_2",),
    splits="train; val is dealt",
    classes="2",
    by_name=True,
)
