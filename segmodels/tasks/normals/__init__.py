"""Surface normals: the direction that each pixel's surface faces."""

from __future__ import annotations

from segmodels.tasks.base import Figure, TaskInfo, Watched

INFO = TaskInfo(
    name="normals",
    kind="dense",
    title="surface normals",
    needs=("normals",),
    shown=(
        Figure("mean_angle", "mean angle", better="less", unit="°"),
        Figure("median_angle", "median angle", better="less", unit="°"),
        Figure("under_11", "under 11.25°"),
        Figure("under_22", "under 22.5°"),
        Figure("under_30", "under 30°"),
    ),
    each=Figure("mean_angle", "mean angle", better="less", unit="°"),
    validated=("mean_angle", "under_30"),
    part="direction",
    losses=("angular", "cosine"),
    loss={"angular": 1.0},
    rules={
        "mean_angle": {"floor": 60.0, "gain": 0.2},
        "mean_angle/*": {"loss": 5.0},
        "under_11": {"loss": 0.02},
        "ms_per_image": {"times": 2.0},
        "parameters": {"times": 4.0},
    },
    watched=Watched(
        shares=("direction mix", "share of the pixels predicted to face each way"),
        number=("facing", "mean of how much the predicted surfaces face the camera, -1..1"),
    ),
    forms={
        "normals": ("image/png",),
        "overlay": ("image/jpeg", "image/png"),
        "npy": ("application/x-npy",),
    },
)
