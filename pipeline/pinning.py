"""What a submitted run is fixed to: the commit of the code, the version of the data, the content of the image.

`submit` refuses what the cluster could not fetch again tomorrow: files that differ from the commit, data that is not in
the DVC remote, an image whose tag may move.
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from components import lineage
from components.download import dvc_remote
from components.errors import StepError
from components.lock import cache_folder
from pipeline.dag import Cluster

STAGE = "download"


def pinned(cluster: Cluster, *, allow_dirty: bool, allow_tag: bool, from_source: bool) -> Cluster:
    """Return the cluster's settings with the version of the data, once code, data and image are known to be fixed.

    Args:
        cluster: What pods need.
        allow_dirty: Files may differ from the commit; the runs' lineage says so.
        allow_tag: The image may be named by a tag; nothing is cached then.
        from_source: The data is downloaded from `data.source`, whatever it has now.

    Raises:
        StepError: Something is not fixed; says what to do, and which option goes on without.
    """
    commit, dirty = lineage.code()
    if commit == lineage.UNKNOWN and not allow_dirty:
        raise StepError(
            "submit: no git commit here, so nobody could find this code again; submit from the repository, or with "
            "--allow-dirty"
        )
    if dirty != "false" and not allow_dirty:
        raise StepError("submit: files differ from the last commit; commit them, or submit with --allow-dirty")
    if cluster.digest is None and not allow_tag:
        raise StepError(
            f"submit: the tag of {cluster.image} may move; give --image NAME@sha256:…, or submit with --allow-tag"
        )
    if from_source:
        return cluster
    md5, remote = _version(), _remote()
    missing = dvc_remote.unpushed(dvc_remote.Remote.at(remote), md5, cache_folder() / "dvc")
    if missing:
        raise StepError(
            f"submit: {remote} lacks {len(missing)} objects of the data ({missing[0]}, …); `dvc push {STAGE}`, or "
            "submit with --data-from-source"
        )
    return replace(cluster, data_remote=remote, data_md5=md5)


def _version() -> str:
    """Return the hash of the data in dvc.lock, if that belongs to the settings of now."""
    lock = Path("dvc.lock")
    stage: dict[str, Any] = (yaml.safe_load(lock.read_text()) or {}).get("stages", {}) if lock.is_file() else {}
    if STAGE not in stage:
        raise StepError(f"submit: dvc.lock has no data; `dvc repro {STAGE}`, or submit with --data-from-source")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", STAGE], capture_output=True, text=True, timeout=600
    )
    changes = json.loads(done.stdout or "{}").get(STAGE, []) if done.returncode == 0 else ["unknown"]
    if changes:
        raise StepError(
            f"submit: the data or its settings have changed since dvc.lock was written; `dvc repro {STAGE}` and "
            "`dvc push`, or submit with --data-from-source"
        )
    return str(stage[STAGE]["outs"][0]["md5"])


def _remote() -> str:
    """Return the address of DVC's default remote."""
    config = configparser.ConfigParser()
    config.read([".dvc/config", ".dvc/config.local"])
    name = config.get("core", "remote", fallback="")
    # DVC writes the section as ['remote "name"'].
    section = next((s for s in config.sections() if s.strip("'") == f'remote "{name}"'), None)
    if not name or section is None:
        raise StepError(
            "submit: no DVC remote holds the data; `dvc remote add -d storage s3://bucket/prefix` and `dvc push`, or "
            "submit with --data-from-source"
        )
    return config.get(section, "url")
