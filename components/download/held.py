"""Data that a Git repository with DVC holds at a revision, or that lies among MLflow's artifacts.

    dvc+https://host/team/data.git@v2#camvid      the path `camvid` of that repository, as it was at the tag v2
    dvc+/home/me/data@main#sets/streets           a repository on this machine
    runs:/<run id>/data  models:/name/3/data  mlflow-artifacts:/…     of the server that MLFLOW_TRACKING_URI names

The revision is a branch, a tag or a commit; which commit it was is written into `dataset.json`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.download.http import shown
from components.errors import StepError

DVC = "dvc+"
MLFLOW = ("runs:/", "models:/", "mlflow-artifacts:/")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 3600  # seconds that git is given to answer


@dataclass(frozen=True)
class Versioned:
    """A path of a repository at a revision.

    Attributes:
        repository: Its address, or its folder.
        revision: A branch, a tag or a commit.
        path: What is wanted of it.
    """

    repository: str
    revision: str
    path: str

    @classmethod
    def of(cls, source: str) -> Versioned:
        """Return what `dvc+REPOSITORY@REVISION#PATH` says.

        Raises:
            StepError: It says something else.
        """
        rest, _, path = source.removeprefix(DVC).partition("#")
        repository, _, revision = rest.rpartition("@")
        parts = (repository, revision, path)
        if not all(parts) or any(part.startswith("-") for part in parts) or "/" in revision or ":" in revision:
            raise StepError(
                f"data.source: {shown_repository(source)}: write dvc+REPOSITORY@REVISION#PATH, for example "
                "dvc+https://host/team/data.git@v2#camvid"
            )
        return cls(repository, revision, path)


def shown_repository(address: str) -> str:
    """Return a repository's address without a password."""
    return shown(address.removeprefix(DVC)) if "://" in address else address.removeprefix(DVC)


def from_dvc(source: str, target: Path) -> dict[str, Any]:
    """Bring what DVC or Git holds to `target`; give what `dataset.json` says of it.

    Raises:
        StepError: The repository, the revision or the path is not to be had.
    """
    wanted = Versioned.of(source)
    told = f"{shown_repository(wanted.repository)}@{wanted.revision}#{wanted.path}"
    commit = _commit(wanted, told)
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dvc", "get", "--rev", commit, "--out", str(target)]
    done = subprocess.run([*command, wanted.repository, wanted.path], capture_output=True, text=True)
    if done.returncode:
        why = _reason(done.stderr, wanted.repository)
        if "No module named dvc" in why:
            why = "dvc is not installed; pip install 'segmodels[dvc]'"
        raise StepError(f"data.source: {told} is not to be had ({why}); check the path and the remote's credentials")
    held = {"dvc": shown_repository(wanted.repository), "revision": wanted.revision}
    return {**held, "commit": commit, "path": wanted.path}


def from_mlflow(source: str, target: Path) -> dict[str, Any]:
    """Bring what lies behind an address of MLflow to `target`; give what `dataset.json` says of it.

    Raises:
        StepError: The server does not answer, or has no such artifact.
    """
    from components import tracking

    shutil.rmtree(target, ignore_errors=True)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        path = tracking.Store(None).download(source, part)
    except tracking.TrackingError as error:
        raise StepError(f"data.source: {source} is not to be had ({error}); check it and MLFLOW_TRACKING_URI") from None
    path.rename(target)
    shutil.rmtree(part, ignore_errors=True)
    return {"mlflow": source, "server": tracking.public_uri(tracking.tracking_uri())}


def _commit(wanted: Versioned, told: str) -> str:
    """Return the commit that a revision means now."""
    if _COMMIT.fullmatch(wanted.revision):
        return wanted.revision
    command = ["git", "ls-remote", "--exit-code", wanted.repository, wanted.revision, f"{wanted.revision}^{{}}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"data.source: {told}: git does not answer ({type(error).__name__})") from None
    if done.returncode:
        why = (
            _reason(done.stderr, wanted.repository) or "it has no such branch or tag; a commit needs all its 40 digits"
        )
        raise StepError(f"data.source: {told} is not to be had ({why})")
    # Of a tag with a message, the last line is the commit that it means.
    return done.stdout.strip().splitlines()[-1].split()[0]


def _reason(said: str, repository: str) -> str:
    """Return what a tool gave as the reason, or its last line, without passwords."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said).replace(repository, shown_repository(repository))
    lines = [line for line in plain.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR: ", "fatal: "))] or lines[-1:]
    return told[0].removeprefix("ERROR: ").removeprefix("fatal: ").strip()[:200] if told else ""
