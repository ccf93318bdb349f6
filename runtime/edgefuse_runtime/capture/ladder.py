"""What to do after each failure of a camera: restart it, reset it, give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

RESTART_PAUSES_S = (0.5, 1.0)
"""Before each restart. The next failure leads to a hardware reset and the last restart."""
RESET_PAUSE_S = 2.0
RESET_LIMIT_S = 20.0
"""After a reset the camera is away from USB, usually for 7 s."""
GOOD_AFTER_S = 10.0
"""A camera that sent frames for this long has recovered: its next failure is the first one again."""
MAX_PAUSE_S = 30.0


class Step(NamedTuple):
    """What to do after a failure, and how long to wait before the camera is opened again."""

    action: Literal["restart", "reset", "give up"]
    pause_s: float = 0.0


@dataclass
class Ladder:
    """Counts the failures of one camera. Resets are rare, because they disturb other devices on the same USB hub."""

    num_failures: int = 0
    reset_s: float | None = None

    def after_failure(self, *, streamed_s: float, now_s: float) -> Step:
        """The next step.

        Args:
            streamed_s: how long the camera has sent frames since it was opened.
            now_s: time on any clock.
        """
        if streamed_s >= GOOD_AFTER_S:
            self.num_failures, self.reset_s = 0, None
        self.num_failures += 1
        if self.num_failures <= len(RESTART_PAUSES_S):
            return Step("restart", RESTART_PAUSES_S[self.num_failures - 1])
        if self.reset_s is None:
            self.reset_s = now_s
            return Step("reset", RESET_PAUSE_S)
        if now_s < self.reset_s + RESET_LIMIT_S and streamed_s == 0:
            return Step("restart", 1.0)
        return Step("give up")


def pause_before_process(num_failures: int) -> float:
    """Seconds to wait before the capture process is started again, after this many that failed in a row."""
    return float(min(2 ** min(num_failures - 1, 10), MAX_PAUSE_S))
