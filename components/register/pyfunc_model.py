"""The served model: encoded images or arrays in, predictions out. MLflow stores this file beside the model folder.

Nothing is pickled: MLflow runs this file (models from code), and the model folder holds safetensors and JSON. The
package `segmodels` travels with the model, so that serving needs no checkout.

Input, one of:
    rows with a column `image`: each the base64 of an encoded image (PNG, JPEG, …), as a DataFrame, a list of
        `{"image": …}`, a dict `{"image": […]}`, or over HTTP `{"dataframe_records": [{"image": "…"}, …]}`;
    an array, uint8 RGB: `[H, W, 3]` or `[N, H, W, 3]` of any size, over HTTP `{"inputs": […]}`.

Output:
    for rows: a DataFrame with a row each: `classes` (base64 of an 8-bit PNG of class ids; of another task its first
        form, e.g. `depth`, base64 of a PNG of 16 bits in steps of 1/256 m), `height`, `width`;
    for an array: class ids, uint8 `[H, W]` or `[N, H, W]`; of another task what it predicts, e.g. metres, float32.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from PIL import Image

from segmodels.data.bands import Bands, view
from segmodels.data.folder import DatasetError
from segmodels.data.images import open_image, upright_rgb


class SegmentationModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Predicts with the model folder that it was stored with, and as it was evaluated."""

    def load_context(self, context: Any) -> None:
        from segmodels.runtime import limit_threads

        limit_threads()  # before torch, which takes its threads from the environment
        from segmodels.inference.predictor import Predictor
        from segmodels.settings.schema import PredictSettings

        settings = PredictSettings.of(context.model_config or {})
        self.predictor = Predictor(context.artifacts["model"], device="auto", settings=settings)

    # MLflow would check rows against a type hint of the input, which arrays are not.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if isinstance(model_input, np.ndarray) and model_input.dtype.kind in "uif":
            return self._predict_array(model_input)
        return self._predict_rows(_column(model_input))

    def _predict_array(self, images: np.ndarray) -> np.ndarray:
        if not self.predictor.config.bands.plain:
            return self._predict_bands(images)
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise _refuse(f"an array has the shape [H, W, 3] or [N, H, W, 3], not {list(images.shape)}")
        if not images.size:
            raise _refuse(f"an array of the shape {list(images.shape)} has no pixels")
        if images.dtype != np.uint8:
            if not (images.min() >= 0 and images.max() <= 255):
                raise _refuse("values of an image array lie in 0..255")
            images = images.astype(np.uint8)
        if images.ndim == 3:
            return np.asarray(self.predictor.predict(images))
        return np.stack([self.predictor.predict(image) for image in images])

    def _predict_bands(self, images: np.ndarray) -> np.ndarray:
        """Predict arrays of the values that files hold."""
        try:
            if images.ndim == 4:
                return np.stack([self.predictor.predict(image) for image in images])
            return np.asarray(self.predictor.predict(images))
        except DatasetError as error:
            raise _refuse(str(error)) from None

    def _predict_rows(self, encoded: list[Any]) -> pd.DataFrame:
        rows = []
        form = next(iter(self.predictor.task.info.forms))
        for i, text in enumerate(encoded):
            image = _decode(text, i, self.predictor.config.bands)
            body = self._encoded(image, self.predictor.predict(image), form)
            height, width = image.shape[:2]
            rows.append({form: base64.b64encode(body).decode(), "height": height, "width": width})
        return pd.DataFrame(rows, columns=[form, "height", "width"])

    def _encoded(self, image: np.ndarray, value: np.ndarray, form: str) -> bytes:
        """Return a prediction as the file of the task's first form; class ids without a palette."""
        from segmodels.tasks.base import Answered

        if value.dtype == np.uint8 and value.ndim == 2:
            file = io.BytesIO()
            Image.fromarray(value).save(file, "PNG")
            return file.getvalue()
        (encode,) = self.predictor.task.forms()[form].encode.values()
        body: bytes = encode(Answered(view(image), value, "image", self.predictor.config.parts))
        return body


def _column(model_input: Any) -> list[Any]:
    """Return the values of the column `image`."""
    if isinstance(model_input, np.ndarray):  # an array of strings
        return list(model_input.ravel())
    if isinstance(model_input, Mapping):
        model_input = dict(model_input)
        if isinstance(model_input.get("image"), str | bytes):
            return [model_input["image"]]
    elif isinstance(model_input, list | tuple):
        if all(isinstance(item, str | bytes) for item in model_input):
            return list(model_input)
        model_input = pd.DataFrame(list(model_input))
    elif not isinstance(model_input, pd.DataFrame):
        raise _refuse(f"cannot predict from {type(model_input).__name__}; give rows with a column 'image' or an array")
    if "image" not in model_input:
        raise _refuse("rows need a column 'image': the base64 of an encoded image")
    return list(np.asarray(model_input["image"], dtype=object).ravel())


def _decode(text: Any, row: int, bands: Bands) -> np.ndarray:
    """Return an encoded image as channels, turned upright as its EXIF says."""
    try:
        if isinstance(text, str) and text.startswith("data:"):
            text = text.partition(",")[2]
        data = base64.b64decode(text, validate=True)
        if not bands.plain:
            return bands.read(data, f"row {row}")
        with open_image(io.BytesIO(data)) as image:
            return upright_rgb(image)
    except Exception as error:  # whatever a decoder says of hostile bytes
        raise _refuse(f"row {row}: 'image' is not the base64 of an encoded image ({error})") from None


def _refuse(sentence: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(sentence)  # HTTP 400


mlflow.models.set_model(SegmentationModel())
