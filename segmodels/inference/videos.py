"""Films: predicted frame by frame, and written as masks and as an overlay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import UnidentifiedImageError

from segmodels.data.folder import DatasetError
from segmodels.files import replaced
from segmodels.tasks.pictures import MARK

if TYPE_CHECKING:
    import av
from segmodels.inference.inputs import DEMUXERS, Job, Model


def predict_video(job: Job, model: Model, alpha: float, on_frame: Callable[[Job], None]) -> None:
    """Predict the frames of a film into a folder of masks and into an overlay, each whole or not at all.

    Raises:
        DatasetError: It cannot be read, or has no frame.
    """
    import av

    palette = model.config.palette
    try:
        with contextlib.ExitStack() as stack:
            masks, film = (
                stack.enter_context(replaced(result)) if result is not None else None
                for result in (job.masks, job.overlay)
            )
            if masks is not None:
                masks.mkdir()
            writer = stack.enter_context(contextlib.closing(_Film(film))) if film is not None else None
            count = 0
            for image, seconds, rate in _frames(job.input.path):
                value = model.predict(image)
                if masks is not None:
                    model.task.write(value, palette, masks / f"{count:06d}.png")
                if writer is not None:
                    writer.add(model.task.overlay(image, value, palette, alpha), seconds, rate)
                count += 1
                on_frame(job)
            if count == 0:
                raise DatasetError(f"{job.input.path}: a video without frames")
    except (av.FFmpegError, UnidentifiedImageError) as error:
        raise DatasetError(f"{job.input.path}: cannot be read as a video ({error.strerror}); replace it") from None


def _frames(path: Path) -> Iterator[tuple[np.ndarray, Fraction, Fraction]]:
    """Yield each frame as RGB uint8 `[H, W, 3]`, turned upright, with its time in seconds and the film's frames a
    second.
    """
    import av

    with av.open(str(path), options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS}) as container:
        if not container.streams.video:
            raise DatasetError(f"{path}: neither an image nor a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        for index, frame in enumerate(container.decode(stream)):
            image = frame.to_ndarray(format="rgb24")
            if frame.rotation:
                image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
            timed = frame.pts is not None and frame.time_base is not None
            yield image, frame.pts * frame.time_base if timed else index / rate, rate


class _Film:
    """An H.264 file that any player shows; frames keep the times they had."""

    _CLOCK = Fraction(1, 90_000)

    def __init__(self, path: Path) -> None:
        import av

        self.container = av.open(str(path), "w", format="mp4")
        self.container.metadata["comment"] = MARK
        self.stream: av.VideoStream | None = None
        self._last = -1

    def add(self, image: np.ndarray, seconds: Fraction, rate: Fraction) -> None:
        """Add a frame, RGB uint8 `[H, W, 3]`; the first one decides the size."""
        import av

        height, width = image.shape[:2]
        if self.stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=rate)
            # Colours have half the resolution, so sides are even.
            self.stream.width, self.stream.height = width + width % 2, height + height % 2
            self.stream.pix_fmt = "yuv420p"
            self.stream.codec_context.time_base = self._CLOCK
            if codec == "libx264":
                self.stream.options = {"crf": "20"}
        rows, columns = self.stream.height - height, self.stream.width - width
        if 0 <= rows <= 1 and 0 <= columns <= 1:
            image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        # Times that stand still or go back, as cut films have them, would be refused.
        self._last = max(self._last + 1, round(seconds / self._CLOCK))
        frame.pts, frame.time_base = self._last, self._CLOCK
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()
