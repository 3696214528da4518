"""Drift of what is answered: a thread that looks at images after their answers were sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.artifacts.sources import Fetched
from segmodels.drift.comparison import Drift
from segmodels.drift.monitor import Monitor
from segmodels.drift.profile import DriftError, Profile
from segmodels.settings.schema import PredictSettings
from segmodels.tasks.base import Prediction

log = logging.getLogger("segmodels.serving")
BUSY_PAUSE = 1.0  # seconds between two images that are looked at while others wait: a hundredth of a core's time


class Watched:
    """The drift of one version's images and predictions.

    Args:
        profile: What they were like when the version was evaluated.
        config: The description of the model.
        confident: Whether it predicts as it was evaluated, so that confidence may be compared.
    """

    def __init__(self, profile: Profile, config: ModelConfig, confident: bool) -> None:
        self.monitor = Monitor(profile, config)
        self._confident = confident
        self.drift: Drift | None = None  # the newest comparison

    def add(self, images: Sequence[np.ndarray], made: Sequence[Prediction]) -> None:
        """Look at answered images, and compare anew where enough of them came."""
        for image, prediction in zip(images, made, strict=True):
            self.monitor.add(image, prediction if self._confident else Prediction(prediction.value))
        self.drift = self.monitor.drift()


def watched(number: str, fetched: Fetched, config: ModelConfig) -> Watched | None:
    """Return what tells the drift of a version; None, and a line in the log, where it has no profile that fits.

    Args:
        number: The version's.
        fetched: Its profile, and the settings that it predicts with.
        config: Its description.
    """
    if fetched.profile is None:
        log.info("version %s has no profile.json: no drift is told", number)
        return None
    try:
        profile = Profile.read(fetched.profile)
        if list(profile.classes) != config.part_names or profile.task != config.task:
            raise DriftError(f"{fetched.profile}: its classes are not the model's; give that of this model")
    except (DriftError, OSError) as error:
        log.warning("version %s: %s; no drift is told", number, error)
        return None
    confident = PredictSettings.of(profile.prediction) == fetched.settings
    if not confident:
        log.warning("version %s was evaluated with other settings than it predicts with: its confidence is not "
                    "compared", number)  # fmt: skip
    return Watched(profile, config, confident)


class Watch:
    """The thread that looks at answered images, so that nobody waits for it.

    It takes one request at a time and lets those go that come meanwhile. What is let go is chosen by time alone: the
    sample is as good as any.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drift")
        self._running: Future[None] | None = None
        self._last = -BUSY_PAUSE

    def offer(
        self,
        watched: Watched | None,
        images: Sequence[np.ndarray],
        made: Sequence[Prediction],
        *,
        busy: bool,
    ) -> None:
        """Have the images of a request looked at, or let them go; return at once. For one thread alone.

        Args:
            watched: Of the version that predicted.
            images: RGB, uint8 `[H, W, 3]`.
            made: What was predicted for them.
            busy: Whether other requests are being served: then one image is taken, and not more than one a second.
        """
        if watched is None or (self._running is not None and not self._running.done()):
            return
        if busy and time.monotonic() - self._last < BUSY_PAUSE:
            return
        self._last = time.monotonic()
        count = 1 if busy else len(images)
        self._running = self._pool.submit(_look, watched, images[:count], made[:count])

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def _look(watched: Watched, images: Sequence[np.ndarray], made: Sequence[Prediction]) -> None:
    try:
        watched.add(images, made)
    except Exception:  # what only watches must not end what it watches, nor fail in silence
        log.exception("an image could not be compared with the profile")
