"""Training one architecture: Lightning's loop, resumable at any moment, bit for bit.

What a step does depends on (seed, epoch, batch) alone: the order of the samples, their augmentation, the dropout masks
and the learning rate are functions of them. The resume state therefore is the weights, the optimiser, the running
average and the position; it is written to a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from segmodels import distributed, losses, trial
from segmodels.checkpoint import ModelConfig, load_weights, save_model
from segmodels.data import checks
from segmodels.data.dataset import DatasetInfo, replace_folder, samples
from segmodels.data.frequencies import ClassCounts
from segmodels.data.sizes import described, image_sizes, training_crop
from segmodels.data.transforms import (
    Augmentation,
    Cache,
    Decoded,
    EpochSampler,
    EvaluationSet,
    TrainingSet,
    resize_label,
    training_loader,
)
from segmodels.files import folder_md5
from segmodels.inference import channels_last
from segmodels.layers.model import SegmentationModel
from segmodels.metrics import scores
from segmodels.optimization import learning_rate, move_average, optimizer_for
from segmodels.progress import Heartbeat, Progress
from segmodels.recipes import from_scratch
from segmodels.resume import STATE_FILE, ResumeState, TrainingError, TrainingInterrupted, locked
from segmodels.settings import TrainSettings
from segmodels.sources import default_cache
from segmodels.summed import ConfusionMatrix
from segmodels.threads import Turn, available_cores, turn
from segmodels.trial import candidates

OnEpoch = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        folder: The model folder.
        val_miou: Best mIoU on the validation split, in 0..1.
        epoch: The epoch that reached it, counted from 1.
        seconds: Wall time of this process's training.
        images_per_second: Training images per second of this process.
    """

    folder: Path
    val_miou: float
    epoch: int
    seconds: float
    images_per_second: float


def fit(
    data: Path | str,
    out: Path | str,
    *,
    architecture: str,
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
    launcher: distributed.Launcher | None = None,
) -> Trained:
    """Trains an architecture on a dataset folder and writes its model folder.

    Args:
        data: Dataset folder with the splits `train` and `val`.
        out: Model folder; it appears when training has ended.
        architecture: Name in the registry.
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
        checked: The data were judged already (`segmodels.data.checks`); otherwise that is done first.
        on_epoch: Called with each row of the history.
        launcher: Starts the processes of a training on several nodes; those of one node are started here.

    Raises:
        DatasetError: The data cannot be trained on; the message names the files.
        TrainingError: The loss is not finite, or another process trains into the same state.
        TrainingInterrupted: The process was told to stop (SIGTERM, Ctrl-C); calling again goes on.
    """
    data, out = Path(data), Path(out)
    if settings is None:
        settings = TrainSettings(**from_scratch(architecture))
    state = Path(state) if state is not None else out.with_name(out.name + ".state")
    if not distributed.is_worker():
        if not checked and not (state / STATE_FILE).is_file():
            for warning in checks.check(data):
                print(f"warning: {warning}", flush=True)
        settings = with_crop(settings, data, name or architecture)
        data_md5 = data_md5 or folder_md5(data)
    state.mkdir(parents=True, exist_ok=True)
    count = distributed.processes(settings)
    weighted = {settings.class_weights, *(stage.get("class_weights", "none") for stage in settings.stages)}
    if weighted != {"none"} and counts is None:
        counts = _counted(data, state, signature)
    if (launcher is not None or count > 1) and not distributed.is_worker():
        job = distributed.Job(
            data=str(data),
            out=str(out),
            architecture=architecture,
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
        outcome = launcher(job, tell) if launcher is not None else distributed.run(job, count, tell)
        return Trained(**{**outcome, "folder": out})
    with _alone(state), warnings.catch_warnings():
        # Lightning advises more workers, a logger and other products; the settings have decided.
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        info = DatasetInfo.read(data)
        stages = [settings.stage(number) for number in range(len(settings.stages))] or [(settings, {})]
        torch.manual_seed(seed)
        task = None
        resume = ResumeState(state, signature)
        saved, seconds, images = resume.load(), 0.0, 0
        try:
            for number in range(saved["stage"] if saved is not None else 0, len(stages)):
                own, own_options = stages[number]
                title = name or architecture
                if len(stages) > 1:
                    title = f"{title}, stage {number + 1} of {len(stages)}"
                own = _in_epochs(with_crop(own, data, title), len(samples(data, "train")))
                if number and saved is not None:
                    own = dataclasses.replace(own, weights=str(resume.best(saved["position"]["best_epoch"])))
                config = ModelConfig(
                    architecture=architecture,
                    classes=info.classes,
                    options={**(options or {}), **own_options},
                    backbone=backbone,
                    image_size=own.image_size,
                    training={"settings": dataclasses.asdict(settings), "seed": seed, "data_md5": data_md5},
                )
                with Heartbeat(lambda title=title: f"{title}: reading the data"):  # type: ignore[misc]
                    task = _Task(config, own, data, seed, title, resume, saved, number, on_epoch, counts)
                started = time.monotonic()
                if not task.over:
                    task.choose(trials or default_cache().parent / "trials.json")
                    with turn("cuda" if _on_gpu(own) else "cpu") as task.cores:
                        try:
                            _trainer(own, task.epoch, task.choice).fit(task)
                        finally:
                            task.close()
                if torch.distributed.is_initialized():
                    torch.distributed.barrier()  # the first process has written the weights that all go on from
                seconds, images = seconds + time.monotonic() - started, images + task.images_seen
                saved = task.ended()
            assert task is not None
            trained = Trained(out, task.best_miou, task.best_epoch, seconds, images / seconds if seconds > 0 else 0.0)
            if task.global_rank == 0:
                _write(task, out, trained)
                shutil.rmtree(state, ignore_errors=True)
            return trained
        except (RuntimeError, MemoryError) as error:
            if not _no_memory(error):
                raise
            epoch = 0 if task is None else min(task.epoch + 1, task.settings.epochs)
            where = f"in epoch {epoch}" if epoch else "before the first epoch"
            raise TrainingError(
                f"{name or architecture}: out of memory {where}; lower train.batch_size (train.accumulate makes up for "
                "it), train.augment.crop or train.cache_gb, take a smaller network, or give it more (resources.memory, "
                "a larger GPU); the same command goes on from the last epoch"
            ) from None


def with_crop(settings: TrainSettings, data: Path, name: str) -> TrainSettings:
    """The settings with a crop chosen from the training images, where they have several sizes and none is set."""
    augment = settings.augment
    if settings.image_size is not None or augment.crop is not None or augment.extra:
        return settings
    sizes = image_sizes(sample.image for sample in samples(data, "train"))
    crop = training_crop(sizes)
    if crop is None:
        return settings
    print(
        f"{name}: images come in {described(sizes)}; trains on crops of {crop[0]}x{crop[1]} (train.augment.crop)",
        flush=True,
    )
    return dataclasses.replace(settings, augment=dataclasses.replace(augment, crop=crop))


def _in_epochs(settings: TrainSettings, images: int) -> TrainSettings:
    """The settings with as many epochs as their iterations take on so many images, where they count in iterations."""
    if settings.iterations is None:
        return settings
    world = int(os.environ["WORLD_SIZE"]) if distributed.is_worker() else 1
    batches = max(1, math.ceil(images / world) // settings.batch_size)
    per_epoch = math.ceil(batches / settings.accumulate)
    return dataclasses.replace(settings, epochs=math.ceil(settings.iterations / per_epoch))


def _alone(state: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the state; further processes of a run rely on that of the first."""
    if distributed.is_worker() and os.environ.get("RANK", "0") != "0":
        return contextlib.nullcontext()
    return locked(state / "lock")


def _no_memory(error: Exception) -> bool:
    """Whether an allocation failed; of a GPU's torch has an error of its own, of a CPU's a plain RuntimeError."""
    # oneDNN says only that it could not make what it needs the memory for.
    told = ("allocate memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)


class _Task(pl.LightningModule):
    """The network, its data, its optimiser and its place in the run."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainSettings,
        data: Path,
        seed: int,
        name: str,
        state: ResumeState,
        saved: Mapping[str, Any] | None,
        stage: int,
        on_epoch: OnEpoch | None,
        counts: ClassCounts | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        # A small validation set may have fewer batches than there are processes.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.config, self.settings, self.data, self.seed, self.name = config, settings, data, seed, name
        self.state, self.stage, self.on_epoch = state, stage, on_epoch
        self.network = config.build()
        self.new: set[str] = {n for n, _ in self.network.named_parameters()}
        begun = saved is not None and saved["stage"] == stage
        if settings.weights and not begun:
            self.new = load_weights(self.network, settings.weights)
        size = settings.image_size
        augmentation = Augmentation(**_fields(settings.augment))
        # What all processes and workers of this machine keep together is what the setting says.
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if distributed.is_worker() else 1
        cache = Cache(settings.cache_gb / (sharing * max(1, settings.workers)))
        self.train_data = Decoded(data, "train", size=size, cache=cache)
        self.train_set = TrainingSet(self.train_data, augmentation, config.mean, config.std, seed)
        # Workers of the validation end with it, and what they keep with them.
        kept = Cache(0.0) if settings.workers else cache
        held_out = Decoded(data, "val", size=size, cache=kept, resize_labels=False)
        self.val_set = EvaluationSet(held_out, min(settings.batch_size, 8), config.mean, config.std)
        weight = None
        if counts is not None:
            weight = losses.class_weights(counts, settings.class_weights)
        self.network.criterion = losses.build(
            settings.loss,
            class_weight=weight,
            label_smoothing=settings.label_smoothing,
            reduction=settings.reduction,
        )
        self.criterion = losses.CrossEntropy()
        self.matrix = ConfusionMatrix(len(config.classes))
        # The average lives outside the module tree: it is neither trained nor wrapped by DDP.
        kept_apart = settings.ema is not None or settings.norm_statistics == "exact"
        self._average: list[nn.Module] = [copy.deepcopy(self.network)] if kept_apart else []
        device = torch.device("cuda" if _on_gpu(settings) else "cpu")
        self.choice = candidates(settings, device)[0]
        self.forward_network: nn.Module | Callable[..., Any] = self.network

        self.epoch, self.batch, self.updates, self.images_seen = 0, 0, 0, 0
        self.best_miou, self.best_epoch, self.since_best = -1.0, 0, 0
        self.loss_sum, self.loss_count = torch.zeros(()), 0
        self.history: list[dict[str, Any]] = []
        self.val_loss, self.val_images = 0.0, 0
        self.stop_requested = False
        self.cores = Turn()
        self.progress: Progress | None = None
        self._previous: dict[int, Any] = {}
        # Epochs and updates of the stages before, and what they told.
        self.before, self.updates_before = 0, 0
        self._optimizer_state: dict[str, Any] | None = None
        self._begun = begun
        if saved is not None:
            self._restore(saved) if begun else self._follow(saved)

    def choose(self, trials: Path) -> None:
        """Find out how the network trains fastest, unless a training that is resumed has begun in some way."""
        s, device = self.settings, torch.device("cuda" if _on_gpu(self.settings) else "cpu")
        if not self._begun and not distributed.is_worker():
            steps = s.epochs * max(1, len(self.train_set) // s.batch_size)
            self.choice = trial.choose(
                self.network, self._first_batch, s, device, steps=steps, name=self.name, kept=trials
            )
        if self.choice.channels_last:
            channels_last(self.network)

    def _first_batch(self) -> tuple[Tensor, Tensor]:
        sampler = EpochSampler(len(self.train_set), self.seed)
        images, target = next(iter(training_loader(self.train_set, sampler, self.settings.batch_size, 0)))
        return images, target

    # Data

    def train_dataloader(self) -> DataLoader:
        world = self.trainer.world_size
        sampler = EpochSampler(len(self.train_set), self.seed, rank=self.global_rank, world=world)
        return training_loader(self.train_set, sampler, self.settings.batch_size, self._workers)

    def val_dataloader(self) -> DataLoader:
        mine = range(self.global_rank, len(self.val_set), self.trainer.world_size)
        return DataLoader(self.val_set, batch_size=None, sampler=mine, num_workers=self._workers)

    @property
    def _workers(self) -> int:
        """Processes that load data: as the settings say, but no more than there are cores for them."""
        return min(self.settings.workers, max(1, available_cores() // self.trainer.world_size))

    # Optimisation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_for(self.network, self.settings, self.new)

    def on_fit_start(self) -> None:
        if self._optimizer_state is not None:
            # The fresh state says on which device each tensor belongs; load_state_dict moves them there.
            _optimizer(self).load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        for average in self._average:
            average.to(self.device)
        self.loss_sum = self.loss_sum.to(self.device)
        if self.choice.compile:
            self.forward_network = torch.compile(self.network, dynamic=False)
        self.steps = len(self.trainer.fit_loop._combined_loader or self.train_dataloader())
        self.progress = Progress(self.name, self.settings.epochs, self.steps, self.epoch) if self._first else None
        if self._begun and self._first:
            print(f"{self.name}: goes on after epoch {self.epoch}, step {self.batch} of {self.steps}", flush=True)
        self._tick = time.monotonic()

    def on_train_start(self) -> None:
        # Not before: Lightning has now installed its own handler, which would end the process without saving.
        self._previous = {number: signal.signal(number, self._request_stop) for number in _STOPS}

    def close(self) -> None:
        """Give the signals back and say no more; Lightning has no hook that is called however training ended."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self.progress is not None:
            self.progress.close()

    def on_train_epoch_start(self) -> None:
        self._epoch_images, self._tick = 0, time.monotonic()
        due = (self.epoch + 1) % self.settings.val_every == 0 or self.epoch + 1 == self.settings.epochs
        self.trainer.limit_val_batches = 1.0 if due else 0.0
        # Not where validation begins: a process that has no batch of it would keep its last result.
        self.matrix.reset()
        self.val_loss, self.val_images = 0.0, 0

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        if index < self.batch or self.updates == self.settings.iterations:
            return  # done before the interruption, or all that was to be done
        accumulate = self.settings.accumulate
        if index % accumulate == 0 and self._must_stop():
            self._stop()
        images, target = batch
        if self.choice.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(_mixed(self.seed, self.epoch, index, self.global_rank))
        optimizer: Any = self.optimizers()
        if index % accumulate == 0:
            optimizer.zero_grad()
        outputs = self.forward_network(images)
        loss: Tensor = cast(SegmentationModel, self.network).loss(outputs, target)
        window = min(accumulate, self.steps - index // accumulate * accumulate)
        self.manual_backward(loss / window)
        if (index + 1) % accumulate == 0 or index + 1 == self.steps:
            self._update(optimizer)
        self.loss_sum += loss.detach()
        self.loss_count += 1
        self.batch = index + 1
        self.images_seen += len(images) * self.trainer.world_size
        self._epoch_images += len(images) * self.trainer.world_size
        if self.progress is not None:
            self.progress.step(self.epoch, index, float(loss.detach()) if self.device.type == "cpu" else None)
        self.cores.pass_on()

    def _update(self, optimizer: Any) -> None:
        s = self.settings
        rate = self._rate()
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if s.clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        optimizer.step()
        self.updates += 1
        if self._average and s.ema:
            move_average(self._average[0], self.network, min(s.ema, (1 + self.updates) / (10 + self.updates)))

    def _rate(self) -> float:
        """The learning rate of the next update, a function of how many came before."""
        per_epoch = math.ceil(self.steps / self.settings.accumulate)
        return learning_rate(self.settings, self.updates, per_epoch)

    # Validation

    def on_validation_start(self) -> None:
        if self.settings.norm_statistics == "exact":
            (average,) = self._average
            if not self.settings.ema:
                average.load_state_dict(self.network.state_dict())
            sampler = EpochSampler(len(self.train_set), self.seed)
            sampler.set_epoch(self.epoch)
            loader = training_loader(self.train_set, sampler, self.settings.batch_size, 0)
            # Dropout is drawn in this pass, too: the same after a resume.
            torch.manual_seed(_mixed(self.seed, self.epoch, self.steps))
            update_bn(self._between(loader), average, self.device)

    def _between(self, loader: DataLoader) -> Iterator[Any]:
        """The batches of a pass that may be stopped, and lets others compute, after each of them."""
        for batch in loader:
            if self.trainer.world_size == 1 and self._must_stop():
                self._stop()
            yield batch
            self.cores.pass_on()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        # Several processes may have unequal shares; they ask each other at the next training step.
        if self.trainer.world_size == 1 and self._must_stop():
            self._stop()
        if self.progress is not None:
            self.progress.validating(self.epoch, index, len(self.val_set))
        images, labels = batch
        network = self._average[0].eval() if self._average else self.network
        logits = network(images)["out"].float()
        target = labels
        if logits.shape[-2:] != labels.shape[-2:]:
            target = torch.stack([resize_label(label, tuple(logits.shape[-2:])) for label in labels])
        self.val_loss += float(self.criterion(logits, target.long())) * len(images)
        self.val_images += len(images)
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        self.matrix.update(logits.argmax(1).to(torch.uint8), labels)
        self.cores.pass_on()

    def on_train_epoch_end(self) -> None:
        """After training and validation of an epoch: history, best weights, state."""
        train_loss = self._summed(float(self.loss_sum)) / max(self._summed(self.loss_count), 1)
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"{self.name}: the loss is {train_loss} in epoch {self.epoch + 1}; lower train.lr or set train.clip"
            )
        row = {
            "epoch": self.before + self.epoch + 1,
            "step": self.updates_before + self.updates,
            "lr": self._rate() if self.epoch + 1 < self.settings.epochs else 0.0,
            "train_loss": train_loss,
            "val_loss": "",
            "val_miou": "",
            "val_pixel_accuracy": "",
        }
        improved = False
        if self.trainer.limit_val_batches:
            result = scores(self.matrix.counts())
            row |= {
                "val_loss": self._summed(self.val_loss) / max(self._summed(self.val_images), 1),
                "val_miou": result["miou"],
                "val_pixel_accuracy": result["pixel_accuracy"],
            }
            improved = result["miou"] > self.best_miou
            self.since_best = 0 if improved else self.since_best + 1
            if improved:
                self.best_miou, self.best_epoch = result["miou"], self.before + self.epoch + 1
        self.history.append(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.loss_count = 0
        if self._first:
            if improved:
                best = self._average[0] if self._average else self.network
                self.state.save_best(self.best_epoch, best.state_dict())
            self._save()
            self.state.forget_but(self.best_epoch)
            if self.progress is not None:
                self.progress.epoch(
                    {**row, "epoch": self.epoch}, self._epoch_images / max(time.monotonic() - self._tick, 1e-6)
                )
            if self.on_epoch is not None:
                self.on_epoch(row)
        if self.over:
            self.trainer.should_stop = True
        if self._must_stop() and self.epoch < self.settings.epochs:
            self._stop()

    # State

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        stalled = self.settings.early_stop is not None and self.since_best >= self.settings.early_stop
        return stalled or self.epoch >= self.settings.epochs

    @property
    def _first(self) -> bool:
        return self.global_rank == 0

    def _request_stop(self, number: int, frame: object) -> None:
        if self.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # pressed again: without waiting for the step to end
        self.stop_requested = True

    def _must_stop(self) -> bool:
        """Whether any process was told to stop; all of them stop at the same step."""
        if self.trainer.world_size == 1:
            return self.stop_requested
        return bool(self.trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False))

    def _summed(self, value: float) -> float:
        """The sum over all processes."""
        if self.trainer.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(total, reduce_op="sum"))  # type: ignore[arg-type]

    def _stop(self) -> None:
        # What the first process saves stands for all.
        self.loss_sum = self.loss_sum.new_tensor(self._summed(float(self.loss_sum)) / self.trainer.world_size)
        if self._first:
            self._save()
        raise TrainingInterrupted(
            f"{self.name}: stopped in epoch {self.epoch + 1}, step {self.batch}; the state is saved, "
            "run the same command again to go on"
        )

    def ended(self) -> dict[str, Any]:
        """What a stage that follows needs to know of this one."""
        return {"stage": self.stage, "position": {k: getattr(self, k) for k in _POSITION}, "history": self.history}

    def _save(self) -> None:
        self.state.save(
            {
                **self.ended(),
                "new": sorted(self.new),
                "network": self.network.state_dict(),
                "average": [a.state_dict() for a in self._average],
                "optimizer": _optimizer(self).state_dict(),
                "choice": dataclasses.asdict(self.choice),
                "loss_sum": self.loss_sum.cpu(),
            }
        )

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.choice = trial.Choice(**saved["choice"])
        self.network.load_state_dict(saved["network"])
        for average, weights in zip(self._average, saved["average"], strict=True):
            average.load_state_dict(weights)
        self._optimizer_state = saved["optimizer"]
        self.new = set(saved["new"])
        for key in _POSITION:
            setattr(self, key, saved["position"][key])
        self.loss_sum = saved["loss_sum"]
        self.history = list(saved["history"])

    def _follow(self, saved: Mapping[str, Any]) -> None:
        """Begin after the stage that this was saved by."""
        self.history = list(saved["history"])
        self.before, self.updates_before = self.history[-1]["epoch"], self.history[-1]["step"]


_STOPS = (signal.SIGTERM, signal.SIGINT)
_POSITION = (
    *("epoch", "batch", "updates", "before", "updates_before", "loss_count"),
    *("best_miou", "best_epoch", "since_best"),
)


_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def _on_gpu(settings: TrainSettings) -> bool:
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def _trainer(settings: TrainSettings, epoch: int, choice: trial.Choice) -> pl.Trainer:
    several = distributed.is_worker()
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator=settings.accelerator,
        # Several are processes that a launcher has started already, on this machine and on others.
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        num_nodes=int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        # Networks with a part that not every batch reaches (a head of one stage, say) need the search.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision=_PRECISIONS[choice.precision],  # type: ignore[arg-type]
        # Not what the environment says of other processes (RANK, SLURM_…), which may be left over from something else.
        plugins=None if several else LightningEnvironment(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # Each device sees a part of the batch; norms are those of the whole.
        sync_batchnorm=several and settings.accelerator != "cpu" and torch.cuda.is_available(),
        benchmark=settings.augment.crop is not None,
        log_every_n_steps=1,
    )
    # Lightning counts epochs from here; the rest of the state is restored by the task itself.
    place: Any = trainer.fit_loop.epoch_progress.current
    place.processed = place.completed = epoch
    return trainer


def _write(task: _Task, out: Path, trained: Trained) -> None:
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    metrics = {"val_miou": task.best_miou, "epoch": task.best_epoch}
    config = ModelConfig(**{**_fields(task.config), "metrics": metrics})
    save_model(part, config, load_file(task.state.best(task.best_epoch)), task.history)
    speed = {
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(trained.images_per_second, 2),
        "device": _device_name(task.device),
        "precision": _PRECISIONS[task.choice.precision],
        "channels_last": task.choice.channels_last,
        "compiled": task.choice.compile,
    }
    (part / "speed.json").write_text(json.dumps(speed, indent=2) + "\n")
    replace_folder(part, out)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _optimizer(task: _Task) -> torch.optim.Optimizer:
    optimizer = task.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def _counted(data: Path, state: Path, signature: str) -> ClassCounts:
    """How often each class occurs in the training split; what a resumed training counted before is read."""
    path = state / "classes.json"
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved.pop("signature") == signature:
            return ClassCounts(tuple(saved["pixels"]), tuple(saved["in_images"]))
    counts = ClassCounts.read(data, "train", DatasetInfo.read(data).num_classes)
    if not distributed.is_worker():
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**dataclasses.asdict(counts), "signature": signature}))
        os.replace(part, path)
    return counts


def _mixed(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
