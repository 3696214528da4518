"""`segmodels list | info | train | predict | serve | drift | tune-crf | export`: the library on the command line.

A command imports what it uses when it runs; `--help` imports neither torch nor numpy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmodels.errors import UserError, printable_output, sentence
from segmodels.files import ContentError, read_json
from segmodels.process import set_up_process

if TYPE_CHECKING:
    from torch import nn

    from segmodels.registry import ModelInfo
    from segmodels.settings import CRFSettings, TrainSettings

EXIT_INTERRUPTED = 143

app = typer.Typer(
    help="Semantic segmentation: architectures, training, prediction.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs a third of a second in imports
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandError(UserError):
    """What was asked for cannot be done; the message says why."""


class ServePrecision(StrEnum):
    auto = "auto"
    float32 = "32"
    bfloat16 = "bf16"
    float16 = "16"


class ExportFormat(StrEnum):
    pt2 = "pt2"
    onnx = "onnx"
    torchscript = "torchscript"


Options = Annotated[
    list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE", help="A keyword of the architecture.")
]


@app.command("list")
def list_command(
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 11,
    time: Annotated[bool, typer.Option("--time", help="Measure milliseconds on this machine.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table, as in the README.")] = False,
) -> None:
    """The architectures, with parameters, GFLOPs and milliseconds.

    GFLOPs and milliseconds are those of one 360x480 image; a multiply-add is two operations. Those of 11 classes are
    known beforehand, and `segmodels info` tells on which machine the milliseconds were taken.
    """
    from segmodels.cards import print_list

    print_list(classes, timed=time, markdown=markdown)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="An architecture; `segmodels list` has them.")],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 11,
    option: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The card of an architecture.

    Citation, what pins it, keywords, the exact number of parameters, GFLOPs, milliseconds, published results, known
    differences, the paper's recipe.
    """
    from segmodels.cards import figures, print_card
    from segmodels.registry import model_info

    card = model_info(name)
    chosen = _options(card, option)
    _meta_model(name, classes, chosen)  # a bad keyword is told as what it is
    print_card(card, figures(name, classes, chosen), classes, chosen, as_json=as_json)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a folder with images and labels.")],
    model: Annotated[str, typer.Option(help="The architecture.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weights: Annotated[str | None, typer.Option(help="Model folder or file to start from.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="A training setting, e.g. augment.crop=[192,256]."),
    ] = None,
    option: Options = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model folder that exists.")] = False,
) -> None:
    """Trains an architecture on labelled images.

    Interrupted, the same command goes on where it stopped. DATA is a dataset folder, or any folder whose layout is
    known; that is converted first, to OUT.data.
    """
    from segmodels.overrides import build, parse
    from segmodels.registry import check_name, model_info
    from segmodels.settings import TrainSettings

    # What can be refused without torch, which takes many seconds to import, comes before it.
    check_name(model)
    build(TrainSettings, parse(setting or []))
    _may_replace(out, "model.json", "a model folder", overwrite)
    _check_layout(data)

    card = model_info(model)
    options = _options(card, option)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weights": weights}
    settings = _settings(card, setting or [], {k: v for k, v in given.items() if v is not None})
    _meta_model(model, 2, options)  # a bad keyword is told before data is converted
    dataset = _dataset(data, out)
    backbone = options.pop("backbone", None)

    from segmodels.training import fit

    result = fit(
        dataset,
        out,
        architecture=model,
        settings=settings,
        options=options,
        backbone=backbone,
        seed=seed,
        signature=_signature(settings, options, backbone, seed, dataset),
    )
    print(f"{model}: best validation mIoU {100 * result.val_miou:.1f} % in epoch {result.epoch}; {out}")
    print(f"predict with it: segmodels predict IMAGES --model {out} --out predictions")


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, videos, rasters; folders or s3:// prefixes of them."),
    ],
    model: Annotated[str, typer.Option(help="The model folder, or models:/NAME@ALIAS of MLflow's registry.")],
    out: Annotated[str, typer.Option(help="Where the results go: a folder, or s3://bucket/prefix.")],
    overlay: Annotated[bool, typer.Option(help="Write the image under the classes' colours, too.")] = True,
    masks: Annotated[bool, typer.Option(help="Write class ids; of a video, a PNG for each frame.")] = True,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Average with the mirror image's prediction.")
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Sizes whose predictions are averaged, e.g. 0.75,1,1.25.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="HxW", help="Predict in windows of this size; rasters always are.")
    ] = None,
    crf: Annotated[
        str | None, typer.Option(metavar="FILE|default", help="Refine by a dense CRF; `tune-crf` writes the file.")
    ] = None,
    mc_samples: Annotated[
        int | None, typer.Option(min=0, help="Monte-Carlo dropout passes that are averaged; 0 is a plain pass.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the overlay's colours.")] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict also what has its results.")] = False,
) -> None:
    """Predicts images, videos and rasters.

    a.jpg gives a.png (class ids, with the classes' colours as palette) and a.overlay.jpg; a.mp4 gives the folder
    a.masks with a PNG for each frame, and a.overlay.mp4; a GeoTIFF, or a TIFF too large for memory, gives a.tif, where
    it lies on the earth, and a.overlay.tif. Folders keep their structure. What has its results already is skipped, so
    an interrupted command goes on. A registered version predicts as it was evaluated, but for what is set here.
    """
    from segmodels import predicting, rasters, remote

    if not (overlay or masks):
        raise CommandError("--no-overlay and --no-masks leave nothing to write")
    size = _window(window)
    given: dict[str, Any] = {
        "flip": flip,
        "scales": _scales(scales) if scales else None,
        "window": size,
        "mc_samples": mc_samples,
        "crf": _crf(crf) if crf else None,
    }
    place = remote.Store(out) if remote.is_remote(out) else Path(out)
    found, problems = predicting.find_inputs(inputs, place)
    jobs = predicting.plan(found, place, masks=masks, overlays=overlay)

    import torch

    from segmodels.inference import Predictor
    from segmodels.progress import Heartbeat
    from segmodels.sources import fetched

    found_model = fetched(model)
    predictor = Predictor(
        found_model.folder,
        _device(device, torch.cuda.is_available()),
        # A registered version predicts as it was evaluated; what is given here takes the place of its own.
        settings=found_model.settings,
        **{key: value for key, value in given.items() if value is not None},
    )
    for problem in problems:
        _complain(problem)
    with _progress() as bar:
        task = bar.add_task("", total=len(jobs), frames="")
        frames = done = 0

        def on_frame(job: predicting.Job) -> None:
            nonlocal frames
            frames += 1
            bar.update(task, description=job.input.path.name, frames=f"{frames} frames")

        def on_done(job: predicting.Job) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, description=job.input.path.name)

        told = Heartbeat(lambda: f"{done} of {len(jobs)} done" + (f", {frames} frames" if frames else ""), sys.stderr)
        told.start()
        outcome = predicting.run(
            jobs,
            predictor,
            overwrite=overwrite,
            alpha=alpha,
            # Pixel for pixel where the model has an input size: how much smaller its training images became is unknown.
            window=size or predictor.image_size or rasters.WINDOW,
            on_frame=on_frame,
            on_done=on_done,
            on_problem=_complain,
        )
        told.stop()
    failed = len(problems) + len(outcome.problems)
    parts = [f"{outcome.written} written"]
    parts += [f"{outcome.skipped} skipped since their results exist"] if outcome.skipped else []
    parts += [f"{failed} failed"] if failed else []
    print(f"{', '.join(parts)}; {out}")
    if failed:
        raise typer.Exit(1)


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="A model folder, or models:/NAME@ALIAS of MLflow's registry.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        ServePrecision, typer.Option(help="auto is bf16 where the hardware multiplies it fast.")
    ] = ServePrecision.auto,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between looks for another version.")] = 5.0,
    profile: Annotated[
        Path | None, typer.Option(help="profile.json of a model folder that does not hold it: /drift compares with it.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images of one size in one pass; 8 on a GPU, 1 on a CPU.")
    ] = None,
    batch_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a batch waits for others.")] = 3.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more gets 429.")] = 128,
    max_body: Annotated[float, typer.Option(min=0.001, help="Megabytes of a request.")] = 20.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, help="Megapixels of an image.")] = 25.0,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 16,
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds in which a body must have come.")] = 30.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer is given up.")] = 60.0,
    drain: Annotated[float, typer.Option(min=1, help="Seconds for what is in flight when told to end.")] = 60.0,
) -> None:
    """Serves a model over HTTP.

    POST an image to /predict; the page at / shows how that looks, /openapi.json describes the rest. The server follows
    its target: when the alias moves, or the folder's files are replaced, it loads the other version beside the one
    that serves and swaps them between two requests. SIGTERM ends it when all that came is answered.
    """
    from segmodels.sources import open_source

    source = open_source(target, profile=profile)

    import torch

    from segmodels.serving.server import serve as run
    from segmodels.serving.service import Limits

    run(
        source,
        host=host,
        port=port,
        device=_device(device, torch.cuda.is_available()),
        precision=precision.value,
        poll=poll,
        batch=batch,
        batch_wait=batch_wait / 1000,
        drain=drain,
        limits=Limits(
            body=round(max_body * 1e6),
            pixels=round(max_pixels * 1e6),
            images=max_images,
            queue=queue,
            receiving=body_timeout,
            answering=timeout,
        ),
    )


@app.command()
def drift(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of them.")],
    model: Annotated[Path, typer.Option(help="The model folder.")],
    reference: Annotated[Path, typer.Option(help="The profile.json that evaluation wrote for this model.")],
    out: Annotated[list[Path], typer.Option(help="What to write: a .html, .json or .prom file; may be repeated.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Tells whether images are still like those a model was trained on, and its predictions as they were.

    Brightness, contrast, colours, sharpness, noise and size are compared with the training images', class mix and
    confidence with those on evaluated images; the report names what moved, which images to label first, and how to
    retrain.
    """
    import torch

    from segmodels.drift import report as reporting
    from segmodels.drift.profile import DriftError, Profile
    from segmodels.predicting import find_inputs

    for path in out:
        reporting.check_suffix(path)
    profile = Profile.read(reference)
    found, problems = find_inputs(images, out[0])
    paths = [item.path for item in found if item.kind == "image"]
    if not paths:
        raise DriftError(problems[0] if problems else f"{images[0]}: holds no image")
    with _progress() as bar:
        task = bar.add_task("", total=len(paths), frames="")
        report, seen, predictor = reporting.measure(
            paths,
            model,
            profile,
            device=_device(device, torch.cuda.is_available()),
            on_done=lambda path: bar.update(task, advance=1, description=path.name),
        )
    for problem in (*problems, *report.problems):
        _complain(problem)
    for path in out:
        reporting.write(path, report, profile, seen, predictor)
    print(report.drift.verdict)
    if report.label:
        print(f"label {report.label} images first, beginning with {report.candidates[0].path}")
    print(", ".join(str(path) for path in out))
    if problems or report.problems:
        raise typer.Exit(1)


@app.command("tune-crf")
def tune_crf_command(
    model: Annotated[Path, typer.Argument(help="The model folder.")],
    data: Annotated[Path, typer.Argument(help="The dataset folder; its val split is used.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write, for `predict --crf`.")],
    images: Annotated[int, typer.Option(min=1, help="Validation images to search on.")] = 20,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirror image's prediction.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Searches the settings of a dense CRF after a model.

    A coarse grid over the bilateral kernel, then a finer one around its best point, by mIoU on validation images. What
    it finds goes to a file, and as `evaluate.crf` into params.yaml. Where no setting gains, it says so and writes none.
    """
    import torch

    from segmodels.inference import Predictor
    from segmodels.tuning import Trial, tune_crf

    predictor = Predictor(model, _device(device, torch.cuda.is_available()), flip=flip)

    def told(trial: Trial) -> None:
        print(f"{100 * trial.miou:6.2f} %  {_shown(trial.settings)}", flush=True)

    best, *others = tune_crf(predictor, data, images=images, on_trial=told)
    plain = next(trial for trial in (best, *others) if trial.settings is None)
    if best.settings is None:
        print(f"no setting gains over the model alone ({100 * plain.miou:.2f} % mIoU); nothing was written")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dataclasses.asdict(best.settings), indent=2) + "\n")
    print(f"{100 * plain.miou:.2f} % mIoU without, {100 * best.miou:.2f} % with {_shown(best.settings)}; {out}")
    print(f"predict with it: segmodels predict IMAGES --model {model} --crf {out} --out predictions")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The model folder.")],
    format: Annotated[ExportFormat, typer.Option(help="The file's format.")],  # noqa: A002
    out: Annotated[Path, typer.Option(help="The file to write.")],
    raw: Annotated[bool, typer.Option("--raw", help="The bare network: normalised batches to logits.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise ONNX to 8-bit integers; needs --data.")] = False,
    data: Annotated[Path | None, typer.Option(help="Dataset folder to check and calibrate on.")] = None,
) -> None:
    """Writes a model as one file.

    It takes images, RGB uint8 [N, H, W, 3] of any size, and gives class ids, uint8 [N, H, W], and their probability;
    with --raw it takes normalised float32 batches [N, channels, H, W] and gives logits. It carries model.json (classes,
    mean, standard deviation) and interface.json (inputs and outputs), and appears when it gives real images the classes
    that the model gives them: the validation images of --data, or some of `streets`.
    """
    if int8:
        if format is not ExportFormat.onnx or raw:
            raise CommandError("--int8 writes images to class ids in ONNX; give --format onnx without --raw")
        if data is None:
            raise CommandError("--int8 needs --data, a dataset folder: train calibrates, val tells what it costs")
        from segmodels.quantizing import export_int8

        print(export_int8(folder, out, data))
        return
    from segmodels.exporting import export as write

    print(write(folder, out, format.value, raw=raw, data=data))


def _shown(settings: CRFSettings | None) -> str:
    if settings is None:
        return "no CRF"
    return ", ".join(f"{key} {value:g}" for key, value in dataclasses.asdict(settings).items())


def _crf(given: str) -> CRFSettings:
    """Settings from a file of `tune-crf`, or the defaults."""
    from segmodels.overrides import build
    from segmodels.settings import CRFSettings

    if given == "default":
        return CRFSettings()
    try:
        values = read_json(Path(given), 1 << 16)
    except FileNotFoundError:
        raise CommandError(f"{given}: no such file; --crf takes a file of `segmodels tune-crf`, or `default`") from None
    except ContentError as error:
        raise CommandError(f"{error}; --crf takes a file of `segmodels tune-crf`, or `default`") from None
    if not isinstance(values, dict):
        raise CommandError(f"{given}: no settings; --crf takes a file of `segmodels tune-crf`, or `default`")
    return build(CRFSettings, values, f"{given}: ")


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; what the user can mend is told as one sentence and gives the exit status 1."""
    set_up_process()
    printable_output()
    try:
        app(list(args) if args is not None else None, prog_name="segmodels")
    except (UserError, OSError) as error:
        _complain(sentence(error))
        return EXIT_INTERRUPTED if type(error).__name__ == "TrainingInterrupted" else 1
    return 0


def _complain(problem: str) -> None:
    print(f"error: {problem}", file=sys.stderr, flush=True)


def _progress() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description} {task.fields[frames]}", markup=False),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


# Architectures


def _options(card: ModelInfo, pairs: Sequence[str] | None) -> dict[str, Any]:
    """Keywords of the architecture from `KEY=VALUE`; an unknown one is refused with the nearest name."""
    from segmodels.errors import nearest
    from segmodels.overrides import parse
    from segmodels.registry import UnknownModelError

    chosen = parse(pairs or [])
    for key in chosen:
        if key not in card.options:
            raise UnknownModelError(f"{card.name}: unknown keyword '{key}'{nearest(key, card.options)}")
        default = card.options[key]
        if isinstance(default, int | float) and not isinstance(chosen[key], int | float):
            raise CommandError(f"{card.name}: {key} is {json.dumps(chosen[key])}; its default is {json.dumps(default)}")
    return chosen


def _meta_model(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The architecture without memory; what its own checks refuse is the user's to mend."""
    from segmodels.registry import full_size

    try:
        return full_size(name, classes, **options)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise CommandError(f"{name}: {error}") from None


# Training


def _settings(card: ModelInfo, pairs: Sequence[str], given: Mapping[str, Any]) -> TrainSettings:
    """The defaults, under the paper's recipe where asked for, under what the command line says."""
    from segmodels.overrides import build, parse
    from segmodels.recipes import from_scratch
    from segmodels.settings import TrainSettings, merge, on_recipe, with_defaults

    over = merge(parse(pairs), given)
    build(TrainSettings, over)
    base = dataclasses.asdict(TrainSettings())
    paper = over.get("recipe") == "paper"
    values = on_recipe(base, card.recipe, over) if paper else with_defaults(base, from_scratch(card.name), over)
    return build(TrainSettings, values)


def _check_layout(data: Path) -> None:
    """Refuses what is neither a dataset folder nor of a layout that is known; reads no image."""
    from segmodels.data.dataset import INFO_FILE, DatasetInfo, samples
    from segmodels.data.formats import find

    if not data.is_dir():
        raise CommandError(f"{data}: no such folder")
    if (data / INFO_FILE).is_file():
        DatasetInfo.read(data)
        for split in ("train", "val"):
            samples(data, split)
    else:
        find(data)


def _dataset(data: Path, out: Path) -> Path:
    """The dataset folder: the given one, or what its layout converts to, next to the output."""
    from segmodels.data.dataset import INFO_FILE
    from segmodels.data.formats import convert

    if (data / INFO_FILE).is_file():
        return data
    converted = out.with_name(out.name + ".data")
    _may_replace(converted, INFO_FILE, "a dataset folder", overwrite=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{data}: read as {convert(data, out=converted)}, kept as {converted}", flush=True)
    return converted


def _may_replace(folder: Path, mark: str, kind: str, overwrite: bool) -> None:
    """Refuses to put a result in the place of something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / mark).is_file():
        raise CommandError(f"{folder}: exists and is not {kind}; choose another --out")
    if not overwrite:
        raise CommandError(f"{folder}: is {kind} already; choose another --out, or --overwrite")


def _signature(
    settings: TrainSettings, options: Mapping[str, Any], backbone: str | None, seed: int, dataset: Path
) -> str:
    """Changes with the settings and the data's files, so that training goes on only with what it began with."""
    files = sorted((str(p.relative_to(dataset)), p.stat().st_size) for p in dataset.rglob("*") if p.is_file())
    content = [dataclasses.asdict(settings), dict(options), backbone, seed, files]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


# Prediction


def _scales(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or min(factors) <= 0:
        raise CommandError(f"--scales is '{text}'; give factors above 0, for example 0.75,1,1.25")
    return factors


def _window(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) >= 32 for side in sides):
        raise CommandError(f"--window is '{text}'; give HxW of at least 32x32, for example 512x512")
    return int(sides[0]), int(sides[-1])


def _device(name: str, gpu: bool) -> str:
    if name not in ("auto", "cpu", "cuda") and not name.removeprefix("cuda:").isdigit():
        raise CommandError(f"--device is '{name}'; give auto, cpu or cuda")
    if name.startswith("cuda") and not gpu:
        raise CommandError(f"--device is '{name}', but there is no GPU that torch can use")
    return name


if __name__ == "__main__":
    sys.exit(main())
