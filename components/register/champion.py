"""The champion's figures on the present test images: those of its run, or those of an evaluation made for them.

Figures of other data say nothing about a difference. Where the champion was evaluated on another version of the data,
or before evaluations kept what each image counted, its weights are taken from MLflow and evaluated here, once: the
result is stored in its run, under the hash of the data.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.params import Params
from components.register.gate import Champion, Measured
from components.tracking import Store
from segmodels.files import read_json, read_yaml, relative
from segmodels.settings.schema import EvaluateSettings, PredictSettings
from segmodels.tasks import DEFAULT
from segmodels.tasks.per_image import PER_IMAGE_FILE, PerImage

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FILES = (PER_IMAGE_FILE, "speed.json")
EVALUATION = "evaluation"


def read_champion(store: Store, version: ModelVersion, params: Params, data: Path, data_md5: str) -> Champion:
    """Return the champion as the gate needs it.

    Args:
        store: Where it is registered.
        version: The champion.
        params: The settings; `evaluate` is that of an evaluation that has to be made.
        data: The dataset folder.
        data_md5: Its hash.
    """
    key = version.tags.get("model.key", version.name)
    task = version.tags.get("task", DEFAULT)
    if task != params.task:
        obstacle = (
            f"the champion (version {version.version}) predicts another task ({task}): register this one under "
            "another register.model_name"
        )
        return Champion(version.version, key, obstacle=obstacle)
    with store.calling():
        own = store.client.get_run(version.run_id)
    boundary_px, max_depth = params.evaluate.boundary_px, params.evaluate.max_depth
    logged = own.data.params
    here = (
        own.data.tags.get("dvc.data.md5") == data_md5
        and logged.get("evaluate.boundary_px") == str(boundary_px)
        and logged.get("evaluate.max_depth", "None") == str(max_depth)
    )
    if here and store.has_files(version.run_id, EVALUATION, FILES):
        return Champion(version.version, key, _download(store, version.run_id, EVALUATION))
    folder = f"evaluation-{data_md5.removesuffix('.dir')}-{boundary_px}px"
    folder += f"-{max_depth:g}m" if max_depth is not None else ""
    if not store.has_files(version.run_id, folder, FILES):
        obstacle = _evaluate(store, version, params, data, folder)
        if obstacle:
            return Champion(version.version, key, obstacle=obstacle)
    return Champion(version.version, key, _download(store, version.run_id, folder), again=True)


def _download(store: Store, run_id: str, folder: str) -> Measured:
    with tempfile.TemporaryDirectory() as place:
        counts, speed = (store.download_file(run_id, f"{folder}/{name}", Path(place)) for name in FILES)
        return Measured(PerImage.read(counts), json.loads(speed.read_text()))


def _evaluate(store: Store, version: ModelVersion, params: Params, data: Path, folder: str) -> str:
    """Evaluate the champion as it is served and store the result in its run; give the obstacle if there is one."""
    from segmodels.catalog.weights import CheckpointError
    from segmodels.data.folder import DatasetError
    from segmodels.evaluation.evaluate import evaluate

    who = f"the champion (version {version.version})"
    print(f"{who} was evaluated on other data; evaluating it on {data}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        stored = store.download(f"models:/{version.name}/{version.version}", Path(place))
        flavor: dict[str, Any] = read_yaml(stored / "MLmodel")["flavors"]["python_function"]
        trained = stored / relative(flavor["artifacts"]["model"]["path"], f"{who}: MLmodel: path")
        as_served = flavor.get("config") or {}
        base = {name: value for name, value in dataclasses.asdict(params.evaluate).items() if name != "models"}
        settings = EvaluateSettings(**{**base, **PredictSettings.of(as_served).as_json()})
        out = Path(place) / folder
        try:
            evaluate(trained, data, out, settings)
        except DatasetError:
            # It names the folders of this evaluation, which nobody will find.
            classes = [c["name"] for c in read_json(trained / "model.json")["classes"]]
            known = [c["name"] for c in read_json(data / "dataset.json")["classes"]]
            if classes == known:
                raise
            return (
                f"{who} has other classes ({', '.join(classes)}) than this data ({', '.join(known)}): register it "
                "under another register.model_name"
            )
        except CheckpointError as error:
            return f"{who} cannot be evaluated with this code: {error}"
        with store.calling():
            for name in (*FILES, "metrics.json"):
                store.client.log_artifact(version.run_id, str(out / name), folder)
    return ""
