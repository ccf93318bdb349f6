"""Counting what became of a camera's pairs, from the numbers, times and contents of its two streams' pictures.

Frame numbers alone lie: the same number with other pixels, numbers that stand still, start again, wrap around or go back by a
few. Used by the pipeline reader alone; needs no SDK.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from edgefuse_runtime.camera import Counters

REORDERED = 5
"""A number that falls by at most so much belongs to an older picture that came late; by more, the stream counts anew."""

MAX_GAP = 100_000
"""A number that rises by more was renumbered: nearly an hour at 30 a second would have been lost otherwise."""

MAX_LATE = 30
"""After so many late pictures in a row with rising numbers, a second at 30 a second, they are none: the stream counts anew."""

_MAX_LAG = 4
"""Streams that lie so many frames apart or more are on clocks that differ; by less, one may lag behind the other."""

_WRAP = 1 << 32
"""The devices' counters have 32 bits, the SDK's numbers 64."""


class StreamImage(Protocol):
    """One picture of one stream, as far as telling it from others needs it."""

    @property
    def number(self) -> int:
        """The stream's frame number."""

    @property
    def timestamp_ms(self) -> float:
        """The sensor's time; it may stand still where there is none."""

    def shows_the_same(self, other: Any, /) -> bool:
        """Whether both have the same pixels. Asked only where number and time are equal."""


AnyImage = TypeVar("AnyImage", bound=StreamImage)
Change = Literal["new", "same", "late"]


@dataclass
class _Stream(Generic[AnyImage]):
    """One stream: its newest picture, where that stands among the pairs, and the late ones since."""

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
        """Take the next picture, which is `change` to the newest."""
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
    """Tells fresh pairs from stale ones, and counts each pair of the camera once.

    librealsense goes on giving framesets when one stream stalls, with that stream's last picture in them again and no error.
    Seen with colour stalled after 9: (depth, colour) = (21, 9), (22, 9), (22, 22), (23, 23).
    A pair is fresh when both its pictures are new since the last fresh pair, neither came late, and the older one was not taken
    with an earlier picture of the other stream: where one stream's numbers stand still, librealsense pairs each picture with
    the one before.
    """

    def __init__(self, *, period_ms: float = math.inf) -> None:
        """`period_ms`: between two pictures of the slower stream; by default, times do not tell which belong together."""
        self._period_ms = period_ms
        self.counters = Counters()
        self._streams: tuple[_Stream[AnyImage], ...] = ()
        self._position = -1
        self._was_together = False
        self._num_lagging = 0

    def is_fresh(self, *, color: AnyImage, depth: AnyImage, same_clock: bool = True) -> bool:
        """Count the frameset of these pictures, and say whether both are new. `same_clock`: their times can be compared."""
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
        # The streams number their pictures apart from each other: the one that is farther along counts the pairs.
        position = max(stream.position for stream in self._streams)
        num_new = position - self._position
        if num_new > 0:
            counters.received += num_new
            counters.dropped += num_new - 1
            counters.delivered += fresh
            counters.stale += not fresh
        elif fresh:
            # Its late half came after all: the pair was counted as stale a moment ago.
            counters.delivered += 1
            counters.stale -= 1
        self._position = position
        if fresh:
            self._was_together = self._apart_ms() <= 0.5 * self._period_ms
            for stream in self._streams:
                stream.position, stream.is_fresh = position, False
        return fresh

    def _apart_ms(self) -> float:
        color, depth = self._streams
        return abs(color.times_ms[-1] - depth.times_ms[-1])

    def _lags(self) -> bool:
        if not (
            0.75 * self._period_ms < self._apart_ms() < _MAX_LAG * self._period_ms
            and _was_taken_before(self._streams, 0.25 * self._period_ms, was_together=self._was_together)
        ):
            self._num_lagging = 0
            return False
        # Where both count on and stay apart, a clock has stepped (as after its wrap): their times tell nothing any more.
        self._num_lagging = self._num_lagging + 1 if all(stream.is_numbered for stream in self._streams) else 0
        return self._num_lagging <= MAX_LATE

    @property
    def newest(self) -> tuple[AnyImage, ...]:
        """The newest picture of the colour and the depth stream; none before the first frameset."""
        return tuple(stream.image for stream in self._streams)

    def forget_images(self) -> None:
        """Let go of the pictures that are kept for comparison; no frameset can be counted after that."""
        self._streams = ()


def _was_taken_before(streams: Sequence[_Stream[Any]], tolerance_ms: float, *, was_together: bool) -> bool:
    """Does the older of the two newest pictures belong to an earlier one of the other stream, also to one that was lost?"""
    older, newer = sorted(streams, key=lambda stream: stream.times_ms[-1])
    time_ms = older.times_ms[-1]
    if len(older.times_ms) > 1 and time_ms <= older.times_ms[-2]:
        return False  # its times stand still, or began anew
    # Where the other stream was not seen yet at that time, nothing says that the two belong together.
    is_unknown = newer.times_ms[0] > time_ms + tolerance_ms
    return was_together or is_unknown or any(abs(time_ms - before_ms) <= tolerance_ms for before_ms in newer.times_ms)


def _changes(streams: Sequence[_Stream[AnyImage]], images: Sequence[AnyImage]) -> list[Change]:
    """What each picture is to its stream's newest one."""
    pairs = [(stream.image, image) for stream, image in zip(streams, images, strict=True)]
    steps = [_difference(before.number, now.number) for before, now in pairs]
    later = [now.timestamp_ms > before.timestamp_ms for before, now in pairs]
    fell = [step < 0 for step in steps]
    # Both streams that fall together are the camera that counts anew, unless both pictures are an old pair that came late.
    start_again = all(fell) and (all(later) or max(steps) < -REORDERED)
    return [
        _change(before, now, step=step, later=is_later, is_anew=start_again or stream.num_late >= MAX_LATE)
        for stream, (before, now), step, is_later in zip(streams, pairs, steps, later, strict=True)
    ]


def _change(before: StreamImage, now: StreamImage, *, step: int, later: bool, is_anew: bool) -> Change:
    if step > 0:
        return "new"
    if step < 0:
        return "new" if is_anew or (later and step < -REORDERED) else "late"
    # A number that stands still: the time tells, and where that stands still too, the pixels.
    if later:
        return "new"
    if now.timestamp_ms < before.timestamp_ms:
        return "new" if is_anew else "late"
    return "same" if now.shows_the_same(before) else "new"


def _difference(before: int, now: int) -> int:
    """How far `now` lies after `before`, around the end of 32 bits."""
    if max(before, now) >= _WRAP:
        return now - before
    return (now - before + _WRAP // 2) % _WRAP - _WRAP // 2


def _num_steps(before: int, now: int) -> int:
    """How many pictures later a new one is; 1 where its number does not tell."""
    step = _difference(before, now)
    return step if 0 < step <= MAX_GAP else 1
