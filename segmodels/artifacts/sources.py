"""Where a model comes from: a folder, or an address such as `models:/NAME@ALIAS` whose target may move.

The library knows folders alone. What understands another scheme is an entry point of the group `segmodels.models`,
named as the scheme; it takes (address, cache folder) and gives a `Source`. `components` brings MLflow's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from segmodels.errors import UserError
from segmodels.files import cache_folder, file_sha256
from segmodels.settings.schema import PredictSettings

GROUP = "segmodels.models"
WEIGHTS, CONFIG, PROFILE = "model.safetensors", "model.json", "profile.json"


class AddressError(UserError, ValueError):
    """No model can ever be behind this address; one sentence."""


class SourceError(UserError):
    """The model cannot be had at the moment (a registry is away, an alias is not set, a file is missing)."""


class UnreachableError(SourceError):
    """There is no answer at all: what was last heard may well still hold."""


@dataclass(frozen=True)
class Version:
    """One state of a model.

    Attributes:
        name: The model's name.
        number: Of a registry its version's number, of a folder the beginning of the weights' hash.
        sha256: Hash of the weights; empty where the registry does not know it.
        key: Equal where nothing has to be loaded anew.
    """

    name: str
    number: str
    sha256: str
    key: str


@dataclass(frozen=True)
class Fetched:
    """A version on this machine.

    Attributes:
        folder: The model folder; nobody changes it while it is in use.
        settings: What the version is to be used with.
        sha256: Hash of its weights.
        profile: What its images and predictions were like when it was evaluated (`segmodels.drift.profile.Profile`);
            None where that is not known.
    """

    folder: Path
    settings: PredictSettings
    sha256: str
    profile: Path | None = None


class Source(Protocol):
    """What a target is at the moment, and how to get it."""

    def latest(self) -> Version:
        """Return the version that the target means now; asks, and downloads nothing.

        Raises:
            SourceError: There is no answer now.
        """

    def fetch(self, version: Version) -> Fetched:
        """Bring a version to this machine.

        Raises:
            SourceError: It cannot be had, or is not what the registry says.
        """

    def remember(self, version: Version) -> None:
        """Note that the version serves, for a start at which nobody answers."""

    def remembered(self) -> Version | None:
        """Return the version that was noted last, where `fetch` needs nobody else for it."""


class FolderSource:
    """A model folder, whose files may be replaced.

    Args:
        folder: The model folder.
        profile: Its `profile.json`; by default the one in the folder, if any.

    Raises:
        AddressError: There is no such folder, or no such profile.
    """

    def __init__(self, folder: Path, profile: Path | None = None) -> None:
        if not folder.is_dir():
            raise AddressError(f"{folder}: no such model folder; give one, or an address such as models:/NAME@ALIAS")
        if profile is not None and not profile.is_file():
            raise AddressError(f"{profile}: no such file; `evaluate` writes profile.json beside metrics.json")
        self.folder, self._profile = folder, profile or folder / PROFILE
        self._seen: tuple[tuple[int, ...], Version] | None = None

    def latest(self) -> Version:
        """As `Source.latest`; files are hashed again where their size, time or place on the disk changed."""
        stats = [_stat(self.folder / name) for name in (WEIGHTS, CONFIG)]
        state = tuple(n for s in stats for n in (s.st_size, s.st_mtime_ns, s.st_ino))
        if self._seen is None or self._seen[0] != state:
            weights, config = (sha256_of(self.folder / name) for name in (WEIGHTS, CONFIG))
            name = self.folder.resolve().name
            self._seen = state, Version(name, weights[:12], weights, f"{weights} {config}")
        return self._seen[1]

    def fetch(self, version: Version) -> Fetched:
        """As `Source.fetch`; the folder itself."""
        return Fetched(
            self.folder, PredictSettings(), version.sha256, self._profile if self._profile.is_file() else None
        )

    def remember(self, version: Version) -> None:
        """As `Source.remember`; the folder is its own memory."""

    def remembered(self) -> None:
        """As `Source.remembered`; a folder that cannot be read has no other place."""


def open_source(target: str, cache: Path | None = None, *, profile: Path | None = None) -> Source:
    """Return what is behind a target.

    Args:
        target: A model folder, or an address whose scheme an installed package knows.
        cache: Where downloads are kept; `models` in `SEGMODELS_CACHE` or in the user's cache folder by default.
        profile: The `profile.json` of a model folder that does not hold it.

    Raises:
        AddressError: The folder does not exist, nobody knows the scheme, or a profile is given for an address.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", target)
    if scheme is None:
        return FolderSource(Path(target), profile)
    if profile is not None:
        raise AddressError(f"--profile {profile}: is for a model folder; {target} has its own in each version")
    entry_point = next(iter(entry_points(group=GROUP, name=scheme[1])), None)
    if entry_point is None:
        raise AddressError(f"{target}: no installed package knows addresses of {scheme[1]}:/; give a model folder")
    source: Source = entry_point.load()(target, cache or cache_folder("models"))
    return source


def fetched(target: str) -> Fetched:
    """Return the model folder behind a target, downloaded where it has to be, and what it is to be used with.

    Raises:
        AddressError: The address is not one.
        SourceError: The model cannot be had at the moment.
    """
    source = open_source(target)
    return source.fetch(source.latest())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file of a model folder.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; a model folder holds {WEIGHTS} and {CONFIG}") from None


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; a model folder holds {WEIGHTS} and {CONFIG}") from None
