"""Counting fresh, stale and dropped pairs from the frame numbers, timestamps and pixels of two streams. Needs no SDK.

Frame numbers alone are not reliable: they may repeat with other pixels, stay constant, restart, wrap around, or fall by a few.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from edgefuse_runtime.camera import Counters, Sensor

REORDERED = 5
"""A frame number that falls by at most this belongs to an image that arrived late; by more, the numbering has restarted."""

MAX_GAP = 100_000
"""A frame number that rises by more was renumbered; a real gap would be almost an hour at 30 frames/s."""

MAX_LATE = 30
"""After this many consecutive late images with rising numbers (1 s at 30 frames/s), the numbering has restarted."""

_MAX_LAG = 4
"""If the streams are this many frame periods apart or more, their clocks differ; if less, one may lag behind the other."""

_WRAP = 1 << 32
"""The device's counter has 32 bits, the SDK's frame number 64."""


class StreamImage(Protocol):
    """What `FrameSync` needs of an image."""

    @property
    def number(self) -> int:
        """Frame number in its stream."""

    @property
    def timestamp_ms(self) -> float:
        """Sensor time in milliseconds; constant if the sensor has no clock."""

    def has_equal_pixels(self, other: Any, /) -> bool:
        """Whether both have the same pixels. Called only if number and time are equal."""


AnyImage = TypeVar("AnyImage", bound=StreamImage)
Change = Literal["new", "same", "late"]


@dataclass
class _Stream(Generic[AnyImage]):
    """One stream: its newest image, the index of that image's pair, and the late images since."""

    image: AnyImage
    position: int = 0
    is_fresh: bool = True
    late_number: int = -1
    num_late: int = 0
    is_numbered: bool = False
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_LAG + 1))

    def __post_init__(self) -> None:
        self.times_ms.append(self.image.timestamp_ms)

    def advance(self, image: AnyImage, change: Change) -> None:
        """Add an image. `change`: how it relates to the newest one."""
        if change == "late" and image.number != self.late_number:
            self.num_late = self.num_late + 1 if image.number > self.late_number else 1
            self.late_number = image.number
        elif change == "new":
            self.position += _num_steps(self.image.number, image.number)
            self.is_numbered = image.number != self.image.number
            self.image, self.is_fresh = image, True
            self.times_ms.append(image.timestamp_ms)
            self.late_number, self.num_late = -1, 0


class FrameSync(Generic[AnyImage]):
    """Distinguishes fresh from stale pairs, and counts each pair of the camera once.

    If a stream stalls, librealsense continues to return framesets, without an error, that repeat the stream's last image.
    Observed with colour stalled after 9: (depth, colour) = (21, 9), (22, 9), (22, 22), (23, 23).
    A pair is fresh if both images are new since the last fresh pair, neither arrived late, and the older one does not belong to
    an earlier image of the other stream: if a stream's frame numbers stay constant, librealsense pairs each image with the
    previous one of the other stream.
    """

    def __init__(self, *, period_ms: float = math.inf, missing_after: float = math.inf) -> None:
        """Start to count.

        Args:
            period_ms: frame period of the slower stream. By default, timestamps are not used to match images.
            missing_after: a stream has stalled if the other one is this many images ahead; see `stalled`.
        """
        self._period_ms = period_ms
        self._missing_after = missing_after
        self.counters = Counters()
        self._streams: tuple[_Stream[AnyImage], ...] = ()
        self._position = self._alone_at = -1
        self._stalled: Sensor | None = None
        self._was_together = False
        self._num_lagging = 0

    def is_fresh(self, *, color: AnyImage, depth: AnyImage, same_clock: bool = True) -> bool:
        """Count a frameset and return whether its pair is fresh. `same_clock`: the two timestamps can be compared."""
        images, counters = (color, depth), self.counters
        if not self._streams:
            self._streams = (_Stream(color), _Stream(depth))
            fresh = not (same_clock and self._lags())
        else:
            changes = _changes(self._streams, images)
            for stream, image, change in zip(self._streams, images, changes, strict=True):
                stream.advance(image, change)
            fresh = "late" not in changes and all(stream.is_fresh for stream in self._streams)
            fresh = fresh and not (same_clock and self._lags())
        # The streams are numbered independently: the one that is further ahead counts the pairs.
        positions = [stream.position for stream in self._streams]
        position = max(positions)
        num_new = position - self._position
        self._stalled = None
        if num_new > 0:
            counters.received += num_new
            counters.dropped += num_new - 1
            counters.delivered += fresh
            if not fresh and position - min(positions) >= self._missing_after:
                self._stalled, self._alone_at = ("rgb" if positions[0] < position else "depth"), position
                counters.delivered += 1
            else:
                counters.stale += not fresh
        elif fresh and position != self._alone_at:
            # The missing image of the pair arrived late; the pair was counted as stale before.
            counters.delivered += 1
            counters.stale -= 1
        self._position = position
        if fresh:
            self._was_together = self._skew_ms() <= 0.5 * self._period_ms
            for stream in self._streams:
                stream.position, stream.is_fresh = position, False
        return fresh and (num_new > 0 or position != self._alone_at)

    @property
    def stalled(self) -> Sensor | None:
        """The sensor whose image in the last frameset is old, while the other one's is to be used alone; None if neither is."""
        return self._stalled

    def _skew_ms(self) -> float:
        color, depth = self._streams
        return abs(color.times_ms[-1] - depth.times_ms[-1])

    def _lags(self) -> bool:
        if not (
            0.75 * self._period_ms < self._skew_ms() < _MAX_LAG * self._period_ms
            and _is_older_pair(self._streams, 0.25 * self._period_ms, was_together=self._was_together)
        ):
            self._num_lagging = 0
            return False
        # If both streams advance and the difference stays, a clock has jumped (such as after its wrap): ignore the timestamps.
        self._num_lagging = self._num_lagging + 1 if all(stream.is_numbered for stream in self._streams) else 0
        return self._num_lagging <= MAX_LATE

    @property
    def newest(self) -> tuple[AnyImage, ...]:
        """The newest image of the colour and the depth stream; empty before the first frameset."""
        return tuple(stream.image for stream in self._streams)

    def forget_images(self) -> None:
        """Release the images retained for comparison. Call it last: no frameset can be counted afterwards."""
        self._streams = ()


def _is_older_pair(streams: Sequence[_Stream[Any]], tolerance_ms: float, *, was_together: bool) -> bool:
    """Whether the older of the two newest images belongs to an earlier image of the other stream, even one that was dropped."""
    older, newer = sorted(streams, key=lambda stream: stream.times_ms[-1])
    time_ms = older.times_ms[-1]
    if len(older.times_ms) > 1 and time_ms <= older.times_ms[-2]:
        return False  # its timestamps are constant, or have restarted
    # Without an image of the other stream from that time, a match cannot be ruled out.
    is_unknown = newer.times_ms[0] > time_ms + tolerance_ms
    return was_together or is_unknown or any(abs(time_ms - before_ms) <= tolerance_ms for before_ms in newer.times_ms)


def _changes(streams: Sequence[_Stream[AnyImage]], images: Sequence[AnyImage]) -> list[Change]:
    """How each image relates to the newest one of its stream."""
    pairs = [(stream.image, image) for stream, image in zip(streams, images, strict=True)]
    steps = [_difference(before.number, now.number) for before, now in pairs]
    later = [now.timestamp_ms > before.timestamp_ms for before, now in pairs]
    fell = [step < 0 for step in steps]
    # If the numbers of both streams fall, the camera's numbering has restarted, unless both images are a late pair.
    both_restarted = all(fell) and (all(later) or max(steps) < -REORDERED)
    return [
        _change(before, now, step=step, later=is_later, restarted=both_restarted or stream.num_late >= MAX_LATE)
        for stream, (before, now), step, is_later in zip(streams, pairs, steps, later, strict=True)
    ]


def _change(before: StreamImage, now: StreamImage, *, step: int, later: bool, restarted: bool) -> Change:
    if step > 0:
        return "new"
    if step < 0:
        return "new" if restarted or (later and step < -REORDERED) else "late"
    # The number is unchanged: compare the timestamps, and if these are equal too, the pixels.
    if later:
        return "new"
    if now.timestamp_ms < before.timestamp_ms:
        return "new" if restarted else "late"
    return "same" if now.has_equal_pixels(before) else "new"


def _difference(before: int, now: int) -> int:
    """`now - before`, with wrap-around at 32 bits."""
    if max(before, now) >= _WRAP:
        return now - before
    return (now - before + _WRAP // 2) % _WRAP - _WRAP // 2


def _num_steps(before: int, now: int) -> int:
    """Number of images from `before` to `now`; 1 if the frame numbers are not plausible."""
    step = _difference(before, now)
    return step if 0 < step <= MAX_GAP else 1
