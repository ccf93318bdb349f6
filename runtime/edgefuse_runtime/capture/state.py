"""`CaptureState`: what a camera is doing, for logs, the summary, metrics and pages."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

StateName = Literal["closed", "opening", "running", "degraded", "reconnecting", "ended", "failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptureState:
    """The state of a camera.

    Attributes:
        name: "running": both sensors send images; "degraded": one of them; "reconnecting": the camera was lost.
        reason: for "degraded", "reconnecting" and "failed".
        attempt: for "reconnecting": 1, 2, 3, ... since the camera was lost.
        since_s: start of the state, `time.monotonic`.
    """

    name: StateName
    reason: str = ""
    attempt: int = 0
    since_s: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the duration of the state instead of its start."""
        value = asdict(self)
        return {**value, "for_s": round(time.monotonic() - value.pop("since_s"), 1)}


class StateLog:
    """Keeps the state, and logs each change once: not each attempt to reconnect."""

    def __init__(self) -> None:
        self.state = CaptureState(name="closed")
        self.num_losses = 0
        self._lost_s = 0.0

    def enter(self, name: StateName, reason: str = "", *, attempt: int = 0) -> None:
        """Change the state."""
        before = self.state
        if (before.name, before.reason, before.attempt) == (name, reason, attempt):
            return
        is_same = (before.name, before.reason) == (name, reason)
        self.state = CaptureState(
            name=name, reason=reason, attempt=attempt, **({"since_s": before.since_s} if is_same else {})
        )
        if name == "reconnecting" and before.name != "reconnecting":
            self.num_losses += 1
            self._lost_s = time.monotonic()
        if not is_same:
            self._log(before)

    def _log(self, before: CaptureState) -> None:
        now = self.state
        if now.name == "reconnecting":
            _log.warning("the camera is lost: %s. Opening it again until it answers", now.reason.rstrip("."))
        elif now.name == "degraded":
            _log.warning("%s: it counts as missing until it sends images again", now.reason)
        elif now.name == "running" and before.name == "reconnecting":
            _log.warning("the camera is back after %.1f s", time.monotonic() - self._lost_s)
        elif now.name == "running" and before.name == "degraded":
            _log.warning("both sensors of the camera send images again")
