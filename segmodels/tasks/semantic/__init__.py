"""Semantic segmentation: one class for each pixel."""

from __future__ import annotations

from segmodels.tasks.base import Figure, TaskInfo, Watched

MIOU = Figure("miou", "mIoU")
INFO = TaskInfo(
    name="semantic",
    kind="dense",
    title="semantic segmentation",
    needs=("labels",),
    shown=(
        MIOU,
        Figure("pixel_accuracy", "pixel accuracy", short="pixel acc."),
        Figure("boundary_f1", "boundary F1"),
        Figure("ece", "ECE", better="less"),
    ),
    each=Figure("iou", "IoU"),
    validated=("miou", "pixel_accuracy"),
    part="class",
    losses=("cross_entropy", "focal", "dice", "lovasz", "ohem"),
    loss={"cross_entropy": 1.0},
    rules={
        "miou": {"floor": 0.15, "gain": 0.005},
        "iou/*": {"floor": 0.0, "loss": 0.05},
        "boundary_f1": {"loss": 0.02},
        "ece": {"loss": 0.02},
        "ms_per_image": {"times": 2.0},
        "parameters": {"times": 4.0},
    },
    watched=Watched(
        shares=("class mix", "share of the pixels predicted as each class"),
        number=("confidence", "mean probability of the predicted class"),
    ),
    forms={
        "classes": ("image/png",),
        "overlay": ("image/jpeg", "image/png"),
        "coco": ("application/json",),
        "geojson": ("application/geo+json", "application/json"),
    },
    former={
        "min_miou": ("miou", "floor"),
        "min_class_iou": ("iou/*", "floor"),
        "min_gain": ("miou", "gain"),
        "max_class_loss": ("iou/*", "loss"),
        "max_boundary_loss": ("boundary_f1", "loss"),
        "max_ece_rise": ("ece", "loss"),
        "max_slowdown": ("ms_per_image", "times"),
        "max_growth": ("parameters", "times"),
    },
    sampled=True,
    needs_classes=True,
)
