"""Frames of the recent past, in memory: those that viewers of the page may still mark, and those before a frame that is kept."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import replace
from typing import NamedTuple

from edgefuse_runtime.camera import Frame
from edgefuse_runtime.results import Result

BEFORE_S, BEFORE_PAUSE_S = 2.0, 0.5
"""Frames before one that is kept are at most so old, and so far apart."""
MAX_SHOWN_BYTES = 64_000_000
"""Of the images that were shown last: three seconds of 640x480 at ten a second."""
MAX_HELD = 8
"""Frames of viewers that have paused or opened the dialog; further ones replace the oldest."""


class Seen(NamedTuple):
    """A result and its frame, with images of its own."""

    result: Result
    frame: Frame


def copied(frame: Frame) -> Frame:
    """The frame with memory of its own: the camera needs its memory for other frames."""
    return replace(frame, rgb=frame.rgb.copy(), depth=frame.depth.copy())


class Before:
    """The frames of the last two seconds, two in a second."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=round(BEFORE_S / BEFORE_PAUSE_S) * 8)
        self._frame: tuple[Frame, Frame] | None = None
        self._last_s = 0.0

    def add(self, result: Result, frame: Frame) -> None:
        """Remember a frame, if the last one is half a second ago, with all its results."""
        now_s = result.times.published_ns / 1e9
        if self._frame is None or self._frame[0] is not frame:
            if self._seen and now_s - self._last_s < BEFORE_PAUSE_S:
                return
            self._frame, self._last_s = (frame, copied(frame)), now_s
        self._seen.append(Seen(result, self._frame[1]))

    def take(self, result: Result) -> list[Seen]:
        """The frames before a result with the same region, the oldest first; each is returned once."""
        end_ns = result.times.published_ns
        fits = [
            one
            for one in self._seen
            if one.result.region == result.region and 0 < end_ns - one.result.times.published_ns <= BEFORE_S * 1e9
        ]
        self._seen.clear()
        self._frame = None
        return fits


class Shown:
    """The frames that viewers have seen last, and those that they hold. Called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: OrderedDict[int, Seen] = OrderedDict()
        self._held: OrderedDict[int, Seen] = OrderedDict()
        self._frame: tuple[Frame, Frame] | None = None

    def add(self, result: Result, frame: Frame) -> None:
        """A frame was sent to viewers; once for each of its results."""
        if self._frame is None or self._frame[0] is not frame:
            self._frame = frame, copied(frame)
        copy = self._frame[1]
        num_bytes = copy.rgb.nbytes + copy.depth.nbytes
        with self._lock:
            self._shown[result.index] = Seen(result, copy)
            frames = {id(seen.frame) for seen in self._shown.values()}
            while len(frames) * num_bytes > MAX_SHOWN_BYTES and len(frames) > 1:
                _, oldest = self._shown.popitem(last=False)
                frames = {id(seen.frame) for seen in self._shown.values()}
                del oldest

    def hold(self, index: int) -> bool:
        """Keep the frame of a result until others are held; returns whether it is still there."""
        with self._lock:
            seen = self._shown.get(index) or self._held.get(index)
            if seen is None:
                return False
            for number, other in [*self._held.items(), *self._shown.items()]:
                if other.frame is seen.frame:
                    self._held[number] = other
                    self._held.move_to_end(number)
            while len({id(one.frame) for one in self._held.values()}) > MAX_HELD:
                self._held.popitem(last=False)
            return True

    def get(self, index: int) -> Seen | None:
        """The frame of a result, if it is still there."""
        with self._lock:
            return self._shown.get(index) or self._held.get(index)
