"""Registered models as `segmodels` uses them: `models:/NAME@ALIAS` and `models:/NAME/NUMBER`.

The entry point `models` of the group `segmodels.models` leads here, so that `segmodels serve` and `segmodels predict`
follow MLflow's registry without the library knowing of MLflow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

from components import tracking
from segmodels.artifacts.sources import (
    CONFIG,
    WEIGHTS,
    AddressError,
    Fetched,
    SourceError,
    UnreachableError,
    Version,
    sha256_of,
)
from segmodels.errors import UserError
from segmodels.files import NameRefusedError, read_yaml, relative, write_text
from segmodels.files import name as file_name
from segmodels.settings.schema import PredictSettings

log = logging.getLogger(__name__)
ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@[^/@]+|/\d+)")
KEPT = 3  # versions of a model in the cache; more than the two that a swap needs, so that rolling back is fast
MLMODEL = "MLmodel"
# With these MLflow says that there is no such model, version or alias; whatever else it says, it says nothing of them.
ANSWERS = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})


class RegisteredModel:
    """The version that an address of MLflow's registry means; `segmodels.artifacts.sources.Source`.

    Args:
        address: `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.
        cache: Folder in which versions are kept, each under its number and the hash of its weights.

    Raises:
        AddressError: The address is neither.
    """

    def __init__(self, address: str, cache: Path) -> None:
        parts = ADDRESS.fullmatch(address)
        if parts is None:
            raise AddressError(f"{address}: not the address of a version; it is models:/NAME@ALIAS or models:/NAME/1")
        self.address, self.name = address, parts["name"]
        self.cache = cache / _folder(re.sub(r"[^\w.-]", "_", self.name), address)
        # Of another registry the same address is another model.
        registry = hashlib.sha256(_registry().encode()).hexdigest()[:12]
        self._memory = cache / f"{re.sub(r'[^a-zA-Z0-9_.@-]', '_', address)}-{registry}.json"
        self._store: tracking.Store | None = None

    def latest(self) -> Version:
        """As `segmodels.artifacts.sources.Source.latest`."""
        try:
            version = self._opened().find(self.address)
        except tracking.TrackingError as error:
            answered = getattr(error.__cause__, "error_code", "") in ANSWERS
            raise (SourceError if answered else UnreachableError)(f"{self.address}: {error}") from None
        sha256 = str(version.tags.get(tracking.MODEL_TAG, ""))
        # Without the hash the place of its files tells a version from one of the same number that was made anew.
        mark = sha256 or re.sub(r"\W", "_", str(version.source))
        return Version(self.name, str(version.version), sha256, _folder(f"{version.version}-{mark}", self.address))

    def fetch(self, version: Version) -> Fetched:
        """As `segmodels.artifacts.sources.Source.fetch`; what the cache has is not downloaded again."""
        folder = self.cache / version.key
        if not (folder / MLMODEL).is_file():
            self._download(version, folder)
        os.utime(folder)
        model, settings, profile = _description(folder)
        digest = sha256_of(model / WEIGHTS)
        if version.sha256 and digest != version.sha256:
            shutil.rmtree(folder)  # so that the next try downloads it again
            raise SourceError(
                f"models:/{self.name}/{version.number}: its weights have the hash {digest[:12]}…, but its tag "
                f"{tracking.MODEL_TAG} says {version.sha256[:12]}…; register the model again"
            )
        self._forget(folder)
        return Fetched(model, settings, digest, profile)

    def remember(self, version: Version) -> None:
        """As `segmodels.artifacts.sources.Source.remember`."""
        try:
            write_text(self._memory, json.dumps(dataclasses.asdict(version)), shared=True)
        except OSError as error:
            log.warning("%s: %s; a start while MLflow is away would find nothing", self._memory, error.strerror)

    def remembered(self) -> Version | None:
        """As `segmodels.artifacts.sources.Source.remembered`."""
        try:
            version = Version(**json.loads(self._memory.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return version if (self.cache / version.key / MLMODEL).is_file() else None

    def _opened(self) -> tracking.Store:
        if self._store is None:
            self._store = tracking.Store(None, retries=1, timeout=10)
        return self._store

    def _download(self, version: Version, folder: Path) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.cache))
        try:
            self._opened().download(f"models:/{self.name}/{version.number}", part)
            os.replace(part, folder)
        except tracking.TrackingError as error:
            raise SourceError(f"models:/{self.name}/{version.number}: {error}") from None
        except OSError as error:
            if not (folder / MLMODEL).is_file():  # another process was faster
                raise SourceError(f"{folder}: {error.strerror}; make room, or set SEGMODELS_CACHE") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _forget(self, used: Path) -> None:
        """Remove all but the versions that were used last."""
        kept = sorted((p for p in self.cache.glob("[!.]*") if p != used), key=lambda p: p.stat().st_mtime, reverse=True)
        for folder in kept[KEPT - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(given: str, address: str) -> str:
    """Return the name of a folder of the cache, of which a part is what the registry says.

    Raises:
        SourceError: It would lead elsewhere.
    """
    try:
        return file_name(given, f"{address}: folder")
    except NameRefusedError as error:
        raise SourceError(str(error)) from None


def _registry() -> str:
    """Return the registry's address without a password, which may change."""
    uri = tracking.tracking_uri()
    return uri if uri.startswith("sqlite:") else tracking.public_uri(uri)


def _description(folder: Path) -> tuple[Path, PredictSettings, Path | None]:
    """Return where in a logged model its folder lies, the settings that it was registered with, and its profile."""
    path = folder / MLMODEL
    try:
        flavor = read_yaml(path)["flavors"]["python_function"]
        model = folder / relative(flavor["artifacts"]["model"]["path"], f"{path}: path")
        settings = flavor.get("config") or {}
        told = flavor["artifacts"].get("profile")
        profile = folder / relative(told["path"], f"{path}: path") if told else None
    except (OSError, UserError, KeyError, TypeError):
        raise SourceError(f"{path}: not a model that `register` logged; register the model folder again") from None
    if not (model / WEIGHTS).is_file() or not (model / CONFIG).is_file():
        raise SourceError(f"{model}: not a model folder, which holds {WEIGHTS} and {CONFIG}; register the model again")
    try:
        return model, PredictSettings.of(settings), profile
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {error}; it was registered by another release: register the model again") from None
