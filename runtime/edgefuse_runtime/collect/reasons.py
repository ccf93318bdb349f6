"""Which results are worth labelling, and how much. Works on results only; images are elsewhere."""

from __future__ import annotations

from typing import Literal, NamedTuple

from edgefuse.answers import BACKGROUND, NONE, UNKNOWN
from edgefuse.data.collection import NO_ANSWER
from edgefuse_runtime.results import Result
from edgefuse_runtime.sensor_health import ALL_OK

Reason = Literal["wrong", "sensors disagree", "changed", "low margin", "degraded", "before"]
VALUES: dict[Reason, int] = {
    "wrong": 5,
    "sensors disagree": 4,
    "changed": 3,
    "low margin": 2,
    "degraded": 1,
    "before": 0,
}
LOW_MARGIN = 0.2
"""Difference of the two highest probabilities below which an answer is uncertain."""
CHANGE_S = 1.0
"""An answer that differs for longer than this is no slip."""


class Alone(NamedTuple):
    """The answers with one sensor only."""

    rgb: str
    depth: str


def reasons_of(result: Result) -> list[Reason]:
    """The reasons that one result shows by itself."""
    reasons: list[Reason] = []
    if result.roi is None:
        return reasons
    top = [probability for _, probability in result.top]
    is_close = len(top) > 1 and top[0] - top[1] < LOW_MARGIN
    if result.label == UNKNOWN or (result.label is not None and is_close):
        reasons.append("low margin")
    if result.sensors != ALL_OK:
        reasons.append("degraded")
    return reasons


def suggested(result: Result) -> str | None:
    """The class folder of the most likely class; None without one."""
    best = result.top[0][0] if result.top else result.label
    return BACKGROUND if best == NONE else None if best == UNKNOWN else best


def group_of(result: Result) -> str:
    """What quotas count together: the most likely class."""
    return suggested(result) or NO_ANSWER


class Changes:
    """Finds results whose answer differs from the decided one of their object, which the object's later results have again."""

    def __init__(self) -> None:
        self._differing: dict[int, Result] = {}

    def update(self, result: Result) -> tuple[bool, Result | None]:
        """Take the next result.

        Returns:
            Whether it differs and its frame is to be remembered; and a remembered one that was a slip, after which the answer is back.
        """
        region = result.region if result.region is not None else -1
        before = self._differing.get(region)
        if before is not None and (result.object != before.object or _seconds_between(before, result) > CHANGE_S):
            del self._differing[region]
            before = None
        if result.object is None or result.decided is None or result.label in (None, UNKNOWN):
            return False, None
        if result.label == result.decided:
            return False, self._differing.pop(region, None)
        if before is None:
            self._differing[region] = result
            return True, None
        return False, None


def _seconds_between(first: Result, second: Result) -> float:
    return (second.times.published_ns - first.times.published_ns) / 1e9
