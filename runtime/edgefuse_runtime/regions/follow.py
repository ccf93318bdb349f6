"""Following objects from frame to frame: stable numbers and smooth regions, from the objects found in each frame. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.framing import Roi

REACH = 0.6
"""An object is the same one if its centre moved by at most this fraction of its side since the frame before."""
MAX_GROWTH = 1.8
"""The same for its side: at most this ratio."""
HELD_FRAMES = 3
"""An object that is not found keeps its region for this many frames."""
FAST = 0.2
"""Changes of the region by this fraction of its side are followed at once if it moved before; smaller ones are averaged."""
SLOWEST = 0.15
"""Weight of the newest frame for the smallest changes."""
STILL = 0.01
"""Smaller changes of the region do not move it."""
SWITCH_M = 0.05
"""Another object must be nearer by this much, in metres, before it takes the place of one that is followed."""


class Found(NamedTuple):
    """An object found in one frame: the square around it, and the distance of its front in metres."""

    roi: Roi
    distance_m: float


class Followed(NamedTuple):
    """An object that is followed: its number, which no other object of the run has, and its smooth region."""

    number: int
    roi: Roi


@dataclass
class _Track:
    number: int
    box: NDArray[np.float64]  # centre x, centre y, side
    newest: NDArray[np.float64]  # the same of the last found object, not averaged
    distance_m: float
    is_shown: bool = False
    is_moving: bool = False
    num_missed: int = 0

    def cost(self, found: Found) -> float:
        """Distance of the centres as a fraction of the side; infinite if it is another object."""
        box, before = _box(found.roi), self.newest
        if max(box[2], before[2]) > MAX_GROWTH * min(box[2], before[2]):
            return float("inf")
        moved = float(np.hypot(*(box[:2] - before[:2]))) / max(box[2], before[2])
        return moved if moved <= REACH else float("inf")

    def move_to(self, found: Found) -> None:
        self.newest = _box(found.roi)
        change = self.newest - self.box
        amount = max(float(np.hypot(*change[:2])), abs(float(change[2])) / 2) / self.box[2]
        was_moving, self.is_moving = self.is_moving, amount >= FAST / 2
        if amount > STILL:
            # One large change of an object at rest may be an error, such as a hand that is found once with and once without its arm.
            weight = max(amount / FAST, SLOWEST) if was_moving or amount < FAST else SLOWEST
            self.box = self.box + min(weight, 1.0) * change
        self.distance_m = found.distance_m
        self.num_missed = 0


class Follower:
    """Follows the `num` nearest objects of a run."""

    def __init__(self, num: int = 1) -> None:
        self._num = num
        self._tracks: list[_Track] = []
        self._next_number = 1

    def __call__(self, found: Sequence[Found], *, height: int, width: int) -> tuple[Followed, ...]:
        """The nearest objects, the nearest first.

        Args:
            found: all objects of the next frame, also more than are followed.
            height, width: of the image; regions stay inside it.
        """
        self._match(found)
        for track in self._tracks:
            track.distance_m -= SWITCH_M * track.is_shown
        shown = sorted(self._tracks, key=lambda track: track.distance_m)[: self._num]
        for track in self._tracks:
            track.distance_m += SWITCH_M * track.is_shown
        for track in self._tracks:
            track.is_shown = any(track is one for one in shown)
        return tuple(Followed(track.number, _roi(track.box, height=height, width=width)) for track in shown)

    def _match(self, found: Sequence[Found]) -> None:
        """Assign the found objects to those that are followed, the closest first; the others are new ones."""
        costs = sorted(
            (cost, i, j)
            for i, track in enumerate(self._tracks)
            for j, one in enumerate(found)
            if (cost := track.cost(one)) < float("inf")
        )
        matched: dict[int, int] = {}
        for _, i, j in costs:
            if i not in matched and j not in matched.values():
                matched[i] = j
                self._tracks[i].move_to(found[j])
        for i, track in enumerate(self._tracks):
            track.num_missed += i not in matched
        self._tracks = [track for track in self._tracks if track.num_missed <= HELD_FRAMES]
        for j, one in enumerate(found):
            if j not in matched.values():
                box = _box(one.roi)
                self._tracks.append(_Track(self._next_number, box, box, one.distance_m))
                self._next_number += 1


def _box(roi: Roi) -> NDArray[np.float64]:
    return np.array([roi.x + roi.w / 2, roi.y + roi.h / 2, max(roi.w, roi.h)])


def _roi(box: NDArray[np.float64], *, height: int, width: int) -> Roi:
    """The square `box` in whole pixels, inside the image."""
    side = min(round(float(box[2])), height, width)
    x, y = (round(float(centre) - side / 2) for centre in box[:2])
    return Roi(min(max(x, 0), width - side), min(max(y, 0), height - side), side, side)
