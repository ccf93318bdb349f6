"""Counting what became of a camera's pairs, from the frame numbers of its two streams. Used by the pipeline reader alone."""

from __future__ import annotations

from edgefuse_runtime.frames import Counters


class Tally:
    """Tells fresh pairs from stale ones, and counts each pair of the camera once.

    librealsense goes on giving framesets when one stream stalls, with that stream's last picture in them again and no error;
    only the frame number tells. Seen with colour stalled after 9: (depth, colour) = (21, 9), (22, 9), (22, 22), (23, 23).
    A pair is fresh when both its numbers are above those of the last fresh pair.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self._first = self._last = self._last_fresh = (0, 0)
        self._position = 0

    def is_fresh(self, *, color_number: int, depth_number: int) -> bool:
        """Count the frameset with these frame numbers, and say whether both of its pictures are new."""
        numbers, counters = (color_number, depth_number), self.counters
        started_again = any(now < last for now, last in zip(numbers, self._last, strict=True))
        if counters.received == 0 or started_again:
            self._first, self._position = numbers, -1
            fresh = True
        else:
            fresh = all(now > last for now, last in zip(numbers, self._last_fresh, strict=True))
        # The streams number their frames apart from each other: the one that is farther along counts the pairs.
        position = max(now - first for now, first in zip(numbers, self._first, strict=True))
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
        self._position, self._last = position, numbers
        if fresh:
            self._last_fresh = numbers
        return fresh
