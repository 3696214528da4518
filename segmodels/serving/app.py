"""The HTTP interface of a served model: paths, errors, headers."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import prometheus_client
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segmodels.catalog.registry import model_info
from segmodels.drift.monitor import prometheus
from segmodels.drift.profile import meanings
from segmodels.serving.engine import LoadedModel
from segmodels.serving.images import RefusedError
from segmodels.serving.schema import (
    ANSWERS,
    DESCRIPTION,
    FILE,
    FILES,
    NAME,
    REFUSALS,
    SHA256,
    VERSION,
    ZIPPED,
    Alive,
    DriftClass,
    DriftFeature,
    DriftState,
    ModelCard,
    Problem,
    Ready,
    ServedClass,
    body_of,
)
from segmodels.serving.service import Service
from segmodels.serving.watch import Watched
from segmodels.tasks import task_info

PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER = "1"  # seconds


def create_app(service: Service) -> FastAPI:
    """Return the paths of a server; starting it starts to follow the model, ending it ends the threads."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.follower.start()
        yield
        service.close()

    app = FastAPI(
        title="segmodels",
        summary="Images in; class maps, depths or what else the model predicts out.",
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


Output = Annotated[
    str | None, Query(description="What the answer holds: one of `forms` of /model.", examples=["classes"])
]
Alpha = Annotated[float, Query(ge=0, le=1, description="How much of the colours is seen in overlays.", examples=[0.5])]


def _add_predictions(app: FastAPI, service: Service) -> None:
    async def respond(request: Request, output: str | None, alpha: float, several: bool) -> Response:
        made, model = await service.answer(request, output, alpha, several=several)
        return Response(made.body, media_type=made.type, headers=_model_headers(model))

    @app.post(
        "/predict",
        summary="Predict an image",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra=body_of(FILE),
        tags=["predictions"],
    )
    async def predict(request: Request, output: Output = None, alpha: Alpha = 0.5) -> Response:
        """Return the class map of an image (PNG), an overlay (JPEG or PNG), or polygons (COCO or GeoJSON, in pixels).

        A model of another task has other forms: `forms` of /model names them, the first by default.

        The body is the file itself (`Content-Type: image/…`), or a form with one file.
        """
        return await respond(request, output, alpha, several=False)

    @app.post(
        "/predict/batch",
        summary="Predict several images",
        response_class=Response,
        responses=ZIPPED,
        openapi_extra=body_of(FILES),
        tags=["predictions"],
    )
    async def predict_batch(request: Request, output: Output = None, alpha: Alpha = 0.5) -> Response:
        """Return a zip with a file for each image, in the order of the form; COCO is one document for all of them.

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
             responses={503: REFUSALS[503]})  # fmt: skip
    async def health() -> Alive:
        """For a liveness probe: 200 while the server can predict, or will once a model is loaded."""
        if not service.engine.alive:
            raise RefusedError(503, "the thread that predicts has ended; restart the server", "dead")
        _check_network(service)
        return Alive(True)

    @app.get("/ready", summary="Whether a model is loaded", response_model=Ready, tags=["state"],
             responses={503: REFUSALS[503]})  # fmt: skip
    async def ready() -> Ready:
        """For a readiness probe: 200 once a model is loaded and warm, until it breaks or the server shuts down."""
        _check_network(service)
        return Ready(True, _current(service).version.number)

    @app.get("/model", summary="The model that answers", response_model=ModelCard, tags=["state"],
             responses={503: REFUSALS[503]})  # fmt: skip
    async def model() -> ModelCard:
        """Its version, classes, colours, settings and measured quality."""
        return _card(_current(service), service.follower.trouble)

    @app.get("/drift", summary="Whether the images are still like those of the evaluation", response_model=DriftState,
             tags=["state"], responses={404: {"model": Problem, "description": "The version has no profile."},
                                        503: REFUSALS[503]})  # fmt: skip
    async def drift() -> DriftState:
        """Return the last images and what was predicted, against the version's profile; anew with each version."""
        model = _current(service)
        if model.watched is None:
            sentence = f"version {model.version.number} has no profile.json that fits; see the log, evaluate and "
            raise RefusedError(404, f"{sentence}register the model again, or give --profile", "no_profile")
        return _drift_state(model.version.number, model.watched)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=["state"])
    async def metrics() -> Response:
        """Tell requests, latencies, what waits, the model's version, swaps, refusals and drift."""
        text = prometheus_client.generate_latest(service.metrics.registry)
        model = service.engine.model
        if model is not None and model.watched is not None and model.watched.drift is not None:
            text += prometheus(model.watched.drift, {"version": model.version.number}).encode()
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

    meaning = meanings(watched.monitor.profile.task)
    features = [
        DriftFeature(f.name, meaning[f.name], f.drifted, f.size, f.distance, f.threshold, f.p, f.psi,
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
        task=config.task,
        forms={name: list(kinds) for name, kinds in task_info(config.task).forms.items()},
        classes=[ServedClass(i, c.name, "#{:02x}{:02x}{:02x}".format(*c.color)) for i, c in enumerate(config.parts)],
        image_size=list(model.predictor.image_size) if model.predictor.image_size else None,
        settings=model.settings.as_json(),
        metrics={name: value for name, value in config.metrics.items() if math.isfinite(value)},
        trouble=trouble or None,
    )
