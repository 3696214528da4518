"""Every architecture at the size at which tests run it."""

from __future__ import annotations

from typing import Any

import torch

from segmodels.catalog.registry import create_model, model_info
from segmodels.data.folder import ClassInfo

CLASSES = 5
INFOS = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(CLASSES))


def small(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, CLASSES, **{**model_info(name).small, **options})


def step(model: Any, images: torch.Tensor, target: torch.Tensor) -> None:
    """One plain gradient step: some papers start their classifiers from zero."""
    model.train()
    model.zero_grad()
    model.loss(model(images), {"labels": target}).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad / (parameter.grad.norm() + 1e-6)
