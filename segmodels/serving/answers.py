"""From predictions to the bytes of an answer, in the forms that the model's task has."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.errors import nearest, printable
from segmodels.serving.images import RefusedError
from segmodels.tasks import get_task, task_info
from segmodels.tasks.base import Answered, TaskError

ZIP = "application/zip"
SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "application/json": ".json",
    "application/geo+json": ".geojson",
    "application/x-npy": ".npy",
}


def negotiate(task: str, output: str | None, accept: str) -> tuple[str, str]:
    """Return the form of an answer and its content type.

    Args:
        task: Of the model that answers.
        output: The form that was named, if any.
        accept: The header `Accept`.

    Raises:
        RefusedError: 406 where no form has a type that is accepted, 422 where the task has no such form.
    """
    forms = task_info(task).forms
    wanted = _preferences(accept)
    if output is not None:
        if output not in forms:
            sentence = f"output: {printable(repr(output[:40]))} is no answer of this model{nearest(output, forms)}"
            raise RefusedError(422, sentence, "parameter")
        # A form that is named is sent even where Accept, which many clients set by themselves, has another type.
        return output, next((kind for kind in wanted if kind in forms[output]), forms[output][0])
    first = next(iter(forms))
    for kind in wanted:
        if kind in ("image/*", "*/*", ZIP):
            return first, forms[first][0]
        for form, kinds in forms.items():
            if kind in kinds:
                return form, kind
    known = list(dict.fromkeys(kind for kinds in forms.values() for kind in kinds))
    shown = f"{', '.join(known[:-1])} or {known[-1]}"
    raise RefusedError(406, f"Accept {accept[:100]}: no answer has that type; ask for {shown}", "accept")


def _preferences(accept: str) -> list[str]:
    """Return the types of a header `Accept`, the most wanted first."""
    weighted = []
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        quality = re.search(r"\bq=([0-9.]+)", parameters)
        try:
            weight = float(quality[1]) if quality else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            weighted.append((weight, kind.strip().lower()))
    return [kind for _, kind in sorted(weighted, key=lambda item: -item[0])]


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its type."""

    body: bytes
    type: str


def answer(
    form: str, kind: str, images: Sequence[np.ndarray], values: Sequence[np.ndarray], names: Sequence[str],
    config: ModelConfig, alpha: float, *, several: bool
) -> Answer:  # fmt: skip
    """Return the answer to a request.

    Args:
        form: What is wanted.
        kind: Its content type.
        images: RGB, uint8 `[H, W, 3]`.
        values: What was predicted for each.
        names: The images' names.
        config: Of the model that predicted.
        alpha: How much of the colours is seen in overlays, 0..1.
        several: Whether many were asked for: then a zip, except for a form that is one document for any number.

    Raises:
        RefusedError: 422 where the task cannot say it in that form.
    """
    task, parts = get_task(config.task), config.parts
    given = [
        Answered(image, value, name, parts, alpha) for image, value, name in zip(images, values, names, strict=True)
    ]
    try:
        document = task.document(form, given)
        if document is not None:
            return Answer(document, kind)
        encode = task.forms()[form].encode[kind]
        bodies = [encode(one) for one in given]
    except TaskError as error:
        raise RefusedError(422, str(error), "ragged") from None
    return Answer(_zip(bodies, names, kind), ZIP) if several else Answer(bodies[0], kind)


def _zip(bodies: Sequence[bytes], names: Sequence[str], kind: str) -> bytes:
    """Return a file for each image, numbered, since two images may have the same name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if kind.startswith("image/") else zipfile.ZIP_DEFLATED) as made:
        for number, (body, name) in enumerate(zip(bodies, names, strict=True)):
            stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in PurePosixPath(name).stem)[:80]
            made.writestr(f"{number:03}-{stem or 'image'}{SUFFIXES[kind]}", body)
    return file.getvalue()
