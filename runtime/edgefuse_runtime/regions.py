"""Where in a frame to look: the words of `--roi` and what they mean.

Owns region sources: callables from a frame to a `Region`, or None where there is nothing to look at. Live and record use them;
cropping itself is `edgefuse.framing`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edgefuse.errors import UserError
from edgefuse.framing import Roi, centre_square
from edgefuse.io.json_files import read_json
from edgefuse_runtime.frames import Frame
from edgefuse_runtime.nearest import nearest_thing

WORDS = "whole, center, nearest, x,y,w,h (pixels), FILE.json (a region for each frame)"


class Region(NamedTuple):
    """A rectangle in pixels, and the class of what is in it where the source knows that."""

    roi: Roi
    label: str | None = None


class RegionSource(Protocol):
    """Says where in a frame to look. A source belongs to one run: it may remember what it saw."""

    def __call__(self, frame: Frame) -> Region | None:
        """The region of `frame`, or None when there is nothing to look at."""


def parse_region(spec: str | None) -> RegionSource:
    """The source that `--roi` names.

    Args:
        spec: one of `WORDS`; None = whole.

    Raises:
        UserError: `spec` is none of them, or the file is not a regions file.
    """
    if spec is None or spec == "whole":
        return Whole()
    if spec in ("center", "centre"):
        return Center()
    if spec == "nearest":
        return Nearest()
    if spec.endswith(".json"):
        return read_regions(Path(spec))
    return Fixed(roi=_parse_rectangle(spec))


@dataclass(frozen=True)
class Whole:
    """The region that the camera knows for the frame, or else the whole picture: what training looks at."""

    def __call__(self, frame: Frame) -> Region:
        height, width = frame.depth.shape
        return Region(frame.roi if frame.roi is not None else Roi(0, 0, width, height))


@dataclass(frozen=True)
class Center:
    """The largest square in the middle."""

    def __call__(self, frame: Frame) -> Region:
        return Region(centre_square(*frame.depth.shape))


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same rectangle in every frame."""

    roi: Roi

    def __call__(self, frame: Frame) -> Region:
        return Region(self.roi)


@dataclass(frozen=True)
class Nearest:
    """The square around the nearest compact thing in depth; None where there is none."""

    def __call__(self, frame: Frame) -> Region | None:
        roi = nearest_thing(frame.depth, depth_unit_m=frame.depth_unit_m)
        return None if roi is None else Region(roi)


class FromFile:
    """A region for each frame, and its class where the file has it.

    The file counts frames as the recording does (the colour stream's frame numbers), so that dropped frames shift nothing. Where
    the first frame's number is not in the file, the file is taken to count from that frame on.
    """

    def __init__(self, by_number: dict[int, Region]) -> None:
        self._by_number = by_number
        self._offset: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that the file names."""
        return tuple(sorted({region.label for region in self._by_number.values() if region.label is not None}))

    def __call__(self, frame: Frame) -> Region | None:
        if self._offset is None:
            known = frame.color_number in self._by_number
            self._offset = 0 if known else min(self._by_number) - frame.color_number
        return self._by_number.get(frame.color_number + self._offset)


def read_regions(path: Path) -> FromFile:
    """Read a regions file: {"frames": [{"frame": 1, "roi_xywh": [x, y, w, h], "label": "call"}, ...]}; labels may be absent.

    Raises:
        UserError: the file is missing or is not of this form; the entry is named.
    """
    entries = read_json(path, what="the regions file").get("frames")
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f'{path} has no frames: {{"frames": [{{"frame": 1, "roi_xywh": [x, y, w, h]}}, ...]}} was expected'
        )
    by_number: dict[int, Region] = {}
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index + 1} of frames"
        number, region = _region_from_entry(entry, where)
        if number in by_number:
            raise UserError(f"{where}: frame {number} is there twice")
        by_number[number] = region
    return FromFile(by_number)


def _region_from_entry(entry: Any, where: str) -> tuple[int, Region]:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is a JSON {type(entry).__name__}: an object was expected")
    number, box, label = entry.get("frame"), entry.get("roi_xywh"), entry.get("label")
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f"{where}: frame is {number!r}, a whole number was expected")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise UserError(f"{where}: roi_xywh is {box!r}, four numbers [x, y, w, h] were expected")
    roi = Roi(*(round(value) for value in box))
    if roi.w <= 0 or roi.h <= 0:
        raise UserError(f"{where}: roi_xywh is {box!r}, a width and height above 0 were expected")
    if label is not None and not isinstance(label, str):
        raise UserError(f"{where}: label is {label!r}, a class name was expected")
    return number, Region(roi, label)


def _parse_rectangle(spec: str) -> Roi:
    try:
        x, y, w, h = (int(part) for part in spec.split(","))
    except ValueError:
        raise UserError(f"--roi {spec}: one of these was expected: {WORDS}") from None
    if w <= 0 or h <= 0:
        raise UserError(f"--roi {spec}: a width and height above 0 were expected in x,y,w,h")
    return Roi(x, y, w, h)
