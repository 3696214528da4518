"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The server's counters; one object a server, so that two in one process do not share them."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which nobody reads
        self.registry = to = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            to.register(collector)
        self.requests = Counter("segmodels_requests", "Requests answered.", ["path", "status"], registry=to)
        took = "From a request's head to its answer."
        self.seconds = Histogram("segmodels_request_seconds", took, ["path"], buckets=SECONDS, registry=to)
        took = "The network, a batch at a time."
        self.inference = Histogram("segmodels_inference_seconds", took, buckets=SECONDS, registry=to)
        self.images = Counter("segmodels_images", "Images predicted.", registry=to)
        self.in_flight = Gauge("segmodels_in_flight", "Requests being answered, waiting ones too.", registry=to)
        self.queue = Gauge("segmodels_queue", "Requests that wait for their turn.", registry=to)
        self.rejected = Counter("segmodels_rejected", "Requests refused, by reason.", ["reason"], registry=to)
        labels = ["name", "version", "sha256", "architecture"]
        self.model = Gauge("segmodels_model_info", "1 for the model that answers.", labels, registry=to)
        self.swaps = Counter("segmodels_swaps", "Models that replaced another one.", registry=to)
        self.failures = Counter("segmodels_swap_failures", "Versions that could not be loaded.", registry=to)
        self.reachable = Gauge("segmodels_source_up", "Whether the model's source answered last time.", registry=to)
