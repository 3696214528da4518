"""The loop around one network, on Lightning's Fabric: every step is seen, and resumable at any moment, bit for bit.

Fabric places the network and the batches on devices, wraps it for several processes and scales what half precision
needs; what happens when is written here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.catalog.weights import load_weights
from segmodels.data.augment import Augmentation
from segmodels.data.cache import cache_for
from segmodels.data.device import on_device
from segmodels.data.frequencies import ClassCounts, repeat_factors
from segmodels.data.loading import Decoded, EpochSampler, EvaluationSet, TrainingSet, training_loader
from segmodels.data.targets import target
from segmodels.inference.predictor import channels_last
from segmodels.models.base import SegmentationModel
from segmodels.progress import Progress, Stopwatch
from segmodels.runtime import Turn, available_cores
from segmodels.settings.schema import TrainSettings
from segmodels.tasks import get_task
from segmodels.training import launch, trial
from segmodels.training.optimizers import learning_rate, move_average, optimizer_for
from segmodels.training.state import ResumeState, TrainingError, TrainingInterrupted
from segmodels.training.trial import candidates

OnEpoch = Callable[[Mapping[str, Any]], None]
_STOPS = (signal.SIGTERM, signal.SIGINT)
_POSITION = (
    *("epoch", "batch", "updates", "before", "updates_before", "loss_count"),
    *("best", "best_epoch", "since_best"),
)
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# The state is written no more often than so many times as long as writing it takes.
SAVE_SHARE = 30


class Loop:
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
        self.config, self.settings, self.data, self.seed, self.name = config, settings, data, seed, name
        self.state, self.stage, self.on_epoch = state, stage, on_epoch
        self.task = get_task(config.task)
        self.network = cast(SegmentationModel, config.build())
        self.new: set[str] = {n for n, _ in self.network.named_parameters()}
        begun = saved is not None and saved["stage"] == stage
        if settings.weights and not begun:
            self.new = load_weights(self.network, settings.weights)
        size, needs = settings.image_size, self.task.info.needs
        augmentation = Augmentation(**fields_of(settings.augment))
        self.workers = workers(settings)
        # What all processes and workers of this machine keep together is what the setting says.
        cache = cache_for(settings.cache_gb / _together(), self.workers)
        # A GPU gets bytes, a quarter of what it computes with, and makes colours of them itself.
        late = on_gpu(settings) and not settings.augment.mix  # what is mixed has no map of colours of its own
        self.train_data = Decoded(data, "train", needs=needs, size=size, cache=cache)
        self.train_set = TrainingSet(self.train_data, augmentation, config.mean, config.std, seed, late=late)
        held_out = Decoded(data, "val", needs=needs, size=size, cache=cache, resize_targets=False)
        self.often = None
        if settings.repeat_rare is not None:
            if "labels" not in needs:
                raise TrainingError(f"train.repeat_rare: {self.task.info.title} has no classes; set it to null")
            self.often = repeat_factors(data, "train", len(config.classes), settings.repeat_rare)
        self.val_set = EvaluationSet(held_out, min(settings.batch_size, 8), config.mean, config.std, late=late)
        self.network.criterion = self.task.criterion(settings, counts)
        self.criterion = self.task.plain_criterion(settings)
        self.metric = self.task.summed(config.channels, settings)
        # The average lives outside the module tree: it is neither trained nor wrapped for several processes.
        kept_apart = settings.ema is not None or settings.norm_statistics == "exact"
        self.average: nn.Module | None = copy.deepcopy(self.network) if kept_apart else None
        self.device = torch.device("cuda" if on_gpu(settings) else "cpu")
        self.choice = candidates(settings, self.device)[0]

        self.epoch, self.batch, self.updates, self.images_seen = 0, 0, 0, 0
        # As much of the main figure as is better, so that more of it is: `Figure.gain`.
        self.best, self.best_epoch, self.since_best = -math.inf, 0, 0
        self.loss_sum, self.loss_count = torch.zeros(()), 0
        # What training took, and what of it was waiting for the loader.
        self.epoch_seconds = self.loading_seconds = 0.0
        # Images of this epoch that this process has seen, and when it last said so.
        self._epoch_images, self._tick = 0, time.monotonic()
        self.history: list[dict[str, Any]] = []
        self.stop_requested = False
        self.cores = Turn()
        self.progress: Progress | None = None
        self._best_weights: dict[str, Tensor] | None = None
        self._saved_at, self._saving_took = -math.inf, 0.0
        # Epochs and updates of the stages before, and what they told.
        self.before, self.updates_before = 0, 0
        self._optimizer_state: dict[str, Any] | None = None
        self._begun = begun
        if saved is not None:
            self._restore(saved) if begun else self._follow(saved)

    def choose(self, trials: Path) -> None:
        """Find out how the network trains fastest, unless a training that is resumed has begun in some way."""
        s = self.settings
        if not self._begun and not launch.is_worker():
            steps = s.epochs * max(1, len(self.train_set) // s.batch_size)
            self.choice = trial.choose(
                self.network, self._first_batch, s, self.device, steps=steps, name=self.name, kept=trials
            )
        if self.choice.channels_last:
            channels_last(self.network)

    def _first_batch(self) -> dict[str, Tensor]:
        sampler = EpochSampler(len(self.train_set), self.seed)
        batch: dict[str, Tensor] = next(iter(training_loader(self.train_set, sampler, self.settings.batch_size, 0)))
        return on_device(batch, self.device)

    # The run

    def run(self, fabric: Fabric) -> None:
        """Train until nothing is left to train.

        Raises:
            TrainingInterrupted: The process was told to stop; the state is saved.
            TrainingError: The loss is not finite.
        """
        self.fabric, self.device = fabric, fabric.device
        self._set_up()
        with self._stoppable():
            while not self.over:
                self._train_epoch()
                due = (self.epoch + 1) % self.settings.val_every == 0 or self.epoch + 1 == self.settings.epochs
                figures = self._validate() if due else None
                self._end_epoch(figures)

    def _set_up(self) -> None:
        """Place everything on the device, and begin or go on."""
        s, fabric = self.settings, self.fabric
        if fabric.world_size > 1 and self.device.type == "cuda":
            # Each device sees a part of the batch; norms are those of the whole.
            self.network = cast(SegmentationModel, nn.SyncBatchNorm.convert_sync_batchnorm(self.network))
        self.optimizer = optimizer_for(self.network, s, self.new, fused=self.device.type == "cuda")
        module: Any = torch.compile(self.network, dynamic=False) if self.choice.compile else self.network
        self.module, self.stepper = fabric.setup(module, self.optimizer, _reapply_compile=False)
        if self._optimizer_state is not None:
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        for other in (self.average, self.criterion, self.metric):
            if other is not None:
                other.to(self.device)
        self.loss_sum = self.loss_sum.to(self.device)
        torch.backends.cudnn.benchmark = s.augment.crop is not None
        self.sampler = EpochSampler(len(self.train_set), self.seed, rank=fabric.global_rank, world=fabric.world_size,
                                    often=self.often)  # fmt: skip
        self.loader = training_loader(self.train_set, self.sampler, s.batch_size, self.workers)
        self.steps = len(self.loader)
        if self.first:
            main = self.task.info.main
            told = {f"val_{main.key}": (f"val {main.label}", main.show)}
            self.progress = Progress(self.name, s.epochs, self.steps, self.epoch, told)
            if self._begun:
                print(f"{self.name}: goes on after epoch {self.epoch}, step {self.batch} of {self.steps}", flush=True)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as wishes while the body runs; end the progress lines after it."""
        previous = {number: signal.signal(number, self._request_stop) for number in _STOPS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self.progress is not None:
                self.progress.close()

    # An epoch

    def _train_epoch(self) -> None:
        """Take the epoch's steps, those that are left of it."""
        s = self.settings
        self.network.train()
        self._epoch_images, self._tick = 0, time.monotonic()
        # What was trained on before an interruption is not loaded again.
        self.sampler.set_epoch(self.epoch, skip=self.batch * s.batch_size)
        began, loading = time.monotonic(), Stopwatch()
        for batch in loading.around(self.loader):
            if self.updates == s.iterations:
                break  # all that was to be done
            if self.batch % s.accumulate == 0 and self._must_stop():
                self._stop()
            self._step(on_device(batch, self.device))
            self.cores.pass_on()
        self.loading_seconds += loading.seconds
        self.epoch_seconds += time.monotonic() - began

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Add one batch's gradient, and move the weights where the window is full."""
        s, images = self.settings, batch["image"]
        if self.choice.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(_mixed(self.seed, self.epoch, self.batch, self.fabric.global_rank))
        if self.batch % s.accumulate == 0:
            self.optimizer.zero_grad()
        loss: Tensor = self.network.loss(self.module(images), batch)
        window = min(s.accumulate, self.steps - self.batch // s.accumulate * s.accumulate)
        self.fabric.backward(loss / window)
        self.batch += 1
        if self.batch % s.accumulate == 0 or self.batch == self.steps:
            self._update()
        self.loss_sum += loss.detach()
        self.loss_count += 1
        count = len(images) * self.fabric.world_size
        self.images_seen += count
        self._epoch_images += count
        if self.progress is not None:
            shown = float(loss.detach()) if self.device.type == "cpu" else None
            self.progress.step(self.epoch, self.batch - 1, shown)

    def _update(self) -> None:
        s = self.settings
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        if s.clip is not None:
            self.fabric.clip_gradients(self.module, self.stepper, max_norm=s.clip, error_if_nonfinite=False)
        self.stepper.step()
        self.updates += 1
        if self.average is not None and s.ema:
            move_average(self.average, self.network, min(s.ema, (1 + self.updates) / (10 + self.updates)))

    def _rate(self) -> float:
        """Return the learning rate of the next update, a function of how many came before."""
        return learning_rate(self.settings, self.updates, math.ceil(self.steps / self.settings.accumulate))

    # Validation

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Return the loss and the task's figures on the validation split, of all processes together."""
        if self.settings.norm_statistics == "exact":
            self._estimate_norms()
        network = (self.average if self.average is not None else self.network).eval()
        mine = range(self.fabric.global_rank, len(self.val_set), self.fabric.world_size)
        loader = DataLoader(self.val_set, batch_size=None, sampler=mine, num_workers=self.workers)
        self.metric.reset()
        loss, images = 0.0, 0
        for index, held in enumerate(self._between(loader)):
            if self.progress is not None:
                self.progress.validating(self.epoch, index, len(self.val_set))
            batch = on_device(held, self.device)
            with self.fabric.autocast():
                maps = network(batch["image"])["out"]
            maps, truth = maps.float(), {name: batch[name] for name in self.task.info.needs}
            size, whole = tuple(maps.shape[-2:]), tuple(next(iter(truth.values())).shape[-2:])
            at_size = {name: target(name).finish(target(name).resize(values, size)) for name, values in truth.items()}
            loss += float(self.criterion(maps, {**at_size, "image": batch["image"]})) * len(maps)
            images += len(maps)
            if size != whole:
                maps = F.interpolate(maps, whole, mode="bilinear", align_corners=False)
            self.metric.update(maps, truth)
        figures: dict[str, float] = self.metric.figures()
        return {"loss": self._summed(loss) / max(self._summed(images), 1), **figures}

    def _estimate_norms(self) -> None:
        """Give the average's batch norms the statistics of the whole training set, for the weights as they are."""
        assert self.average is not None
        if not self.settings.ema:
            self.average.load_state_dict(self.network.state_dict())
        sampler = EpochSampler(len(self.train_set), self.seed)
        sampler.set_epoch(self.epoch)
        loader = training_loader(self.train_set, sampler, self.settings.batch_size, 0)
        # Dropout is drawn in this pass, too: the same after a resume.
        torch.manual_seed(_mixed(self.seed, self.epoch, self.steps))
        images = (on_device(batch, self.device)["image"] for batch in self._between(loader))
        update_bn(images, self.average, self.device)

    def _between(self, loader: DataLoader) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of a pass that may be stopped, and let others compute after each of them."""
        for batch in loader:
            # Several processes may have unequal shares; they ask each other at the next training step.
            if self.fabric.world_size == 1 and self._must_stop():
                self._stop()
            yield batch
            self.cores.pass_on()

    def _end_epoch(self, figures: Mapping[str, float] | None) -> None:
        """Write the epoch into the history, keep the best weights, and save the state."""
        info = self.task.info
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
            **{f"val_{key}": "" if figures is None else figures[key] for key in ("loss", *info.validated)},
        }
        if figures is not None:
            reached = info.main.gain(figures[info.main.key])
            if not math.isfinite(reached):
                raise TrainingError(
                    f"{self.name}: {info.main.label} on the validation split is {reached} in epoch {self.epoch + 1}; "
                    "lower train.lr or set train.clip"
                )
            self.since_best += 1
            if reached > self.best:
                self.best, self.best_epoch, self.since_best = reached, self.before + self.epoch + 1, 0
                if self.first:
                    best = self.average if self.average is not None else self.network
                    self._best_weights = {k: v.detach().to("cpu", copy=True) for k, v in best.state_dict().items()}
        self.history.append(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.loss_count = 0
        if self.first:
            if self.over or time.monotonic() - self._saved_at >= SAVE_SHARE * self._saving_took:
                self._save()
            if self.progress is not None:
                seconds = max(time.monotonic() - self._tick, 1e-6)
                self.progress.epoch({**row, "epoch": self.epoch}, self._epoch_images / seconds)
            if self.on_epoch is not None:
                self.on_epoch(row)
        if not self.over and self._must_stop():
            self._stop()

    # Stopping and state

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        stalled = self.settings.early_stop is not None and self.since_best >= self.settings.early_stop
        return stalled or self.epoch >= self.settings.epochs

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return not launch.is_worker() or os.environ.get("RANK", "0") == "0"

    def _request_stop(self, number: int, frame: object) -> None:
        if self.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # pressed again: without waiting for the step to end
        self.stop_requested = True

    def _must_stop(self) -> bool:
        """Tell whether any process was told to stop; all of them stop at the same step."""
        return self._summed(float(self.stop_requested)) > 0

    def _summed(self, value: float) -> float:
        """Return the sum over all processes."""
        if self.fabric.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.fabric.all_reduce(total, reduce_op="sum"))  # type: ignore[arg-type]

    def _stop(self) -> None:
        # What the first process saves stands for all.
        self.loss_sum = self.loss_sum.new_tensor(self._summed(float(self.loss_sum)) / self.fabric.world_size)
        if self.first:
            self._save()
        raise TrainingInterrupted(
            f"{self.name}: stopped in epoch {self.epoch + 1}, step {self.batch}; the state is saved, "
            "run the same command again to go on"
        )

    @property
    def best_figures(self) -> dict[str, float]:
        """What the best epoch had: the main figure, as history names it."""
        main = self.task.info.main
        return {f"val_{main.key}": main.gain(self.best)}

    def ended(self) -> dict[str, Any]:
        """Return what a stage that follows needs to know of this one."""
        return {"stage": self.stage, "position": {k: getattr(self, k) for k in _POSITION}, "history": self.history}

    def _save(self) -> None:
        """Write the best weights, where they are new, and the state."""
        began = time.monotonic()
        if self._best_weights is not None:
            self.state.save_best(self.best_epoch, self._best_weights)
            self._best_weights = None
        self.state.save(
            {
                **self.ended(),
                "new": sorted(self.new),
                "network": self.network.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "choice": dataclasses.asdict(self.choice),
                "loss_sum": self.loss_sum.cpu(),
            }
        )
        self.state.forget_but(self.best_epoch)
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - began

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.choice = trial.Choice(**saved["choice"])
        self.network.load_state_dict(saved["network"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
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


def workers(settings: TrainSettings) -> int:
    """Return how many processes load data: as the settings say, but no more than there are cores for them.

    `auto` is one for each core of this process's share beside a GPU, and none beside a CPU, whose cores the network
    has.
    """
    share = max(1, available_cores() // _together())
    if settings.workers == "auto":
        return share - 1 if on_gpu(settings) else 0
    return min(settings.workers, share)


def _together() -> int:
    """Return how many processes train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launch.is_worker() else 1


def fabric_for(settings: TrainSettings, choice: trial.Choice) -> Fabric:
    """Return the Fabric that trains: one device, or the processes that a launcher has started here and elsewhere."""
    several = launch.is_worker()
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        num_nodes=int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"]) if several else 1,
        # Networks with a part that not every batch reaches (a head of one stage, say) need the search.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision=PRECISIONS[choice.precision],  # type: ignore[arg-type]
        # Not what the environment says of other processes (RANK, SLURM_…), which may be left over from something else.
        plugins=None if several else LightningEnvironment(),
    )
    fabric.launch()
    return fabric


def _mixed(*parts: int) -> int:
    """Return one 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def fields_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
