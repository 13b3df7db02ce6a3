"""The counters of the service, in the form that Prometheus reads. Each service has its own, so that tests do not share them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MAX_KNOWN = 1024


class ServeMetrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mapsto_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "mapsto_request_seconds",
            "Time from the first byte of a request to the last of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rows = Counter("mapsto_rows", "Rows by model and outcome.", ["model", "outcome"], registry=self.registry)
        self.tokens = Counter("mapsto_tokens", "Tokens that were computed.", registry=self.registry)
        self.step_rows = Histogram(
            "mapsto_step_rows", "Rows that were computed together.", buckets=ROWS, registry=self.registry
        )
        self.step_seconds = Histogram(
            "mapsto_step_seconds", "Time of one step of the engine.", buckets=SECONDS, registry=self.registry
        )
        self.dropped = Counter(
            "mapsto_dropped", "Requests that were given up before their answer.", ["reason"], registry=self.registry
        )
        self.queue = Gauge("mapsto_queue_tokens", "Estimated tokens that wait or are computed.", registry=self.registry)
        self.in_flight = Gauge("mapsto_requests_in_flight", "Requests without a response yet.", registry=self.registry)
        self.models = Gauge("mapsto_model_opened", "How often a model was opened.", ["model"], registry=self.registry)

    def render(self) -> bytes:
        """Return all counters as text."""
        return generate_latest(self.registry)
