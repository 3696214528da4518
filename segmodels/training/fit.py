"""Training one architecture, resumable at any moment, bit for bit.

What a step does depends on (seed, epoch, batch) alone: the order of the samples, their augmentation, the dropout masks
and the learning rate are functions of them. The resume state therefore is the weights, the optimiser, the running
average and the position; it is written to a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from segmodels.artifacts.model_folder import ModelConfig, channels_of, save_model
from segmodels.catalog.recipes import from_scratch
from segmodels.catalog.registry import check_fits
from segmodels.data.bands import Bands
from segmodels.data.folder import DatasetInfo, samples
from segmodels.data.frequencies import ClassCounts
from segmodels.data.given import Given, dataset_folder
from segmodels.data.sizes import described, image_sizes, training_crop
from segmodels.data.validation import checks
from segmodels.files import cache_folder, folder_md5, locked, replaced, write_text
from segmodels.progress import Heartbeat
from segmodels.runtime import turn
from segmodels.settings.schema import TrainSettings
from segmodels.tasks import DEFAULT, task_info
from segmodels.training import launch
from segmodels.training.loop import PRECISIONS, Loop, OnEpoch, fabric_for, fields_of, on_gpu
from segmodels.training.result import Trained
from segmodels.training.state import STATE_FILE, ResumeState, TrainingError


def fit(
    data: Given,
    out: Path | str,
    *,
    architecture: str,
    task: str = DEFAULT,
    settings: TrainSettings | None = None,
    options: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    name: str | None = None,
    seed: int = 0,
    state: Path | str | None = None,
    signature: str = "",
    counts: ClassCounts | None = None,
    trials: Path | None = None,
    data_md5: str | None = None,
    checked: bool = False,
    on_epoch: OnEpoch | None = None,
    launcher: launch.Launcher | None = None,
    classes: Sequence[str] = (),
) -> Trained:
    """Train an architecture on labelled images and write its model folder.

    Args:
        data: A dataset folder; what else is taken (`segmodels.data.given.dataset_folder`: a folder of a known layout, a
            pair of folders, a torch Dataset of (image, label)) is first written as one, to `<out>.data`.
        out: Model folder; it appears when training has ended.
        architecture: Name in the registry.
        task: What it learns (`segmodels.tasks`); the dataset folder has the targets that it needs.
        settings: How to train; by default as `TrainSettings` says, and as the architecture sets otherwise.
        options: Keywords of the architecture.
        backbone: Encoder, where the architecture leaves the choice.
        name: What progress lines call it; the architecture's name by default.
        seed: Everything random follows from it.
        state: Folder of the resume state; `<out>.state` by default. It is removed when training has ended.
        signature: What the state belongs to; a state with another signature is not used.
        counts: How often each class occurs in the training split; counted here by default, once for all processes and
            kept with the state.
        trials: A JSON file that keeps what was found to be fastest on this machine; `segmodels/trials.json` in the
            cache folder by default.
        data_md5: The dataset folder's hash (`segmodels.files.folder_md5`), which the model folder names; computed
            where it is not given.
        checked: The data were judged already (`segmodels.data.validation`); otherwise that is done first.
        on_epoch: Called with each row of the history.
        launcher: Starts the processes of a training on several nodes; those of one node are started here.
        classes: Names of the classes, where `data` is a torch Dataset.

    Returns:
        The model folder, its figures and its history; a notebook shows them.

    Raises:
        DatasetError: The data cannot be trained on; the message names the files.
        TrainingError: The loss is not finite, or another process trains into the same state.
        TrainingInterrupted: The process was told to stop (SIGTERM, Ctrl-C); calling again goes on.
    """
    out = Path(out)
    check_fits(architecture, task)
    data = dataset_folder(data, out.with_name(out.name + ".data"), classes=classes, seed=seed)
    if settings is None:
        settings = TrainSettings(**from_scratch(architecture))
    settings = task_info(task).with_loss(settings)
    state = Path(state) if state is not None else out.with_name(out.name + ".state")
    if not launch.is_worker():
        if not checked and not (state / STATE_FILE).is_file():
            for warning in checks.check(data, needs=task_info(task).needs):
                print(f"warning: {warning}", flush=True)
        settings = with_crop(settings, data, name or architecture, task_info(task).needs)
        data_md5 = data_md5 or folder_md5(data)
    state.mkdir(parents=True, exist_ok=True)
    count = launch.processes(settings)
    weighted = {settings.class_weights, *(stage.get("class_weights", "none") for stage in settings.stages)}
    if weighted != {"none"} and counts is None and task_info(task).needs_classes:
        counts = _counted(data, state, signature)
    if (launcher is not None or count > 1) and not launch.is_worker():
        job = launch.Job(
            data=str(data),
            out=str(out),
            architecture=architecture,
            task=task,
            settings=dataclasses.asdict(settings),
            options=dict(options or {}),
            backbone=backbone,
            name=name,
            seed=seed,
            state=str(state),
            signature=signature,
            counts=dataclasses.asdict(counts) if counts is not None else None,
            data_md5=data_md5 or "",
        )
        tell: OnEpoch = on_epoch or (lambda row: None)
        outcome = launcher(job, tell) if launcher is not None else launch.run(job, count, tell)
        return Trained(**{**outcome, "folder": out})
    with _alone(state), warnings.catch_warnings():
        # Lightning advises other products; the settings have decided.
        warnings.filterwarnings("ignore", module="lightning")
        for part in ("fabric", "pytorch"):  # both speak of what Fabric does
            logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
        info = DatasetInfo.read(data)
        stages = [settings.stage(number) for number in range(len(settings.stages))] or [(settings, {})]
        torch.manual_seed(seed)
        loop = None
        resume = ResumeState(state, signature)
        saved, seconds, images = resume.load(), 0.0, 0
        stepping = loading = 0.0
        try:
            for number in range(saved["stage"] if saved is not None else 0, len(stages)):
                own, own_options = stages[number]
                title = name or architecture
                if len(stages) > 1:
                    title = f"{title}, stage {number + 1} of {len(stages)}"
                needs = task_info(task).needs
                own = _in_epochs(with_crop(own, data, title, needs), len(samples(data, "train", needs)))
                if number and saved is not None:
                    own = dataclasses.replace(own, weights=str(resume.best(saved["position"]["best_epoch"])))
                config = ModelConfig(
                    architecture=architecture,
                    task=task,
                    classes=info.classes if task_info(task).needs_classes else (),
                    options={**(options or {}), **own_options},
                    backbone=backbone,
                    image_size=own.image_size,
                    **channels_of(info),
                    training={"settings": dataclasses.asdict(settings), "seed": seed, "data_md5": data_md5},
                )
                with Heartbeat(lambda title=title: f"{title}: reading the data"):  # type: ignore[misc]
                    loop = Loop(config, own, data, seed, title, resume, saved, number, on_epoch, counts)
                started = time.monotonic()
                if not loop.over:
                    loop.choose(trials or cache_folder("trials.json"))
                    with turn("cuda" if on_gpu(own) else "cpu") as loop.cores:
                        loop.run(fabric_for(own, loop.choice))
                if torch.distributed.is_initialized():
                    torch.distributed.barrier()  # the first process has written the weights that all go on from
                seconds, images = seconds + time.monotonic() - started, images + loop.images_seen
                stepping, loading = stepping + loop.epoch_seconds, loading + loop.loading_seconds
                saved = loop.ended()
            assert loop is not None
            trained = Trained(
                out,
                loop.best_figures,
                loop.best_epoch,
                seconds,
                images / seconds if seconds > 0 else 0.0,
                loading / stepping if stepping > 0 else 0.0,
            )
            if loop.first:
                _write(loop, out, trained)
                shutil.rmtree(state, ignore_errors=True)
            return trained
        except (RuntimeError, MemoryError) as error:
            if not _no_memory(error):
                raise
            epoch = 0 if loop is None else min(loop.epoch + 1, loop.settings.epochs)
            where = f"in epoch {epoch}" if epoch else "before the first epoch"
            raise TrainingError(
                f"{name or architecture}: out of memory {where}; lower train.batch_size (train.accumulate makes up for "
                "it), train.augment.crop or train.cache_gb, take a smaller network, or give it more (resources.memory, "
                "a larger GPU); the same command goes on from the last state that was saved"
            ) from None


def with_crop(settings: TrainSettings, data: Path, name: str, needs: Sequence[str] = ("labels",)) -> TrainSettings:
    """Return the settings with a crop chosen from the training images, where these differ in size and none is set."""
    augment = settings.augment
    if settings.image_size is not None or augment.crop is not None or augment.extra:
        return settings
    bands = Bands.of(DatasetInfo.read(data).image)
    sizes = image_sizes((sample.image for sample in samples(data, "train", needs)), bands)
    crop = training_crop(sizes)
    if crop is None:
        return settings
    print(
        f"{name}: images come in {described(sizes)}; trains on crops of {crop[0]}x{crop[1]} (train.augment.crop)",
        flush=True,
    )
    return dataclasses.replace(settings, augment=dataclasses.replace(augment, crop=crop))


def _in_epochs(settings: TrainSettings, images: int) -> TrainSettings:
    """Return the settings with as many epochs as their iterations take on so many images, where they count in
    iterations.
    """
    if settings.iterations is None:
        return settings
    world = int(os.environ["WORLD_SIZE"]) if launch.is_worker() else 1
    batches = max(1, math.ceil(images / world) // settings.batch_size)
    per_epoch = math.ceil(batches / settings.accumulate)
    return dataclasses.replace(settings, epochs=math.ceil(settings.iterations / per_epoch))


def _alone(state: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of the state; further processes of a run rely on that of the first."""
    if launch.is_worker() and os.environ.get("RANK", "0") != "0":
        return contextlib.nullcontext()
    return locked(
        state / "lock",
        busy=TrainingError(f"{state}: another process trains here; wait for it, or give this run a folder of its own"),
    )


def _no_memory(error: Exception) -> bool:
    """Tell whether an allocation failed; of a GPU's torch has an error of its own, of a CPU's a plain RuntimeError."""
    # oneDNN says only that it could not make what it needs the memory for.
    told = ("allocate memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)


def _write(loop: Loop, out: Path, trained: Trained) -> None:
    metrics = {**loop.best_figures, "epoch": loop.best_epoch}
    config = ModelConfig(**{**fields_of(loop.config), "metrics": metrics})
    speed = {
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(trained.images_per_second, 2),
        "device": _device_name(loop.device),
        "precision": PRECISIONS[loop.choice.precision],
        "channels_last": loop.choice.channels_last,
        "compiled": loop.choice.compile,
    }
    with replaced(out) as part:
        save_model(part, config, load_file(loop.state.best(loop.best_epoch)), loop.history)
        (part / "speed.json").write_text(json.dumps(speed, indent=2) + "\n")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _counted(data: Path, state: Path, signature: str) -> ClassCounts:
    """Return how often each class occurs in the training split; what a resumed training counted before is read."""
    path = state / "classes.json"
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved.pop("signature") == signature:
            return ClassCounts(tuple(saved["pixels"]), tuple(saved["in_images"]))
    counts = ClassCounts.read(data, "train", DatasetInfo.read(data).num_classes)
    if not launch.is_worker():
        write_text(path, json.dumps({**dataclasses.asdict(counts), "signature": signature}))
    return counts
