"""`CaptureState`: what a camera is doing, for logs, events, the summary and systemd."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgefuse_runtime.camera import Sensor

StateName = Literal["closed", "opening", "running", "degraded", "reconnecting", "ended", "failed"]
_WORDS: dict[Sensor, str] = {"rgb": "colour", "depth": "depth"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptureState:
    """The state of a camera.

    Attributes:
        name: "running": both sensors send images; "degraded": one of them; "reconnecting": the camera was lost, or is not there yet.
        reason: for "degraded", "reconnecting" and "failed".
        attempt: for "reconnecting": 1, 2, 3, ... since the camera was lost.
        missing: for "degraded": the sensors that send no images.
        losses: how often the camera was lost so far.
        since_s: start of the state, `time.monotonic`.
    """

    name: StateName
    reason: str = ""
    attempt: int = 0
    missing: tuple[Sensor, ...] = ()
    losses: int = 0
    since_s: float = field(default_factory=time.monotonic)

    @property
    def message(self) -> str:
        """The state in one line."""
        attempt = f", attempt {self.attempt}" if self.attempt else ""
        return " ".join(f"{self.name}{attempt}{': ' if self.reason else ''}{self.reason}".split())

    def detail(self) -> dict[str, Any]:
        """The state as JSON values, for an event."""
        value = asdict(self) | {"missing": list(self.missing)}
        del value["since_s"]
        return {"state": value.pop("name"), **value}

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the duration of the state instead of its start."""
        value = asdict(self)
        duration_s = time.monotonic() - value.pop("since_s")
        return {**value, "for_s": round(duration_s, 1)}


class StateLog:
    """Keeps the state, calls `observer` with each change, and logs each once: not each attempt to reconnect."""

    def __init__(self) -> None:
        self.state = CaptureState(name="closed")
        self.observer: Callable[[CaptureState], None] = lambda state: None
        self.has_opened = False
        self._lost_s = 0.0

    def degrade(self, missing: tuple[Sensor, ...]) -> None:
        """One sensor sends no images."""
        self.enter("degraded", f"the {_WORDS[missing[0]]} sensor sends no images", missing=missing)

    def enter(self, name: StateName, reason: str = "", *, attempt: int = 0, missing: tuple[Sensor, ...] = ()) -> None:
        """Change the state."""
        before = self.state
        if (before.name, before.reason, before.attempt) == (name, reason, attempt):
            return
        is_same = (before.name, before.reason) == (name, reason)
        is_loss = name == "reconnecting" and before.name != "reconnecting"
        self._lost_s = time.monotonic() if is_loss else self._lost_s
        self.state = CaptureState(
            name=name,
            reason=reason,
            attempt=attempt,
            missing=missing,
            losses=before.losses + (is_loss and self.has_opened),
            **({"since_s": before.since_s} if is_same else {}),
        )
        if not is_same:
            self._log(before)
        self.observer(self.state)

    def _log(self, before: CaptureState) -> None:
        now = self.state
        if now.name == "reconnecting":
            lost = "is lost" if self.has_opened else "is not there"
            _log.warning("the camera %s: %s. Opening it again until it answers", lost, now.reason.rstrip("."))
        if now.name in ("running", "degraded") and before.name == "reconnecting":
            _log.warning("the camera is back after %.1f s", time.monotonic() - self._lost_s)
        if now.name == "degraded":
            _log.warning("%s: it counts as missing until it sends images again", now.reason)
        if now.name == "running" and before.name == "degraded":
            _log.warning("both sensors of the camera send images again")
