"""What a service tells of itself: JSON logs and Prometheus metrics."""

import errno
import json
import logging
import threading
import time
from typing import Any

from phys4d.types import Outcome, Score

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
PORT_PERIOD_S = 0.5
logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and what the call passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


def configure_logging(style: str, level: int) -> None:
    """Log to stderr, as `json` or as `text`."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)


class ServiceMetrics:
    """Counters and histograms of one process, for Prometheus to read."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        every: dict[str, Any] = {"registry": self.registry}
        self._calls = Counter("phys4d_calls", "Calls by method and gRPC code.", ["method", "code"], **every)
        self._call_s = Histogram(
            "phys4d_call_seconds", "Seconds of a call.", ["method"], buckets=BUCKETS_S, **every
        )
        self._outcomes = Counter(
            "phys4d_outcomes",
            "Rollouts answered. Class is SCORE, DATA or INFRA; reason is empty for scores.",
            ["reward", "class", "reason"],
            **every,
        )
        self._phase_s = Histogram(
            "phys4d_phase_seconds",
            "Seconds a rollout spends in decode, queue, score, and in the phases of its reward.",
            ["phase"],
            buckets=BUCKETS_S,
            **every,
        )
        self._cached = Counter("phys4d_cache_hits", "Rollouts answered from memory.", **every)
        self.in_flight = Gauge("phys4d_rollouts_in_flight", "Rollouts queued or being scored.", **every)
        self.buffered_bytes = Gauge("phys4d_buffered_bytes", "Bytes of rollouts held.", **every)

    def serve(self, host: str, port: int) -> int:
        """Answer `GET /metrics` in a thread; returns the port."""
        from prometheus_client import start_http_server

        server, _ = start_http_server(port, addr=host.strip("[]"), registry=self.registry)
        return server.server_port

    def serve_when_free(self, host: str, port: int) -> None:
        """`serve`, in the background, as soon as nobody else listens there."""

        def keep_trying() -> None:
            waits = False
            while True:
                try:
                    bound = self.serve(host, port)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        logger.error("no metrics on http://%s:%d: %s", host, port, error)
                        return
                    if not waits:
                        logger.warning("metrics wait until http://%s:%d is free", host, port)
                    waits = True
                    time.sleep(PORT_PERIOD_S)
                else:
                    logger.info("metrics on http://%s:%d/metrics", host, bound)
                    return

        threading.Thread(target=keep_trying, name="metrics-port", daemon=True).start()

    def text(self) -> str:
        """What Prometheus would read."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry).decode()

    def count_call(self, method: str, code: str, seconds: float) -> None:
        """A call ended."""
        self._calls.labels(method, code).inc()
        self._call_s.labels(method).observe(seconds)

    def count_outcome(self, reward: str, outcome: Outcome) -> None:
        """A rollout was answered."""
        result = outcome.result
        if isinstance(result, Score):
            self._outcomes.labels(reward, "SCORE", "").inc()
            if result.cached:
                self._cached.inc()
        else:
            self._outcomes.labels(reward, result.error_class, result.reason).inc()

    def observe_phases(self, phases_s: dict[str, float]) -> None:
        """Seconds of phases of one rollout."""
        for phase, seconds in phases_s.items():
            self._phase_s.labels(phase).observe(max(0.0, seconds))
