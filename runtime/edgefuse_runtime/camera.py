"""A frame and the camera it comes from: the seam between capture and everything that looks at pictures.

Owns the values `Frame` and `Counters`, the `Camera` protocol, and the one loop over a camera's frames. Everything in this
package may import it; it needs NumPy alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse.framing import Roi

TimestampDomain = Literal["global", "system", "hardware", "recorded", "none"]
"""Whose clock a sensor timestamp is on: "global" and "system" are the host's (milliseconds since 1970), "hardware" the
device's, "recorded" one that cannot be compared with now, "none" = there is no timestamp."""

READ_TIMEOUT_MS = 250
"""How long `frames` lets one read wait: short, so that a stop is heard soon and the SDK's own stop never waits for long."""


class EndOfStream(Exception):  # noqa: N818  (an end, not an error; named like StopIteration)
    """There are no more frames: a recording or a folder is at its end. A time-out is None instead."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One aligned RGB-D pair. The arrays are the consumer's own: no camera buffer stands behind them.

    Attributes:
        rgb: uint8 [H, W, 3], RGB order.
        depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement; same view as `rgb`.
        align: whose view both share.
        color_number, depth_number: each stream's own frame number.
        timestamp_ms: sensor time of the older of the two pictures, on the clock of `timestamp_domain`.
        arrival_ns: when the pair reached this process (time.perf_counter_ns).
        ready_ns: when it was aligned and copied (same clock).
        name: what the frame is called in messages and results.
        label: the class it shows, where the source knows it.
        roi: the region of the object, where the source knows it.
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
    label: str | None = None
    roi: Roi | None = None


@dataclass(kw_only=True)
class Counters:
    """What became of a camera's pairs since the first one: received = delivered + dropped + stale, at any time.

    Attributes:
        received: pairs that the camera made, told by its frame numbers.
        delivered: fresh pairs that `read` gave.
        dropped: pairs of which nothing arrived: gaps in the frame numbers.
        stale: pairs of which one half came with an old picture as the other, because that stream stood still or lags; `read`
            holds them back.
        skewed: delivered pairs whose two pictures were steadily taken more than half a frame apart; a share of `delivered`.
        timeouts: reads that ended without a pair; these are not pairs.
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
        """Whose view the two pictures of a frame share."""

    @property
    def description(self) -> dict[str, Any]:
        """What this camera is, as JSON values; complete while it is open."""

    @property
    def counters(self) -> Counters:
        """Counts since the camera was opened."""

    def read(self, timeout_ms: int) -> Frame | None:
        """The next fresh frame, or None when there was none within `timeout_ms` milliseconds.

        Raises:
            EndOfStream: there are no more frames.
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
    patience_s: float = 10.0,
) -> Iterator[Frame]:
    """The frames of an open camera until its stream ends, `num_frames` were given, or `stop` is set.

    Raises:
        UserError: the camera failed, or gave nothing for `patience_s` seconds.
    """
    given = 0
    last_s = time.monotonic()
    while (num_frames is None or given < num_frames) and not (stop is not None and stop.is_set()):
        try:
            frame = camera.read(READ_TIMEOUT_MS)
        except EndOfStream:
            return
        if frame is not None:
            given += 1
            yield frame
            last_s = time.monotonic()
        elif time.monotonic() - last_s > patience_s:
            raise UserError(_no_frames_message(camera, patience_s))


def _no_frames_message(camera: Camera, patience_s: float) -> str:
    counters = camera.counters
    held = f" ({counters.stale} pairs were held back because one stream stood still)" if counters.stale else ""
    hint = (
        "the recording is damaged, or one of its two streams stands still"
        if camera.description.get("kind") == "recording"
        else "check the cable and the USB port (USB 3), or plug the camera in again"
    )
    return f"no fresh pair of colour and depth for {patience_s:g} s{held}, after {counters.delivered} of them: {hint}"
