"""What stands behind the paths: who is let in, whose turn it is, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from segmodels.data.bands import view
from segmodels.serving.answers import Answer, answer, negotiate
from segmodels.serving.engine import Engine, LoadedModel, Made
from segmodels.serving.follow import Follower
from segmodels.serving.images import RefusedError, Upload, decode
from segmodels.serving.metrics import Metrics
from segmodels.serving.watch import Watch
from segmodels.tasks import task_info

T = TypeVar("T")

IMAGES = frozenset(
    f"image/{kind}"
    for kind in ("*", "jpeg", "jpg", "png", "webp", "bmp", "x-ms-bmp", "tiff", "gif", "x-portable-pixmap")
)
BYTES_HELD = 16  # bodies of the largest size that may wait at once
LINGER = 4  # times the largest body that is read and thrown away, so that the sender gets to the answer


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may be, and how many may wait.

    Attributes:
        body: Bytes of a request.
        pixels: Of an image: height times width.
        images: In a batch.
        queue: Requests that wait for their turn; one more is told to come again.
        receiving: Seconds in which a request's body must have come.
        answering: Seconds after which a request that waits is given up.
    """

    body: int = 20_000_000
    pixels: int = 25_000_000
    images: int = 16
    queue: int = 128
    receiving: float = 30.0
    answering: float = 60.0


class Service:
    """What stands behind the paths: who is let in, whose turn it is.

    Args:
        engine: Predicts.
        follower: Keeps the engine's model current.
        metrics: Counts.
        limits: What is let in.
        threads: Threads that decode images and encode answers.
    """

    def __init__(self, engine: Engine, follower: Follower, metrics: Metrics, limits: Limits, threads: int) -> None:
        self.engine, self.follower, self.metrics, self.limits = engine, follower, metrics, limits
        self.draining = False
        self._watch = Watch()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
        # So many are decoded while one is predicted; more would only take memory.
        self._at_once = 2 * threads + 2
        self._turns = asyncio.Semaphore(self._at_once)
        self._inside = self._received = self._bytes = 0

    async def answer(
        self, request: Request, output: str | None, alpha: float, *, several: bool
    ) -> tuple[Answer, LoadedModel]:
        """Return the answer to a request, and the model that gave it.

        Raises:
            RefusedError: It cannot be answered.
        """
        with self._admitted():
            assert self.engine.model is not None
            task = self.engine.model.config.task
            form, kind = negotiate(task, output, request.headers.get("accept", "*/*"))
            body = await self._body(request)
            with self._queued(len(body)):
                uploads = await self._uploads(request, body, several)
                del body
                try:
                    async with asyncio.timeout(self.limits.answering), self._turn():
                        if await request.is_disconnected():
                            raise ClientDisconnect
                        return await self._predict(uploads, form, kind, alpha, several)
                except TimeoutError:
                    sentence = f"no answer within {self.limits.answering:g} s; try again later"
                    raise RefusedError(503, sentence, "answer_timeout") from None

    def close(self) -> None:
        """End the threads."""
        self.follower.close()
        self.engine.close()
        self._watch.close()
        self._pool.shutdown()

    async def _predict(
        self, uploads: Sequence[Upload], form: str, kind: str, alpha: float, several: bool
    ) -> tuple[Answer, LoadedModel]:
        assert self.engine.model is not None
        bands = self.engine.model.config.bands
        images = await self._in_pool(lambda: [decode(upload, self.limits.pixels, bands) for upload in uploads])
        try:
            made = await asyncio.wrap_future(self.engine.submit(images))
        except RuntimeError as error:  # torch: not enough memory, a size that the network does not take
            sentence = f"the network failed ({str(error).splitlines()[0][:160]}); send a smaller image"
            raise RefusedError(422, sentence, "network") from None
        names = [upload.name for upload in uploads]
        config, values = made.model.config, [prediction.value for prediction in made.predictions]
        if form not in task_info(config.task).forms:  # a version of another task was loaded meanwhile
            raise RefusedError(503, "the model has just changed to another task; try again", "swapped")
        said = await self._in_pool(
            lambda: answer(form, kind, [view(one) for one in images], values, names, config, alpha, several=several)
        )
        # Called when this request's task pauses next, which is when its answer was sent; not after a slow reader has
        # taken all of it, or images would be kept for each of them.
        asyncio.get_running_loop().call_soon(self._look, images, made)
        return said, made.model

    def _look(self, images: Sequence[np.ndarray], made: Made) -> None:
        """Have what was answered looked at for drift."""
        self._watch.offer(made.model.watched, images, made.predictions, busy=self._inside > 0)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self.draining:
            raise RefusedError(503, "the server is shutting down; ask another one", "draining")
        if self.engine.model is None:
            raise RefusedError(503, f"no model is loaded ({self.follower.trouble}); try again later", "not_ready")
        # Those whose bodies are still coming do not wait for a turn, so that slow senders keep nobody else out.
        if self._inside >= 4 * self.limits.queue:
            raise RefusedError(429, f"{self._inside} requests are being served; try again later", "connections")
        self._inside += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._inside -= 1
            self.metrics.in_flight.dec()

    @contextmanager
    def _queued(self, size: int) -> Iterator[None]:
        full = self._received >= self.limits.queue + self._at_once
        if full or self._bytes + size > BYTES_HELD * self.limits.body:
            raise RefusedError(429, f"{self._received} requests wait already; try again later", "queue")
        self._received += 1
        self._bytes += size
        try:
            yield
        finally:
            self._received -= 1
            self._bytes -= size

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        with self.metrics.queue.track_inprogress():
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    async def _body(self, request: Request) -> bytes:
        limit = self.limits.body
        declared = int(request.headers.get("content-length") or 0)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(
                415, "Content-Encoding: compressed bodies are not taken; send the file as it is", "encoding"
            )
        sentence = f"the body is larger than {limit} bytes; send a smaller file"
        if declared > LINGER * limit:
            raise RefusedError(413, sentence, "body")
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.limits.receiving):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
                    elif size > LINGER * limit:
                        break
        except TimeoutError:
            sentence = f"the body did not come within {self.limits.receiving:g} s; send it faster"
            raise RefusedError(408, sentence, "slow_body") from None
        if size > limit:
            raise RefusedError(413, sentence, "body")
        return b"".join(chunks)

    async def _uploads(self, request: Request, body: bytes, several: bool) -> list[Upload]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            files = await _files(request.headers, body, self.limits)
        elif kind in IMAGES or kind == "application/octet-stream":
            files = [Upload("image", body)]
        else:
            told = f"Content-Type {kind[:80]}" if kind else "no Content-Type"
            raise RefusedError(415, f"{told}: send image/jpeg, image/png, … or multipart/form-data", "content_type")
        if not files:
            raise RefusedError(422, "the form has no file; send an image as a part with a filename", "no_file")
        if len(files) > 1 and not several:
            raise RefusedError(422, f"the form has {len(files)} files; POST several to /predict/batch", "files")
        return files


async def _files(headers: Headers, body: bytes, limits: Limits) -> list[Upload]:
    """Return the files of a form; other fields are passed over.

    Raises:
        RefusedError: 413 where there are too many, 422 where it is no form.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]
            await asyncio.sleep(0)  # a large form does not keep others from being heard

    parser = MultiPartParser(headers, stream(), max_files=limits.images, max_fields=16)
    parser.spool_max_size = limits.body + 1  # the body is in memory as it is; nothing goes to the disk
    try:
        form = await parser.parse()
        files = [item for _, item in form.multi_items() if isinstance(item, UploadFile)]
        return [Upload(_file_name(file.filename or ""), await file.read()) for file in files]
    except (MultiPartException, UnicodeDecodeError) as error:
        told = str(getattr(error, "message", "") or error)
        status, reason = (413, "files") if "Too many files" in told else (422, "form")
        raise RefusedError(
            status, f"the form cannot be read ({told.rstrip('.')[:160]}); send it again", reason
        ) from None


def _file_name(given: str) -> str:
    """Return the name without folders and characters that would break a line."""
    name = re.split(r"[/\\]", given)[-1]
    return "".join(c for c in name if c.isprintable())[:120] or "image"
