"""The events of an object: it appeared, an answer was decided for it, it left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

Box = tuple[int, int, int, int]
"""A region: x, y, width, height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Appeared:
    """An object was seen in enough frames.

    Attributes:
        object: 1, 2, 3, ... in a run.
        region: the region's number, as in a result.
        frame: number of the frame that led to the event.
        roi: the region.
        nearest_m: distance of the object's nearest surface; None if it is not known.
    """

    event: ClassVar[str] = "appeared"
    object: int
    region: int
    frame: int
    roi: Box
    nearest_m: float | None

    @property
    def message(self) -> str:
        """One line for people."""
        return f"object {self.object} appeared in region {self.region}{_distance(self.nearest_m)}"


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Enough frames agree on the answer for an object. A followed object gets another decision if its answer changes.

    Attributes:
        object, region, frame, roi, nearest_m: see `Appeared`.
        label: a class, or "unknown".
        probability: mean over the frames that agree.
        num_agreed, num_frames: frames that agree, of the last ones.
        previous: the answer decided before for this object; None for its first decision.
    """

    event: ClassVar[str] = "decided"
    object: int
    region: int
    frame: int
    roi: Box
    nearest_m: float | None
    label: str
    probability: float
    num_agreed: int
    num_frames: int
    previous: str | None

    @property
    def message(self) -> str:
        """One line for people."""
        before = "" if self.previous is None else f", before: {self.previous}"
        agreed = f"{self.num_agreed} of {self.num_frames} frames"
        return f"object {self.object} is {self.label} ({self.probability:.2f}, {agreed}){_distance(self.nearest_m)}{before}"


@dataclass(frozen=True, kw_only=True)
class Left:
    """An object was not seen for some frames, or another one took its place.

    Attributes:
        object, region: see `Appeared`.
        frame: number of the last frame with the object.
        label: the last answer decided for it; None if there was none.
        num_seen: frames with the object.
    """

    event: ClassVar[str] = "left"
    object: int
    region: int
    frame: int
    label: str | None
    num_seen: int

    @property
    def message(self) -> str:
        """One line for people."""
        was = "no decision" if self.label is None else self.label
        return f"object {self.object} ({was}) left region {self.region} after {self.num_seen} frames"


ObjectEvent = Appeared | Decided | Left


def event_detail(event: ObjectEvent) -> dict[str, Any]:
    """The fields of an event as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(event).items()}


def _distance(nearest_m: float | None) -> str:
    return "" if nearest_m is None else f", {nearest_m:.2f} m away"
