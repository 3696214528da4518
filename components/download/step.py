"""`download`: from a source (generator, folder, archive, address) to the dataset folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.disk import disk_errors
from components.errors import StepError
from components.lock import cache_folder, only_one
from components.params import Params
from segmodels.data.folder import DatasetInfo
from segmodels.tasks import task_info

GENERATED = "streets"


@dataclass(frozen=True)
class DownloadResult:
    """The dataset folder, the layout it came in, and its samples per split."""

    data: Path
    name: str
    format: str
    splits: Mapping[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        return f"{self.data}: {self.name} ({self.format}), {counts}"


def run(params: Params, *, out: Path, remote: str = "", md5: str = "") -> DownloadResult:
    """Write the dataset folder `out` from `params.data`; what was there is replaced only when all went well.

    Args:
        params: `data` and, for the generator and for splits that are dealt, `seed`.
        out: The dataset folder.
        remote: A DVC remote that holds the folder already; it is then taken from there, in the version `md5`.
        md5: The folder's hash in dvc.lock, `<md5>.dir`.

    Raises:
        StepError: The source is not to be had, is refused, or the disk is full.
        DatasetError: What is in it is not a dataset; the message names the files.
    """
    with only_one(out), disk_errors(out):
        try:
            if remote and md5:
                source = _pinned(params, remote, md5, out)
            else:
                source = _generate(params, out) if params.data.source == GENERATED else _convert(params, out)
        finally:
            shutil.rmtree(out.with_name(out.name + ".part"), ignore_errors=True)
    info = DatasetInfo.read(out)
    return DownloadResult(out, info.name, source, info.splits)


def _pinned(params: Params, remote: str, md5: str, out: Path) -> str:
    from components.download import dvc_remote

    cache = cache_folder() / "dvc"
    with disk_errors(cache):
        dvc_remote.fetch(dvc_remote.Remote.at(remote, retries=params.data.retries), md5, out, cache)
    return "dvc"


def _generate(params: Params, out: Path) -> str:
    from components.download.progress import progress
    from segmodels.data.streets import write_dataset

    if params.data.sha256:
        raise StepError("data.sha256: `streets` is generated and has no checksum; leave it out")
    wanted = params.data.streets
    with progress("rendering streets", wanted.train + wanted.val + wanted.test, samples=True) as advance:
        write_dataset(
            out,
            seed=params.seed,
            train=wanted.train,
            val=wanted.val,
            test=wanted.test,
            height=wanted.height,
            width=wanted.width,
            targets={*wanted.targets, *(n for n in task_info(params.task).needs if n != "labels")},
            progress=lambda done, total: advance(1),
        )
    return GENERATED


def _convert(params: Params, out: Path) -> str:
    from components.download.archives import unpack
    from components.download.fetch import fetch
    from components.download.nested import holds_only_archives, unpack_folder, unpack_inside

    data = params.data
    cache = cache_folder() / "downloads"
    with disk_errors(cache):
        fetched = fetch(data.source, cache, sha256=data.sha256, retries=data.retries)
    unpacked = out.with_name(out.name + ".unpacked")
    most = int(data.max_unpacked_gb * 1e9)
    if fetched.path.is_dir() and not holds_only_archives(fetched.path):
        return _to_dataset(fetched.path, params, fetched.source, out)
    # Beside `out`, so that images can be linked from it instead of copied.
    try:
        if fetched.path.is_dir():
            unpack_folder(fetched.path, unpacked, max_bytes=most)
        else:
            unpack_inside(unpacked, max_bytes=most, used=unpack(fetched.path, unpacked, max_bytes=most))
        return _to_dataset(unpacked, params, fetched.source, out)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _to_dataset(root: Path, params: Params, source: dict[str, object], out: Path) -> str:
    from segmodels.data.formats import Choices, Splitting, convert

    data = params.data
    return convert(
        root,
        data.format,
        out,
        name=_name(data.source),
        source={**source, "licence": data.licence},
        splitting=Splitting(params.seed, data.val_fraction, data.test_fraction, data.folds, data.fold, data.fraction),
        choices=Choices(
            background=data.background,
            ignore=data.ignore,
            values=data.values,
            threshold=data.threshold,
            coding=data.coding,
            classes=data.classes,
            orientation=data.orientation,
            targets=task_info(params.task).needs,
            depth_scale=data.depth_scale,
            attribute=data.attribute,
            tile=data.tile,
            bands=data.bands,
            scale=data.scale,
        ),
    )


def _name(source: str) -> str:
    """Return the dataset's name where its format has none: the last part of the source, without endings."""
    return Path(source.split("?")[0].rstrip("/")).resolve().name.partition(".")[0] or "dataset"
