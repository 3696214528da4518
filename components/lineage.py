"""What a result was made from: code, data, settings, image and the stage that ran.

Nothing here imports dvc: a folder's hash is computed as DVC 3 computes it, so that `dvc.data.md5` is the hash in
`dvc.lock` and the name of the object in the DVC remote, also where the step runs without DVC.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.params import Params, evaluate_settings, train_settings
from segmodels import files
from segmodels.tasks import DEFAULT, named

SETTINGS_FILE = "settings.json"  # of a run's artifacts: what `model_settings` gave
UNKNOWN = "unknown"
NONE = "none"

# They change how fast a result is there, not the result.
NEUTRAL_DATA_KEYS = {"retries", "max_unpacked_gb"}
# Keys that came with a later release: while they are not set, a hash is what it was.
LATER_DATA_KEYS = frozenset({"background", "ignore", "values", "threshold", "coding", "classes", "orientation"})
NEUTRAL_TRAIN_KEYS = {"workers", "cache_gb"}
LATER_SETTINGS = ("max_depth",)  # of training and evaluation, the same


@dataclass(frozen=True)
class Lineage:
    """Where results come from.

    Attributes:
        git_commit: The commit of the code, or `unknown` outside a repository.
        git_dirty: `true` where files differ from that commit, `false`, or `unknown`.
        data_md5: DVC's hash of the dataset folder, `<md5>.dir`.
        params_hashes: Key under `models` -> hash of the settings that affect it.
        architectures: Key under `models` -> name of its architecture.
        image_digest: Digest of the container image, or `none`.
        dvc_stage: The DVC stage that runs, or empty.
        kfp_run_id: The Kubeflow run, or empty.
        task: What the models predict.
    """

    git_commit: str
    git_dirty: str
    data_md5: str
    params_hashes: Mapping[str, str]
    architectures: Mapping[str, str]
    image_digest: str = NONE
    dvc_stage: str = ""
    kfp_run_id: str = ""
    task: str = DEFAULT

    def for_model(self, key: str) -> str:
        """Return the hash of the settings that affect the model `key`."""
        return self.params_hashes[key]

    def tags(self, key: str) -> dict[str, str]:
        """Return the tags of the model's run and version."""
        ran = {"kfp.run_id": self.kfp_run_id} if self.kfp_run_id else {"dvc.stage": self.dvc_stage or NONE}
        return {
            "architecture": self.architectures[key],
            "task": self.task,
            "params.hash": self.for_model(key),
            "dvc.data.md5": self.data_md5,
            "git.commit": self.git_commit,
            "git.dirty": self.git_dirty,
            "image.digest": self.image_digest,
            **ran,
        }


def collect(params: Params, data: Path, *, env: Mapping[str, str] = os.environ) -> Lineage:
    """Find out what a run is made from.

    Args:
        params: The settings.
        data: The dataset folder.
        env: `GIT_COMMIT`, `GIT_DIRTY` and `IMAGE_DIGEST` are set where the code runs from an image without its
            repository, `DVC_STAGE` by DVC and `KFP_RUN_ID` by the pipeline.

    Raises:
        StepError: The dataset folder does not exist.
    """
    commit, dirty = code(env)
    return Lineage(
        git_commit=commit,
        git_dirty=dirty,
        data_md5=folder_md5(data),
        params_hashes={key: params_hash(params, key) for key in params.models},
        architectures={key: params.architecture(key) for key in params.models},
        image_digest=env.get("IMAGE_DIGEST") or NONE,
        dvc_stage=env.get("DVC_STAGE", ""),
        kfp_run_id=env.get("KFP_RUN_ID", ""),
        task=params.task,
    )


def code(env: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the commit of the code, and whether files differ from it: `true`, `false` or `unknown`."""
    commit, dirty = env.get("GIT_COMMIT", ""), env.get("GIT_DIRTY", "")
    if not commit:
        commit = _git("rev-parse", "HEAD") or UNKNOWN
        dirty = dirty or _dirty()
    return commit, dirty or UNKNOWN


def params_hash(params: Params, key: str) -> str:
    """Return a hash, 16 hexadecimal digits, of every setting that affects the model `key`."""
    return hashlib.sha256(canonical_json(model_settings(params, key)).encode()).hexdigest()[:16]


def model_settings(params: Params, key: str) -> dict[str, Any]:
    """Return the settings that affect the model `key`, overrides resolved, as plain JSON values."""
    entry = params.models[key]
    data = params.data.model_dump(mode="json")
    train = asdict(train_settings(params, key))
    settings: dict[str, Any] = {
        "key": key,
        **named(params.task),
        "seed": params.seed,
        "data": {
            name: value
            for name, value in data.items()
            if name not in NEUTRAL_DATA_KEYS and (value or name not in LATER_DATA_KEYS)
        },
        "model": {"architecture": params.architecture(key), "backbone": entry.backbone, "options": entry.options},
        "train": {name: value for name, value in train.items() if name not in NEUTRAL_TRAIN_KEYS},
        "evaluate": asdict(evaluate_settings(params, key)),
    }
    for section in (settings["train"], settings["evaluate"]):
        for name in LATER_SETTINGS:
            if section[name] is None:
                del section[name]
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def folder_md5(folder: Path) -> str:
    """DVC 3's hash of a folder: the md5 of its manifest, with the suffix `.dir`.

    Raises:
        StepError: The folder does not exist.
    """
    if not folder.is_dir():
        raise StepError(f"{folder}: no such folder; `python -m components download` writes it")
    return files.folder_md5(folder)


def _dirty() -> str:
    # DVC itself writes dvc.lock while its stages run.
    changed = _git("status", "--porcelain", "--", ".", ":(exclude,top)dvc.lock")
    return UNKNOWN if changed is None else str(bool(changed)).lower()


def _git(*arguments: str) -> str | None:
    """Return what git prints, or None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
