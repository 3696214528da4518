"""`segmodels validate | dataset`: data before anything is trained on it; and the dataset folder behind a path."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import CommandError, app, progress_bar

dataset = typer.Typer(
    help="Dataset folders: make one of labelled images, or render one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dataset, name="dataset")


@app.command()
def validate(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a folder with images and labels.")],
    severity: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE=HOW", help="How grave a rule is: critical, warning or ignore; as often as wanted."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a dataset folder without what is certainly wrong, and check that."),
    ] = None,
) -> None:
    """Check labelled images as training does, and print what is wrong.

    Every image and label is read; of a dataset folder that was checked before, what has changed. Errors end the command
    with exit status 1; warnings do not. DATA stays as it is.
    """
    from segmodels.data.folder import INFO_FILE, DatasetInfo
    from segmodels.data.formats import convert
    from segmodels.data.validation.checks import check
    from segmodels.data.validation.fixing import fix as write_fixed
    from segmodels.data.validation.rules import known_severity

    wanted = known_severity(_pairs("--severity", severity or [], "near_duplicate=ignore") or {})
    if fix is not None and fix.exists():
        raise CommandError(f"{fix}: exists; choose another --fix")
    if fix is None or not (data / INFO_FILE).is_file():
        check_layout(data)
    with tempfile.TemporaryDirectory(prefix="segmodels-") as work:
        folder, judged = data, fix or data
        if not (data / INFO_FILE).is_file():
            folder = Path(work, "data")
            with naming_options():
                print(f"{data}: read as {convert(data, out=folder)}", flush=True)
        if fix is not None:
            with _counting() as progress:
                changes = write_fixed(folder, fix, progress=progress)
            print("\n".join(map(str, changes)) or "nothing was left out", flush=True)
            folder = fix
        info = DatasetInfo.read(folder)
        with _counting() as progress:
            told = check(folder, severity=wanted, progress=progress, cached=folder == judged)
        for warning in told:
            print(f"warning: {warning}")
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"{judged}: {counts}; {info.num_classes} classes: {', '.join(info.class_names)}")


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """Yield what shows samples that are read, and all of them, as a bar."""
    with progress_bar() as bar:
        task = bar.add_task("", total=None, frames="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataset.command("convert")
def convert_command(
    data: Annotated[Path, typer.Argument(help="A folder with images and labels of a known layout.")],
    out: Annotated[Path, typer.Option(help="The dataset folder to write.")],
    layout: Annotated[str, typer.Option(help="Its layout; auto finds it.")] = "auto",
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    background: Annotated[
        str | None, typer.Option(help="What undrawn pixels are: the name of a class, or ignore.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A class that is void, or a value of labels; as often as wanted.")
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE=NAME", help="The class of a raw value or colour; void for none; or `occurring`."),
    ] = None,
    threshold: Annotated[int | None, typer.Option(help="Grey masks: values from here on are the foreground.")] = None,
    coding: Annotated[
        str | None, typer.Option(help="What counts in palette images: index or color.", metavar="WHAT")
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="NEW=OLD,OLD", help="A class of others; * is all the rest; as often as wanted."),
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="How labels of turned images lie: upright or stored.", metavar="HOW")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Further truth that the layout has: instances, depth, normals.")
    ] = None,
    depth_scale: Annotated[float | None, typer.Option(help="Metres of one step of depths, e.g. 0.001.")] = None,
    attribute: Annotated[str | None, typer.Option(help="What has the class, where labels are vectors.")] = None,
    tile: Annotated[int | None, typer.Option(min=32, help="Side of the tiles that GeoTIFFs are cut into.")] = None,
    band: Annotated[
        list[str] | None,
        typer.Option(help="A band of the files, from 1, or a target, that becomes a channel; as often as wanted."),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(metavar="LOW,HIGH", help="Values that become black and white, of all bands or each; or auto."),
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Deal all but test to so many folds.")] = None,
    fold: Annotated[int, typer.Option(min=0, help="The fold that is val, from 0.")] = 0,
    fraction: Annotated[float, typer.Option(help="Part of the training samples that is kept, up to 1.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset folder that exists.")] = False,
) -> None:
    """Write labelled images of a known layout as a dataset folder; images are copied byte for byte."""
    from segmodels.data.folder import INFO_FILE, DatasetInfo
    from segmodels.data.formats import Choices, Splitting, convert

    may_replace(out, INFO_FILE, "a dataset folder", overwrite)
    if not data.is_dir():
        raise CommandError(f"{data}: no such folder")
    if orientation not in (None, "upright", "stored"):
        raise CommandError(f"--orientation {orientation}: say upright or stored")
    if coding not in (None, "index", "color"):
        raise CommandError(f"--coding {coding}: say index or color")
    choices = Choices(
        background=background,
        ignore=tuple(int(given) if given.isdecimal() else given for given in ignore or ()),
        values="occurring" if value == ["occurring"] else _pairs("--value", value or [], "255=car"),
        threshold=threshold,
        coding=coding,
        classes=_merged(merge or []),
        orientation=orientation,
        targets=tuple(target or ()),
        depth_scale=depth_scale,
        attribute=attribute,
        tile=tile,
        bands=tuple(int(one) if one.isdecimal() else one for one in band) if band else None,
        scale=_scale(scale or []),
    )
    if fold >= (folds or 1) or not 0 < fraction <= 1:
        raise CommandError(f"--fold {fold} is below --folds, and --fraction {fraction:g} lies above 0 and up to 1")
    splitting = Splitting(folds=folds, fold=fold, fraction=fraction)
    key = convert(data, layout, out, name=name, choices=choices, splitting=splitting)
    info = DatasetInfo.read(out)
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"{data}: read as {key}, written to {out}: {counts}; {info.num_classes} classes")


@dataset.command("merge")
def merge_command(
    data: Annotated[list[Path], typer.Argument(help="Dataset folders, at least two.")],
    out: Annotated[Path, typer.Option(help="The dataset folder to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the dataset; by default that of --out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset folder that exists.")] = False,
) -> None:
    """Write several dataset folders as one; classes of one name are one class.

    Bring names together first: dataset convert --merge vehicle=car,bus, for each of them.
    """
    from segmodels.data.folder import INFO_FILE
    from segmodels.data.merging import merge

    if len(data) < 2:
        raise CommandError("dataset merge: give at least two dataset folders")
    may_replace(out, INFO_FILE, "a dataset folder", overwrite)
    info = merge(data, out, name or out.name)
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"written to {out}: {counts}; {info.num_classes} classes: {', '.join(info.class_names)}")


@dataset.command("export")
def export_command(
    data: Annotated[Path, typer.Argument(help="A dataset folder.")],
    to: Annotated[str, typer.Option(help="coco, yolo, cvat, cityscapes or folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    predictions: Annotated[
        Path | None, typer.Option(help="Class maps named like the images, in place of the labels.")
    ] = None,
) -> None:
    """Write a dataset folder, or predictions for its images, as annotation tools and other trainers read it."""
    from segmodels.tasks.semantic.annotations import export

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"{out}: exists; choose another --out")
    if predictions is not None and not predictions.is_dir():
        raise CommandError(f"{predictions}: no such folder")
    print(f"{data}: {export(data, out, to, predictions)} images written to {out} as {to}")


def _scale(given: list[str]) -> str | tuple[tuple[float, float], ...] | None:
    """Return LOW,HIGH texts as pairs; `auto` stays."""
    if given == ["auto"]:
        return "auto"
    try:
        return tuple((float(low), float(high)) for low, high in (text.split(",") for text in given)) or None
    except ValueError:
        raise CommandError(f"--scale {' '.join(given)}: write it as --scale 0,4095, for each band or once") from None


def _merged(given: list[str]) -> dict[str, list[str]] | None:
    """Return NEW=OLD,OLD as new class -> the classes that become it."""
    pairs = _pairs("--merge", given, "vehicle=car,bus") or {}
    return {new: [name.strip() for name in old.split(",")] for new, old in pairs.items()} or None


def _pairs(option: str, given: list[str], example: str) -> dict[str, str] | None:
    """Return KEY=VALUE texts as a mapping; None where there are none."""
    pairs: dict[str, str] = {}
    for text in given:
        key, _, value = text.partition("=")
        if not (key and value):
            raise CommandError(f"{option} {text}: write it as {option} {example}")
        pairs[key] = value
    return pairs or None


@dataset.command()
def detect(
    data: Annotated[Path, typer.Argument(help="A folder of labelled images.")],
) -> None:
    """Say which layouts a folder has, or almost has, and which files tell it; no image is read."""
    from segmodels.data.formats import choose
    from segmodels.data.formats import detect as places

    if not data.is_dir():
        raise CommandError(f"{data}: no such folder")
    listed = list(places(data))
    for place in listed:
        print(place)
    key, folder = choose(data, listed)
    print(f"it is read as {key}, from {folder}" if len(listed) > 1 or folder != data else f"it is read as {key}")


@dataset.command()
def layouts(
    markdown: Annotated[bool, typer.Option("--markdown", help="The tables of docs/datasets.md.")] = False,
) -> None:
    """List the layouts that are read: public datasets, and exports of labelling tools."""
    from rich.console import Console
    from rich.table import Table

    from segmodels.data.formats import layouts as listed
    from segmodels.data.formats.pages import tables

    if markdown:
        print(tables())
        return
    table = Table("layout", "what it is", "classes", "truth", box=None, pad_edge=False)
    for key, layout in listed().items():
        table.add_row(key, layout.title, layout.classes, ", ".join(("labels", *layout.targets)))
    Console().print(table)


@dataset.command()
def streets(
    out: Annotated[Path, typer.Option(help="The dataset folder to write.")],
    train: Annotated[int, typer.Option(min=1, help="Training images.")] = 240,
    val: Annotated[int, typer.Option(min=1, help="Validation images.")] = 40,
    test: Annotated[int, typer.Option(min=0, help="Test images.")] = 40,
    height: Annotated[int, typer.Option(min=32, help="Of the images, pixels.")] = 120,
    width: Annotated[int, typer.Option(min=32, help="Of the images, pixels.")] = 160,
    seed: Annotated[int, typer.Option(min=0, help="Every scene follows from it.")] = 0,
    target: Annotated[
        list[str] | None, typer.Option(help="Further truth, as often as wanted: depth, normals, instances.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset folder that exists.")] = False,
) -> None:
    """Render `streets`, the built-in dataset of street scenes, as a dataset folder."""
    from segmodels.data.folder import INFO_FILE
    from segmodels.data.streets import write_dataset

    may_replace(out, INFO_FILE, "a dataset folder", overwrite)
    with progress_bar() as bar:
        task = bar.add_task("", total=train + val + test, frames="")
        write_dataset(
            out,
            seed=seed,
            train=train,
            val=val,
            test=test,
            height=height,
            width=width,
            targets=target or (),
            progress=lambda done, _: bar.update(task, completed=done),
        )
    print(f"{out}: {train} train, {val} val, {test} test")


def check_layout(data: Path) -> None:
    """Refuse what is neither a dataset folder nor of a layout that is known; read no image."""
    from segmodels.data.folder import INFO_FILE, DatasetInfo, samples
    from segmodels.data.formats import find

    if not data.is_dir():
        raise CommandError(f"{data}: no such folder")
    if (data / INFO_FILE).is_file():
        needs = ("labels",) if DatasetInfo.read(data).num_classes else ()
        for split in ("train", "val"):
            samples(data, split, needs)
    else:
        find(data)


def dataset_folder(data: Path, out: Path) -> Path:
    """Return the dataset folder: the given one, or what its layout converts to, next to the output."""
    from segmodels.data import given
    from segmodels.data.folder import INFO_FILE

    converted = out.with_name(out.name + ".data")
    if not (data / INFO_FILE).is_file():
        may_replace(converted, INFO_FILE, "a dataset folder", overwrite=True)
    with naming_options():
        return given.dataset_folder(data, converted)


@contextmanager
def naming_options() -> Iterator[None]:
    """Say, where an error names a key of the pipeline's settings, which command has an option for it."""
    from segmodels.data.folder import DatasetError

    try:
        yield
    except DatasetError as error:
        if not re.search(r"\bdata\.[a-z]", str(error)):
            raise
        raise CommandError(f"{error} (`segmodels dataset convert` has an option for each key of data)") from None


def may_replace(folder: Path, mark: str, kind: str, overwrite: bool) -> None:
    """Refuse to put a result in the place of something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / mark).is_file():
        raise CommandError(f"{folder}: exists and is not {kind}; choose another --out")
    if not overwrite:
        raise CommandError(f"{folder}: is {kind} already; choose another --out, or --overwrite")
