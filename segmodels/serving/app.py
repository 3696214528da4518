"""The HTTP interface of a served model."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import prometheus_client
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmodels import drift as statistics
from segmodels.registry import model_info
from segmodels.serving.answers import Answer, Form, answer
from segmodels.serving.engine import Engine, LoadedModel, Prediction
from segmodels.serving.follow import Follower
from segmodels.serving.images import RefusedError, Upload, decode
from segmodels.serving.metrics import Metrics
from segmodels.serving.watch import Watch, Watched

T = TypeVar("T")

PAGE = Path(__file__).with_name("page.html")
NAME, VERSION, SHA256 = "X-Model-Name", "X-Model-Version", "X-Model-SHA256"
IMAGES = frozenset(
    f"image/{kind}"
    for kind in ("*", "jpeg", "jpg", "png", "webp", "bmp", "x-ms-bmp", "tiff", "gif", "x-portable-pixmap")
)
# What each form can be sent as, the first by default.
KINDS: dict[Form, tuple[str, ...]] = {
    Form.classes: ("image/png",),
    Form.overlay: ("image/jpeg", "image/png"),
    Form.coco: ("application/json",),
    Form.geojson: ("application/geo+json", "application/json"),
}
# What is meant by a type where no form is named.
ACCEPTED = {
    "image/png": Form.classes,
    "image/*": Form.classes,
    "*/*": Form.classes,
    "application/zip": Form.classes,
    "image/jpeg": Form.overlay,
    "application/json": Form.coco,
    "application/geo+json": Form.geojson,
}
BYTES_HELD = 16  # bodies of the largest size that may wait at once
RETRY_AFTER = "1"  # seconds
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


@dataclass
class Problem:
    """An answer that is none."""

    error: str


@dataclass
class Alive:
    """The process answers."""

    alive: bool


@dataclass
class Ready:
    """A model is loaded."""

    ready: bool
    version: str


@dataclass
class ServedClass:
    """A class of the model."""

    id: int
    name: str
    color: str


@dataclass
class ModelCard:
    """The model that answers; `trouble` says why it may not be what the target means."""

    name: str
    version: str
    sha256: str
    loaded_at: float
    device: str
    precision: str
    architecture: str
    paper: str
    year: int
    options: dict[str, Any]
    classes: list[ServedClass]
    image_size: list[int] | None
    settings: dict[str, Any]
    metrics: dict[str, float]
    trouble: str | None


@dataclass
class DriftFeature:
    """One number compared with the reference; None where a distribution has none."""

    name: str
    meaning: str
    drifted: bool
    size: str
    distance: float
    threshold: float
    p: float
    psi: float
    reference: float | None
    mean: float | None


@dataclass
class DriftClass:
    """The share of the pixels that are predicted as a class."""

    name: str
    reference: float
    share: float


@dataclass
class DriftState:
    """The last images that were looked at, compared with those of the version's evaluation."""

    version: str
    verdict: str
    drifted: bool
    seen: int
    images: int
    features: list[DriftFeature]
    classes: list[DriftClass]


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
        self, request: Request, form: Form, kind: str, alpha: float, *, several: bool
    ) -> tuple[Answer, LoadedModel]:
        """The answer to a request, and the model that gave it.

        Raises:
            RefusedError: It cannot be answered.
        """
        with self._admitted():
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
        """Ends the threads."""
        self.follower.close()
        self.engine.close()
        self._watch.close()
        self._pool.shutdown()

    async def _predict(
        self, uploads: Sequence[Upload], form: Form, kind: str, alpha: float, several: bool
    ) -> tuple[Answer, LoadedModel]:
        images = await self._in_pool(lambda: [decode(upload, self.limits.pixels) for upload in uploads])
        try:
            prediction = await asyncio.wrap_future(self.engine.submit(images))
        except RuntimeError as error:  # torch: not enough memory, a size that the network does not take
            sentence = f"the network failed ({str(error).splitlines()[0][:160]}); send a smaller image"
            raise RefusedError(422, sentence, "network") from None
        names = [upload.name for upload in uploads]
        config = prediction.model.config
        made = await self._in_pool(
            lambda: answer(form, kind, images, prediction.maps, names, config, alpha, several=several)
        )
        # Called when this request's task pauses next, which is when its answer was sent; not after a slow reader has
        # taken all of it, or images would be kept for each of them.
        asyncio.get_running_loop().call_soon(self._look, images, prediction)
        return made, prediction.model

    def _look(self, images: Sequence[np.ndarray], made: Prediction) -> None:
        """Has what was answered looked at for drift."""
        self._watch.offer(made.model.watched, images, made.maps, made.confidences, busy=self._inside > 0)

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


def create_app(service: Service) -> FastAPI:
    """The paths of a server; starting it starts to follow the model, ending it ends the threads."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.follower.start()
        yield
        service.close()

    app = FastAPI(
        title="segmodels",
        summary="Semantic segmentation: images in, class maps out.",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    app.add_middleware(_Observed, service=service)
    _handle_errors(app, service)
    _add_predictions(app, service)
    _add_state(app, service)
    return app


DESCRIPTION = """POST an image and get its class map, an overlay, or the outlines of its regions. `output` says which;
without it the header `Accept` does. Every answer names the model that gave it: `X-Model-Name`, `X-Model-Version`,
`X-Model-SHA256`. What cannot be answered gets a status of 4xx or 503 and `{"error": "one sentence"}`."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REGION = [[0, 0], [480, 0], [480, 200], [0, 200], [0, 0]]
_FEATURE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [_REGION]},
    "properties": {"class_id": 0, "class": "sky", "color": "#808080", "area": 96000},
}
_GEOJSON = {"type": "FeatureCollection", "image": "image", "frame": "pixels; …", "features": [_FEATURE]}
_COCO = {
    "images": [{"id": 1, "file_name": "image", "width": 480, "height": 360}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 0,
            "segmentation": [[0, 0, 480, 0, 480, 200, 0, 200]],
            "area": 96000,
            "bbox": [0, 0, 480, 200],
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 0, "name": "sky", "supercategory": ""}],
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        406: "No form has the type that Accept asks for.",
        408: "The body came too slowly.",
        413: "The body or the image is too large.",
        415: "The type of the body is not taken.",
        422: "No image that can be read, or a parameter outside its range.",
        429: "Too many wait; Retry-After says when to come again.",
        503: "No model yet, no answer in time, or the server is shutting down.",
    }.items()
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The prediction.",
        "headers": {
            NAME: {"schema": {"type": "string"}, "description": "The model's name."},
            VERSION: {"schema": {"type": "string"}, "description": "Its version."},
            SHA256: {"schema": {"type": "string"}, "description": "Hash of its weights."},
        },
        "content": {
            "image/png": {**_BINARY, "example": "class ids, with the classes' colours as palette"},
            "image/jpeg": _BINARY,
            "application/json": {"example": _COCO},
            "application/geo+json": {"example": _GEOJSON},
        },
    },
    **_REFUSALS,
}
_ZIPPED = {**_ANSWERS, 200: {**_ANSWERS[200], "content": {"application/zip": _BINARY, "application/json": {}}}}
_FILES = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
_FILE = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}


def _body_of(form: dict[str, Any]) -> dict[str, Any]:
    content = dict.fromkeys(("image/jpeg", "image/png", "image/*", "application/octet-stream"), _BINARY)
    return {"requestBody": {"required": True, "content": {**content, "multipart/form-data": {"schema": form}}}}


Output = Annotated[Form | None, Query(description="What the answer holds.", examples=["classes"])]
Alpha = Annotated[float, Query(ge=0, le=1, description="How much of the colours is seen in overlays.", examples=[0.5])]


def _add_predictions(app: FastAPI, service: Service) -> None:
    async def respond(request: Request, output: Form | None, alpha: float, several: bool) -> Response:
        form, kind = negotiate(output, request.headers.get("accept", "*/*"))
        made, model = await service.answer(request, form, kind, alpha, several=several)
        return Response(made.body, media_type=made.type, headers=_model_headers(model))

    @app.post(
        "/predict",
        summary="Predict an image",
        response_class=Response,
        responses=_ANSWERS,
        openapi_extra=_body_of(_FILE),
        tags=["predictions"],
    )
    async def predict(request: Request, output: Output = None, alpha: Alpha = 0.5) -> Response:
        """The class map of an image (PNG), an overlay (JPEG or PNG), or polygons (COCO or GeoJSON, in pixels).

        The body is the file itself (`Content-Type: image/…`), or a form with one file.
        """
        return await respond(request, output, alpha, several=False)

    @app.post(
        "/predict/batch",
        summary="Predict several images",
        response_class=Response,
        responses=_ZIPPED,
        openapi_extra=_body_of(_FILES),
        tags=["predictions"],
    )
    async def predict_batch(request: Request, output: Output = None, alpha: Alpha = 0.5) -> Response:
        """A zip with a file for each image, in the order of the form; COCO is one document for all of them.

        One model predicts all images of a request. One image that cannot be read refuses the request.
        """
        return await respond(request, output, alpha, several=True)


def _add_state(app: FastAPI, service: Service) -> None:
    page = PAGE.read_text()

    @app.get("/", summary="A page to try the model", response_class=HTMLResponse, tags=["page"])
    async def index() -> HTMLResponse:
        """Drop an image, see the classes over it."""
        policy = "default-src 'none'; connect-src 'self'; img-src blob: data:; "
        policy += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/health", summary="Whether the process lives", response_model=Alive, tags=["state"],
             responses={503: _REFUSALS[503]})  # fmt: skip
    async def health() -> Alive:
        """For a liveness probe: 200 while the server can predict, or will once a model is loaded."""
        if not service.engine.alive:
            raise RefusedError(503, "the thread that predicts has ended; restart the server", "dead")
        _check_network(service)
        return Alive(True)

    @app.get("/ready", summary="Whether a model is loaded", response_model=Ready, tags=["state"],
             responses={503: _REFUSALS[503]})  # fmt: skip
    async def ready() -> Ready:
        """For a readiness probe: 200 once a model is loaded and warm, until it breaks or the server shuts down."""
        _check_network(service)
        return Ready(True, _current(service).version.number)

    @app.get("/model", summary="The model that answers", response_model=ModelCard, tags=["state"],
             responses={503: _REFUSALS[503]})  # fmt: skip
    async def model() -> ModelCard:
        """Its version, classes, colours, settings and measured quality."""
        return _card(_current(service), service.follower.trouble)

    @app.get("/drift", summary="Whether the images are still like those of the evaluation", response_model=DriftState,
             tags=["state"], responses={404: {"model": Problem, "description": "The version has no profile."},
                                        503: _REFUSALS[503]})  # fmt: skip
    async def drift() -> DriftState:
        """The last images and what was predicted, against the version's profile; anew with each version."""
        model = _current(service)
        if model.watched is None:
            sentence = f"version {model.version.number} has no profile.json that fits; see the log, evaluate and "
            raise RefusedError(404, f"{sentence}register the model again, or give --profile", "no_profile")
        return _drift_state(model.version.number, model.watched)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=["state"])
    async def metrics() -> Response:
        """Requests, latencies, what waits, the model's version, swaps, refusals and drift."""
        text = prometheus_client.generate_latest(service.metrics.registry)
        model = service.engine.model
        if model is not None and model.watched is not None and model.watched.drift is not None:
            text += statistics.prometheus(model.watched.drift, {"version": model.version.number}).encode()
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        service.metrics.rejected.labels(error.reason).inc()
        headers = {"Retry-After": RETRY_AFTER} if error.status in (429, 503) else {}
        if error.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        return JSONResponse({"error": error.sentence}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path[:100]}: {str(error.detail).lower()}; see /openapi.json"
        return JSONResponse({"error": sentence}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        service.metrics.rejected.labels("parameter").inc()
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg'][:200]}"}, 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed; its log says why"}, 500)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        service.metrics.rejected.labels("gone").inc()
        return Response(status_code=400)


def negotiate(output: Form | None, accept: str) -> tuple[Form, str]:
    """The form of an answer and its content type.

    Args:
        output: The form that was named, if any.
        accept: The header `Accept`.

    Raises:
        RefusedError: 406 where no form has a type that is accepted.
    """
    wanted = _preferences(accept)
    if output is not None:
        # A form that is named is sent even where Accept, which many clients set by themselves, has another type.
        return output, next((kind for kind in wanted if kind in KINDS[output]), KINDS[output][0])
    for kind in wanted:
        if kind in ACCEPTED:
            form = ACCEPTED[kind]
            return form, kind if kind in KINDS[form] else KINDS[form][0]
    kinds = "image/png, image/jpeg, application/json or application/geo+json"
    raise RefusedError(406, f"Accept {accept[:100]}: no answer has that type; ask for {kinds}", "accept")


def _preferences(accept: str) -> list[str]:
    """The types of a header `Accept`, the most wanted first."""
    weighted = []
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        found = re.search(r"\bq=([0-9.]+)", parameters)
        try:
            weight = float(found[1]) if found else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            weighted.append((weight, kind.strip().lower()))
    return [kind for _, kind in sorted(weighted, key=lambda item: -item[0])]


class _Observed:
    """Counts requests, and names the model in the headers of answers that do not name it themselves."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                model = self.service.engine.model
                if model is not None and NAME not in headers:
                    headers.update(_model_headers(model))
            await send(message)

        try:
            await self.app(scope, receive, named)
        finally:
            # Only paths that exist: anything may be asked for, and each label is kept for ever.
            path = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(path, str(status)).inc()
            self.service.metrics.seconds.labels(path).observe(time.perf_counter() - start)


async def _files(headers: Headers, body: bytes, limits: Limits) -> list[Upload]:
    """The files of a form; other fields are passed over.

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
    """The name without folders and characters that would break a line."""
    name = re.split(r"[/\\]", given)[-1]
    return "".join(c for c in name if c.isprintable())[:120] or "image"


def _model_headers(model: LoadedModel) -> dict[str, str]:
    name = model.version.name.encode("ascii", "replace").decode()
    return {NAME: name, VERSION: model.version.number, SHA256: model.sha256}


def _current(service: Service) -> LoadedModel:
    if service.draining:
        raise RefusedError(503, "the server is shutting down; ask another one", "draining")
    if service.engine.model is None:
        raise RefusedError(503, f"no model is loaded ({service.follower.trouble}); try again later", "not_ready")
    return service.engine.model


def _check_network(service: Service) -> None:
    if service.engine.broken:
        sentence = f"the network fails on every image ({service.engine.broken}); restart the server"
        raise RefusedError(503, sentence, "broken")


def _drift_state(version: str, watched: Watched) -> DriftState:
    drift, seen = watched.drift, watched.monitor.total
    if drift is None:
        verdict = f"too few images to say: {seen}, and {watched.monitor.least} are the least"
        return DriftState(version, verdict, False, seen, 0, [], [])

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no NaN

    features = [
        DriftFeature(f.name, statistics.MEANINGS[f.name], f.drifted, f.size, f.distance, f.threshold, f.p, f.psi,
                     number(f.reference), number(f.mean))
        for f in drift.findings
    ]  # fmt: skip
    classes = [DriftClass(name, was, now) for name, (was, now) in drift.mix.items()]
    return DriftState(version, drift.verdict, bool(drift.drifted), seen, drift.images, features, classes)


def _card(model: LoadedModel, trouble: str) -> ModelCard:
    config, info = model.config, model_info(model.config.architecture)
    options = {**config.options, **({"backbone": config.backbone} if config.backbone else {})}
    return ModelCard(
        name=model.version.name,
        version=model.version.number,
        sha256=model.sha256,
        loaded_at=round(model.loaded_at, 3),
        device=str(model.predictor.device),
        precision=model.predictor.precision,
        architecture=config.architecture,
        paper=info.paper,
        year=info.year,
        options=options,
        classes=[ServedClass(i, c.name, "#{:02x}{:02x}{:02x}".format(*c.color)) for i, c in enumerate(config.classes)],
        image_size=list(model.predictor.image_size) if model.predictor.image_size else None,
        settings={
            name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            for name, value in model.settings.items()
        },
        metrics={name: value for name, value in config.metrics.items() if math.isfinite(value)},
        trouble=trouble or None,
    )
