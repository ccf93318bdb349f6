"""When a frame passed each point from the sensor to the sinks, and the durations of the stages between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from edgefuse_runtime.camera import TimestampDomain

STAGES = {
    "wait": "wait_ms",
    "read": "read_ms",
    "queue": "queue_ms",
    "preprocess": "frame_ms",
    "infer": "infer_ms",
    "publish": "publish_ms",
}
"""Processing stages of a frame, in order, as shown by the live panel, the summary and the benchmark -> field of `StageTimes`.
The first comes before the latency; the others add up to it."""


def utc(unix_ms: float) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC, such as "2026-11-26T07:08:09.123Z"."""
    text = datetime.fromtimestamp(unix_ms / 1e3, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class StageTimes(NamedTuple):
    """Duration of each processing stage of one frame, in milliseconds, in the order of `STAGES`.

    Attributes:
        wait_ms: waiting for the frame, since the previous result (since the start for the first).
        read_ms: from its arrival in this process until it was aligned and copied, or its files were read.
        queue_ms: until the classifier took it, and from framed to engine start: a frame that is framed ahead waits there.
        frame_ms: finding the region, cropping and resizing.
        infer_ms: the engine run.
        publish_ms: from the end of the engine run until the result was published.
    """

    wait_ms: float
    read_ms: float
    queue_ms: float
    frame_ms: float
    infer_ms: float
    publish_ms: float

    def by_stage(self) -> dict[str, float]:
        """Milliseconds by the names of `STAGES`."""
        return {stage: getattr(self, name) for stage, name in STAGES.items()}


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """When one frame passed each point: nanoseconds of `time.perf_counter_ns`, in the order of the fields.

    Attributes:
        waiting_ns: the loop began to wait for it.
        arrival_ns: the pair reached this process.
        ready_ns: it was aligned and copied.
        dequeued_ns: the classifier took it.
        framed_ns: the region was found, cropped and resized.
        engine_start_ns, engine_end_ns: the engine run.
        published_ns: the result was passed to the sinks.
        published_unix_ms: the same moment on the wall clock, in milliseconds since 1970.
        sensor_ms: the sensor's time of the older of the two images, in milliseconds on `sensor_clock`.
        sensor_clock: see `edgefuse_runtime.camera.TimestampDomain`.
    """

    waiting_ns: int
    arrival_ns: int
    ready_ns: int
    dequeued_ns: int
    framed_ns: int
    engine_start_ns: int
    engine_end_ns: int
    published_ns: int
    published_unix_ms: float
    sensor_ms: float = 0.0
    sensor_clock: TimestampDomain = "none"

    @property
    def stages(self) -> StageTimes:
        """The durations between these times."""
        return StageTimes(
            wait_ms=_ms(max(self.arrival_ns - self.waiting_ns, 0)),
            read_ms=_ms(self.ready_ns - self.arrival_ns),
            queue_ms=_ms(self.dequeued_ns - self.ready_ns + self.engine_start_ns - self.framed_ns),
            frame_ms=_ms(self.framed_ns - self.dequeued_ns),
            infer_ms=_ms(self.engine_end_ns - self.engine_start_ns),
            publish_ms=_ms(self.published_ns - self.engine_end_ns),
        )

    @property
    def latency_ms(self) -> float:
        """From arrival to publication."""
        return _ms(self.published_ns - self.arrival_ns)

    @property
    def age_ms(self) -> float | None:
        """From the sensor's time to publication; None unless the camera's clock is the host's."""
        return round(self.published_unix_ms - self.sensor_ms, 3) if self.sensor_clock == "global" else None

    def to_json(self) -> dict[str, Any]:
        """Wall clock, sensor time, and milliseconds from the arrival to each later point."""
        points = {"ready": self.ready_ns, "dequeued": self.dequeued_ns, "framed": self.framed_ns}
        points |= {"engine_start": self.engine_start_ns, "engine_end": self.engine_end_ns}
        points |= {"published": self.published_ns}
        return {
            "time": utc(self.published_unix_ms),
            "sensor_ms": None if self.sensor_clock == "none" else round(self.sensor_ms, 3),
            "sensor_clock": self.sensor_clock,
            "since_arrival_ms": {name: _ms(at_ns - self.arrival_ns) for name, at_ns in points.items()},
        }


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 4)
