"""Genuine data that some tests compare with, where somebody has it: `SEGMODELS_TEST_DATA` names the folder.

camvid/                                   CamVid in the layout of the SegNet tutorial
samples/kitti_road/data_road/training/    a few images of KITTI Road
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SEGMODELS_TEST_DATA", "no-such-folder")).resolve()
CAMVID, KITTI = ROOT / "camvid", ROOT / "samples/kitti_road"

needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason="SEGMODELS_TEST_DATA names no folder with camvid/")
needs_kitti = pytest.mark.skipif(
    not KITTI.is_dir(), reason="SEGMODELS_TEST_DATA names no folder with samples/kitti_road/"
)
KUBEFLOW = ROOT.parent / "kfp"
needs_kubeflow = pytest.mark.skipif(
    not (KUBEFLOW / "runs.json").is_file(), reason="no recordings of a real Kubeflow beside SEGMODELS_TEST_DATA"
)
