"""`Frame`, `Counters`, the `Camera` protocol, and the loop over a camera's frames. Needs NumPy only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.console.interrupts import raise_if_interrupted
from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse.framing import Roi

TimestampDomain = Literal["global", "system", "hardware", "recorded", "none"]
"""The clock of a sensor timestamp: "global" and "system" are the host's (milliseconds since 1970), "hardware" is the device's,
"recorded" cannot be compared with the current time, "none" = no timestamp."""

Sensor = Literal["rgb", "depth"]

READ_TIMEOUT_MS = 250
"""Time-out of one read in `frames`: short, so that the loop stops soon, and the SDK's stop does not wait long."""


PATIENCE_S = 10.0
"""Time without a frame after which `frames` gives a camera up."""


class EndOfStream(Exception):  # noqa: N818  (an end, not an error; named like StopIteration)
    """A recording or a folder has no more frames. A time-out returns None instead."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One aligned RGB-D pair. The consumer owns the arrays: they never change, and their memory is reused after the last reference
    to them is gone.

    Attributes:
        rgb: uint8 [H, W, 3], RGB order.
        depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement; same view as `rgb`.
        align: the stream that the other one is aligned to.
        color_number, depth_number: frame number of each stream.
        timestamp_ms: sensor time of the older of the two images, on the clock of `timestamp_domain`.
        arrival_ns: when the pair reached this process (time.perf_counter_ns).
        ready_ns: when it was aligned and copied (same clock).
        name: name of the frame in messages and results.
        skew_ms: time between the two images; None if they have no common clock.
        missing: sensors that have stopped sending images, or did not start; their image is all zeros.
        label: its class, if the source provides it.
        roi: the region of the object, if the source provides it.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    depth_unit_m: float
    align: Align
    color_number: int
    depth_number: int
    timestamp_ms: float
    timestamp_domain: TimestampDomain
    arrival_ns: int
    ready_ns: int
    name: str
    skew_ms: float | None = None
    missing: tuple[Sensor, ...] = ()
    label: str | None = None
    roi: Roi | None = None


@dataclass(kw_only=True)
class Counters:
    """Counts of a camera's pairs since the first one. Always received = delivered + dropped + stale.

    Attributes:
        received: pairs that the camera captured, according to its frame numbers.
        delivered: pairs that `read` returned.
        dropped: pairs that never arrived: gaps in the frame numbers.
        stale: pairs with one new and one old image, because a stream has stopped or lags. `read` skips them.
        skewed: delivered pairs in a run of pairs whose images are more than half a frame period apart; part of `delivered`.
        timeouts: reads that returned no pair.
    """

    received: int = 0
    delivered: int = 0
    dropped: int = 0
    stale: int = 0
    skewed: int = 0
    timeouts: int = 0


class Camera(Protocol):
    """A source of aligned RGB-D frames. The constructor touches no device; `with camera:` opens and closes it."""

    @property
    def align(self) -> Align:
        """The stream that the other one is aligned to."""

    @property
    def description(self) -> dict[str, Any]:
        """The camera's kind and settings as JSON values; complete while it is open."""

    @property
    def counters(self) -> Counters:
        """Counts since the camera was opened."""

    def read(self, timeout_ms: int) -> Frame | None:
        """The next fresh frame, or None if none arrived within `timeout_ms` milliseconds.

        Raises:
            EndOfStream: no more frames.
            UserError: the camera failed.
        """

    def __enter__(self) -> Camera: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def frames(
    camera: Camera,
    *,
    num_frames: int | None = None,
    stop: threading.Event | None = None,
    patience_s: float = PATIENCE_S,
    on_timeout: Callable[[], None] = lambda: None,
) -> Iterator[Frame]:
    """Yield the frames of an open camera until its stream ends, `num_frames` were yielded, or `stop` is set.

    Args:
        on_timeout: called after each read that returned no frame.

    Raises:
        UserError: the camera failed, or returned no frame for `patience_s` seconds.
        KeyboardInterrupt: a signal has arrived, even if its exception was swallowed.
    """
    num_yielded = 0
    last_s = time.monotonic()
    while (num_frames is None or num_yielded < num_frames) and not (stop is not None and stop.is_set()):
        raise_if_interrupted()
        try:
            frame = camera.read(READ_TIMEOUT_MS)
        except EndOfStream:
            return
        if frame is not None:
            num_yielded += 1
            yield frame
            last_s = time.monotonic()
        elif time.monotonic() - last_s > patience_s:
            raise UserError(no_frames_message(camera, patience_s))
        else:
            on_timeout()


def no_frames_message(camera: Camera, patience_s: float) -> str:
    """The error after `patience_s` seconds without a pair."""
    counters = camera.counters
    stale = f" ({counters.stale} stale pairs: one stream repeats its last image)" if counters.stale else ""
    hint = (
        "the recording is damaged, or one of its two streams has stopped"
        if camera.description.get("kind") == "recording"
        else "check the cable and the USB port (USB 3), or plug the camera in again"
    )
    return f"no new pair of colour and depth for {patience_s:g} s{stale}, after {counters.delivered} pairs: {hint}"
