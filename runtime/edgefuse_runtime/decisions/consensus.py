"""From the answers of the frames to one event per object: a state machine for each region.

    appeared   an object in at least `agree` of the last `of` frames
    decided    `agree` of the last `of` frames have the same answer
    left       no object in `of` frames in a row, or another object took its place

Another answer replaces the decided one if it has `agree` of the last `of` frames, and the decided one has none of the last `agree`. For a
followed object, and for an unknown one, that is a new decision. In a fixed region it is another object: the one before has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgefuse.answers import NONE, UNKNOWN
from edgefuse_runtime.decisions.events import Appeared, Box, Decided, Left, ObjectEvent


class Seen(NamedTuple):
    """The answer for one region of one frame.

    Attributes:
        region: number of the region; of a followed object, different from that of any other object of the run.
        label: a class or "unknown"; "none" = there is no object; None = no decision, because a sensor is missing: the frame does not count.
        probability: of the label; 0 for "none".
        is_followed: whether the region follows an object.
    """

    region: int
    label: str | None
    probability: float = 0.0
    roi: Box = (0, 0, 0, 0)
    nearest_m: float | None = None
    is_followed: bool = False


class Status(NamedTuple):
    """The object in a region: its number, and the decided answer; None before the event."""

    object: int | None = None
    label: str | None = None


@dataclass
class _Region:
    """A region: the answers of its last frames, and its object if one has appeared.

    Attributes:
        last_frame, num_seen: the last frame with an object, and how many there were.
        label_frame, label_seen: both at the last frame that had the decided answer.
    """

    window: deque[Seen]
    object: int | None = None
    label: str | None = None
    last_frame: int = 0
    num_seen: int = 0
    label_frame: int = 0
    label_seen: int = 0


class Consensus:
    """The objects of a run."""

    def __init__(self, *, agree: int, of: int) -> None:
        """At least `agree` of the last `of` frames; 1 <= agree <= of."""
        assert 1 <= agree <= of
        self._agree, self._of = agree, of
        self._regions: dict[int, _Region] = {}
        self._num_objects = 0

    def update(self, seen: Sequence[Seen], *, frame: int) -> list[ObjectEvent]:
        """The events of the next frame.

        Args:
            seen: the answers for its regions, each region once. A region that is missing has no object.
            frame: its number.
        """
        now = {region: Seen(region, NONE) for region in self._regions} | {one.region: one for one in seen}
        events: list[ObjectEvent] = []
        for number, newest in now.items():
            if newest.label is None:
                continue
            region = self._regions.get(number)
            if region is None:
                region = self._regions[number] = _Region(deque(maxlen=self._of))
            events += self._step(region, newest, frame)
            if all(one.label == NONE for one in region.window):
                del self._regions[number]
        return events

    def status(self, region: int) -> Status:
        """The object in a region after the last frame."""
        found = self._regions.get(region)
        return Status() if found is None else Status(found.object, found.label)

    def _step(self, region: _Region, newest: Seen, frame: int) -> list[ObjectEvent]:
        region.window.append(newest)
        present = [one for one in region.window if one.label != NONE]
        if not present:
            return [] if region.object is None else [_left(region, newest.region)]
        if newest.label != NONE:
            region.last_frame, region.num_seen = frame, region.num_seen + 1
        events: list[ObjectEvent] = []
        if region.object is None and len(present) >= self._agree:
            events.append(self._appeared(region, present[-1], frame))
        label = self._new_label(region, present)
        if label is None:
            pass
        elif region.label not in (None, UNKNOWN) and not newest.is_followed:
            events.append(_replaced(region, newest.region))
            events += [self._appeared(region, present[-1], frame), self._decided(region, present, label, frame)]
        else:
            events.append(self._decided(region, present, label, frame))
        if newest.label == region.label:
            region.label_frame, region.label_seen = frame, region.num_seen
        return events

    def _new_label(self, region: _Region, present: Sequence[Seen]) -> str | None:
        """The answer to decide now; None if there is none, or it is decided already."""
        labels = [one.label for one in present]
        label = max(reversed(labels), key=labels.count)  # of equal counts, the newest answer
        if label == region.label or labels.count(label) < self._agree:
            return None
        newest = [one.label for one in list(region.window)[-self._agree :]]
        return None if region.label is not None and region.label in newest else label

    def _appeared(self, region: _Region, newest: Seen, frame: int) -> Appeared:
        self._num_objects += 1
        region.object = self._num_objects
        return Appeared(
            object=region.object, region=newest.region, frame=frame, roi=newest.roi, nearest_m=newest.nearest_m
        )

    def _decided(self, region: _Region, present: Sequence[Seen], label: str, frame: int) -> Decided:
        agreeing = [one for one in present if one.label == label]
        previous, region.label = region.label, label
        assert region.object is not None
        return Decided(
            object=region.object,
            region=agreeing[-1].region,
            frame=frame,
            roi=agreeing[-1].roi,
            nearest_m=agreeing[-1].nearest_m,
            label=label,
            probability=round(sum(one.probability for one in agreeing) / len(agreeing), 6),
            num_agreed=len(agreeing),
            num_frames=len(region.window),
            previous=previous,
        )


def _left(region: _Region, number: int) -> Left:
    """The object has left; the region is empty."""
    assert region.object is not None
    event = Left(
        object=region.object, region=number, frame=region.last_frame, label=region.label, num_seen=region.num_seen
    )
    region.object = region.label = None
    region.num_seen = 0
    return event


def _replaced(region: _Region, number: int) -> Left:
    """The object has left, and the frames since its last answer are those of the next one."""
    num_next = region.num_seen - region.label_seen
    region.last_frame, region.num_seen = region.label_frame, region.label_seen
    event = _left(region, number)
    region.num_seen = num_next
    return event
