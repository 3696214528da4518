"""Semantic segmentation: architectures, training, prediction.

    import segmodels

    segmodels.list_models()
    segmodels.fit("photos", "models/mine", architecture="unet")
    mask = segmodels.Predictor("models/mine").predict("photo.jpg")

Each name is imported when it is first used; importing the package itself imports nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmodels.artifacts.model_folder import load_model
    from segmodels.catalog.registry import create_model, list_models, model_info
    from segmodels.evaluation.evaluate import evaluate
    from segmodels.inference.predictor import Predictor
    from segmodels.training.fit import fit

    __version__: str

_PUBLIC = {
    "create_model": "segmodels.catalog.registry",
    "list_models": "segmodels.catalog.registry",
    "model_info": "segmodels.catalog.registry",
    "load_model": "segmodels.artifacts.model_folder",
    "Predictor": "segmodels.inference.predictor",
    "fit": "segmodels.training.fit",
    "evaluate": "segmodels.evaluation.evaluate",
}

__all__ = ["Predictor", "__version__", "create_model", "evaluate", "fit", "list_models", "load_model", "model_info"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("segmodels")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'segmodels' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
