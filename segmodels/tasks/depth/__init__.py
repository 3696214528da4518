"""Depth: metres along the optical axis, for each pixel."""

from __future__ import annotations

from segmodels.tasks.base import Figure, TaskInfo, Watched

INFO = TaskInfo(
    name="depth",
    kind="dense",
    title="depth estimation",
    needs=("depth",),
    shown=(
        Figure("abs_rel", "AbsRel", better="less", unit=""),
        Figure("rmse", "RMSE", better="less", unit="m"),
        Figure("si_rmse", "si-RMSE", better="less", unit=""),
        Figure("delta1", "δ < 1.25"),
        Figure("delta2", "δ < 1.25²"),
        Figure("delta3", "δ < 1.25³"),
    ),
    each=Figure("abs_rel", "AbsRel", better="less", unit=""),
    validated=("abs_rel", "rmse", "delta1"),
    part="range",
    losses=("silog", "scale_invariant", "squared_gradient", "gradient", "smoothness", "laplacian"),
    loss={"silog": 1.0, "gradient": 0.5},
    rules={
        "abs_rel": {"floor": 0.6, "gain": 0.002},
        "abs_rel/*": {"loss": 0.1},
        "rmse": {"loss": 1.0},
        "delta1": {"loss": 0.02},
        "ms_per_image": {"times": 2.0},
        "parameters": {"times": 4.0},
    },
    watched=Watched(
        shares=("range mix", "share of the pixels predicted in each range of depth"),
        number=("median depth", "median of the predicted depths, metres"),
    ),
    forms={
        "depth": ("image/png",),
        "overlay": ("image/jpeg", "image/png"),
        "npy": ("application/x-npy",),
    },
)
