"""A sink that serves metrics in Prometheus' text format: http://HOST:PORT/metrics."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from edgefuse.errors import UserError, require
from edgefuse_runtime.capture.state import StateName
from edgefuse_runtime.decisions.events import Decided
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.lines import NO_DECISION
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

LOOPBACK = "127.0.0.1"
BUCKETS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0)


class MetricsSink:
    """Serves the metrics in threads of its own, from opening to closing. docs/live.md lists them."""

    def __init__(self, host: str | None = None, port: int = 0) -> None:
        """Choose the address; None = no server: another sink serves `text`."""
        self.info = SinkInfo(name="metrics" if host is None else f"metrics on {host}:{port}", queue_size=256)
        self._host, self._port = host, port
        self._metrics: _Metrics | None = None
        self._server: Any = None

    def __enter__(self) -> MetricsSink:
        prometheus_client = require("prometheus_client", extra="metrics")
        if self._metrics is None:  # the counts continue when it is opened again
            self._metrics = _Metrics(prometheus_client)
        if self._host is None:
            return self
        try:
            self._server, _ = prometheus_client.start_http_server(
                self._port, addr=self._host, registry=self._metrics.registry
            )
        except OSError as error:
            raise UserError(f"--metrics {self._host}:{self._port} cannot be served ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            with suppress(OSError):  # wakes its thread, which otherwise looks twice a second whether it is to end
                server.socket.shutdown(socket.SHUT_RDWR)
            server.shutdown()
            server.server_close()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format. May be called in any thread."""
        if self._metrics is None:
            return b""
        return bytes(require("prometheus_client", extra="metrics").generate_latest(self._metrics.registry))

    def result(self, result: Result, frame: Frame | None) -> None:
        if self._metrics is not None:
            self._metrics.add(result)

    def event(self, event: Event) -> None:
        if self._metrics is None:
            return
        if event.event == "sink":
            self._metrics.add_sink(event.detail)
        elif event.event == "camera":
            self._metrics.add_camera(event.detail)
        elif event.event == "engine":
            self._metrics.engine_errors.inc()

    def summary(self, summary: LiveSummary) -> None:
        pass


class _Metrics:
    """The metrics of one run."""

    def __init__(self, client: Any) -> None:
        self.registry = client.CollectorRegistry()
        options = {"registry": self.registry}
        self._results = client.Counter("edgefuse_results", "Results by label, or no decision", ["label"], **options)
        self._adaptive = client.Counter(
            "edgefuse_adaptive_results", "With --adaptive, results by what answered", ["answered_by"], **options
        )
        self._objects = client.Counter("edgefuse_objects", "Objects by decided answer", ["label"], **options)
        self._dropped = client.Counter("edgefuse_dropped_pairs", "Pairs that never arrived", **options)
        self._stale = client.Counter("edgefuse_stale_pairs", "Pairs with an old image", **options)
        self._before = (0, 0)
        self._latency = client.Histogram(
            "edgefuse_latency_seconds", "Arrival of a pair to its result", buckets=BUCKETS_S, **options
        )
        self._age = client.Histogram(
            "edgefuse_frame_age_seconds", "Sensor's time to the result", buckets=BUCKETS_S, **options
        )
        self._stages = client.Histogram(
            "edgefuse_stage_seconds", "Duration of a stage", ["stage"], buckets=BUCKETS_S, **options
        )
        self._newest = client.Gauge("edgefuse_last_result_timestamp_seconds", "Time of the newest result", **options)
        self._gate = client.Gauge("edgefuse_gate_mean", "0 = RGB, 1 = depth", **options)
        self._valid = client.Gauge("edgefuse_valid_depth_ratio", "Part of the region with depth", **options)
        self._sensors = client.Gauge("edgefuse_sensor_ok", "1 = ok, 0 = missing or frozen", ["sensor"], **options)
        self._camera = client.Gauge(
            "edgefuse_camera_state", "1 = the state of a RealSense camera or recording", ["state"], **options
        )
        self._losses = client.Counter("edgefuse_camera_losses", "How often the camera was lost", **options)
        self._losses_before = 0
        self.engine_errors = client.Counter(
            "edgefuse_engine_errors", "Frames that the engine failed to classify", **options
        )
        self._sink_ok = client.Gauge("edgefuse_sink_ok", "1 = open, 0 = failed", ["sink"], **options)
        self._sink_dropped = client.Gauge(
            "edgefuse_sink_dropped_results", "Results that a sink lost", ["sink"], **options
        )

    def add(self, result: Result) -> None:
        self._results.labels(result.label or NO_DECISION).inc()
        if result.adaptive is not None:
            self._adaptive.labels(result.adaptive).inc()
        for event in result.events:
            if isinstance(event, Decided):
                self._objects.labels(event.label).inc()
        self._dropped.inc(result.dropped - self._before[0])
        self._stale.inc(result.stale - self._before[1])
        self._before = (result.dropped, result.stale)
        if result.roi is not None:
            self._observe(result)
        self._newest.set(result.times.published_unix_ms / 1e3)
        if result.gate_mean is not None:
            self._gate.set(result.gate_mean)
        if result.valid_depth is not None:
            self._valid.set(result.valid_depth)
        for sensor, state in result.sensors._asdict().items():
            self._sensors.labels(sensor).set(state == "ok")

    def _observe(self, result: Result) -> None:
        self._latency.observe(result.latency_ms / 1e3)
        if result.age_ms is not None:
            self._age.observe(result.age_ms / 1e3)
        for stage, value_ms in result.stages.by_stage().items():
            self._stages.labels(stage).observe(value_ms / 1e3)

    def add_camera(self, state: dict[str, Any]) -> None:
        for name in get_args(StateName):
            self._camera.labels(name).set(name == state["state"])
        self._losses.inc(state["losses"] - self._losses_before)
        self._losses_before = state["losses"]
        if state["state"] in ("reconnecting", "failed"):
            for sensor in ("rgb", "depth"):
                self._sensors.labels(sensor).set(0)

    def add_sink(self, counts: dict[str, Any]) -> None:
        self._sink_ok.labels(counts["name"]).set(counts["state"] == "open")
        self._sink_dropped.labels(counts["name"]).set(counts["dropped"])


def parse_address(text: str, *, option: str = "--metrics") -> tuple[str, int]:
    """[HOST:]PORT as host and port; an IPv6 address is in brackets.

    Raises:
        UserError: it has another form.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{option} is {text!r}: [HOST:]PORT was expected, such as 9100 or 0.0.0.0:9100")
    return host or LOOPBACK, int(port)
