"""`CameraStatus`: what the camera is doing, from the events and results of a run."""

from __future__ import annotations

from typing import Any

from edgefuse_runtime.results import Event
from edgefuse_runtime.web.messages import Camera

WORKING = ("running", "degraded")


class CameraStatus:
    """Follows a run. Times are those of `time.monotonic`."""

    def __init__(self, *, now_s: float) -> None:
        self._name, self._reason, self._attempt, self._losses = "opening", "", 0, 0
        self._since_s = now_s

    @property
    def is_working(self) -> bool:
        """Whether at least one sensor sends images."""
        return self._name in WORKING

    def event(self, event: Event, *, at_s: float) -> None:
        """Take the state from an event "started" or "camera"; a folder has none."""
        if event.event == "camera":
            self._enter(event.detail, at_s)
        elif event.event == "started":
            state = (event.detail.get("camera") or {}).get("capture", {}).get("state") or {}
            if "name" in state:
                self._enter({**state, "state": state["name"]}, at_s - float(state.get("for_s", 0.0)))

    def result(self, *, now_s: float) -> None:
        """A result shows that the camera runs."""
        if self._name in ("opening", "closed"):
            self._enter({"state": "running"}, now_s)

    def ended(self, *, now_s: float, failure: str | None) -> None:
        """The run has ended."""
        self._enter({"state": "failed" if failure else "ended", "reason": failure or ""}, now_s)

    def message(self, *, now_s: float) -> Camera:
        """For the page."""
        return Camera(
            state=self._name,
            reason=self._reason,
            attempt=self._attempt,
            losses=self._losses,
            for_s=round(max(now_s - self._since_s, 0.0), 1),
        )

    def _enter(self, detail: dict[str, Any], at_s: float) -> None:
        state, reason = str(detail.get("state", "")), str(detail.get("reason", ""))
        if (state, reason) != (self._name, self._reason):  # another attempt is no other state
            self._since_s = at_s
        self._name, self._reason = state, reason
        self._attempt, self._losses = int(detail.get("attempt", 0)), int(detail.get("losses", self._losses))
