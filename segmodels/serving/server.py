"""The process that serves: it listens at once, loads the model, follows it, and ends without dropping a request."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import uvicorn

from segmodels.artifacts.sources import Source
from segmodels.runtime import available_cores
from segmodels.serving.app import create_app
from segmodels.serving.engine import Engine
from segmodels.serving.follow import Follower
from segmodels.serving.metrics import Metrics
from segmodels.serving.service import Limits, Service

log = logging.getLogger("segmodels.serving")


class _Server(uvicorn.Server):
    """Refuses requests from the moment it is told to end, also on connections that are open."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        super().handle_exit(sig, frame)


def serve(
    source: Source,
    *,
    host: str,
    port: int,
    device: str,
    precision: str,
    poll: float,
    batch: int | None,
    batch_wait: float,
    drain: float,
    limits: Limits,
) -> None:
    """Serve a model until SIGTERM or SIGINT, then answer what has come and return.

    Args:
        source: Where the model comes from, and where it is seen that it is another one.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which the log tells.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `32`, `bf16` or `16`.
        poll: Seconds between two looks whether the target is another version.
        batch: Images in one pass; None is 8 on a GPU and 1 on a CPU.
        batch_wait: Seconds that the first image of a batch waits for others.
        drain: Seconds that requests have to end after the signal.
        limits: What requests may be.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("segmodels").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    metrics = Metrics()

    def counted(count: int, seconds: float) -> None:
        metrics.images.inc(count)
        metrics.inference.observe(seconds)

    engine = Engine(batch, batch_wait, counted)
    follower = Follower(source, engine, metrics, interval=poll, device=device, precision=precision)
    threads = min(8, available_cores())
    service = Service(engine, follower, metrics, limits, threads)
    config = uvicorn.Config(
        create_app(service),
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # /metrics counts; a line for each request would be the largest file of the machine
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain)),
        timeout_keep_alive=75,  # longer than proxies keep idle connections, so that it is not we who close one in use
    )
    # uvicorn raises the signal again when it has ended; that is not to end the process as a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, service).run()
    log.info("ended")
