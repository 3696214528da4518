"""Lightning's loop around one network, resumable at any moment, bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.catalog.weights import load_weights
from segmodels.data.augment import Augmentation, resize_label
from segmodels.data.frequencies import ClassCounts
from segmodels.data.loading import Cache, Decoded, EpochSampler, EvaluationSet, TrainingSet, training_loader
from segmodels.inference.predictor import channels_last
from segmodels.models.base import SegmentationModel
from segmodels.progress import Progress
from segmodels.runtime import Turn, available_cores
from segmodels.settings.schema import TrainSettings
from segmodels.tasks.semantic import losses
from segmodels.tasks.semantic.metrics import scores
from segmodels.tasks.semantic.summed import ConfusionMatrix
from segmodels.training import launch, trial
from segmodels.training.optimizers import learning_rate, move_average, optimizer_for
from segmodels.training.state import ResumeState, TrainingError, TrainingInterrupted
from segmodels.training.trial import candidates

OnEpoch = Callable[[Mapping[str, Any]], None]
_STOPS = (signal.SIGTERM, signal.SIGINT)
_POSITION = (
    *("epoch", "batch", "updates", "before", "updates_before", "loss_count"),
    *("best_miou", "best_epoch", "since_best"),
)
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class Loop(pl.LightningModule):
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
        augmentation = Augmentation(**fields_of(settings.augment))
        # What all processes and workers of this machine keep together is what the setting says.
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launch.is_worker() else 1
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
        device = torch.device("cuda" if on_gpu(settings) else "cpu")
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
        s, device = self.settings, torch.device("cuda" if on_gpu(self.settings) else "cpu")
        if not self._begun and not launch.is_worker():
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
        """Return the learning rate of the next update, a function of how many came before."""
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
        """Yield the batches of a pass that may be stopped, and lets others compute, after each of them."""
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
        """Tell whether any process was told to stop; all of them stop at the same step."""
        if self.trainer.world_size == 1:
            return self.stop_requested
        return bool(self.trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False))

    def _summed(self, value: float) -> float:
        """Return the sum over all processes."""
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
        """Return what a stage that follows needs to know of this one."""
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


def on_gpu(settings: TrainSettings) -> bool:
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def trainer_for(settings: TrainSettings, epoch: int, choice: trial.Choice) -> pl.Trainer:
    several = launch.is_worker()
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator=settings.accelerator,
        # Several are processes that a launcher has started already, on this machine and on others.
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        num_nodes=int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        # Networks with a part that not every batch reaches (a head of one stage, say) need the search.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision=PRECISIONS[choice.precision],  # type: ignore[arg-type]
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
    # Lightning counts epochs from here; the rest of the state is restored by the loop itself.
    place: Any = trainer.fit_loop.epoch_progress.current
    place.processed = place.completed = epoch
    return trainer


def _optimizer(loop: Loop) -> torch.optim.Optimizer:
    optimizer = loop.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def _mixed(*parts: int) -> int:
    """Return one 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def fields_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
