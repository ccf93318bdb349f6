"""Region sources: callables from a frame to its regions; and the parser of `--roi`.

Used by live and record. `edgefuse.framing` does the cropping.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE, Roi, centre_square, square_around, square_in
from edgefuse.io.json_files import Optional, read_json
from edgefuse.io.text import printable
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.regions.follow import Follower
from edgefuse_runtime.regions.nearest import nearest_objects

WORDS = "whole, center, nearest, nearest:N (N objects), x,y,w,h (pixels), FILE.json (a region for each frame)"

MAX_REGIONS = 16
"""Largest number of regions in a frame."""
MORE_CANDIDATES = 1
"""`nearest` searches this many more objects than it follows, so that it stays with one of several at the same distance."""

MAX_COORDINATE = 40_000
"""Largest absolute value in a rectangle, in pixels; larger than any supported image."""

_log = logging.getLogger(__name__)

_SPEC = {"frames": [{"frame": int, "roi_xywh": [int], "label": Optional(str)}]}


class Region(NamedTuple):
    """A rectangle in pixels.

    Attributes:
        label: the class of the object in it, if the source provides it.
        number: for a followed object, its number, which no other object of the run has; otherwise the position in `--roi`, from 0.
        is_followed: whether the region follows an object, and is not a fixed place.
    """

    roi: Roi
    label: str | None = None
    number: int = 0
    is_followed: bool = False


class RegionSource(Protocol):
    """Finds the regions of a frame. Use a source for one run only: it may have state."""

    def __call__(self, frame: Frame) -> tuple[Region, ...] | None:
        """The regions of `frame`; empty if it looked for objects and there are none; None = the frame is not to be classified."""


def parse_regions(specs: Sequence[str]) -> RegionSource:
    """Parse one or more values of `--roi`; several are several regions of each frame.

    Raises:
        UserError: as `parse_region`; or one of several is not a fixed region.
    """
    sources = [parse_region(spec) for spec in specs]
    if len(sources) == 1:
        return sources[0]
    fixed = []
    for spec, source in zip(specs, sources, strict=True):
        if not isinstance(source, Fixed | Center | WholeImage):
            raise UserError(
                f"--roi {shortened(spec)} with another --roi: several regions must be whole, center or x,y,w,h; use nearest:N for "
                "several objects"
            )
        fixed.append(source)
    if not 0 < len(sources) <= MAX_REGIONS:
        raise UserError(f"--roi is given {len(sources)} times: 1 to {MAX_REGIONS} were expected")
    return Several(sources=tuple(fixed))


def parse_region(spec: str | None) -> RegionSource:
    """Parse `--roi`.

    Args:
        spec: one of `WORDS`; None = the camera's own region for the frame if it has one, otherwise the whole image.

    Raises:
        UserError: `spec` is invalid, or the file is not a regions file.
    """
    if spec is None:
        return DefaultRegion()
    if spec == WHOLE:
        return WholeImage()
    if spec in ("center", "centre"):
        return Center()
    if spec.partition(":")[0] == "nearest":
        return Nearest(num=_parse_num(spec))
    if spec.lower().endswith(".json"):
        return read_regions(Path(spec))
    return Fixed(roi=_parse_rectangle(spec))


def most_regions(source: RegionSource) -> int:
    """Largest number of regions of a frame."""
    return int(getattr(source, "most", 1))


def word_of(source: RegionSource | None) -> str:
    """The region to store in a data set recorded with `source`: a value of `--roi`, or "file" if none describes it."""
    return WHOLE if source is None else getattr(source, "word", ANY_CROP)


@dataclass(frozen=True)
class DefaultRegion:
    """The camera's own region for the frame if it has one, otherwise the whole image, as in training."""

    word = WHOLE

    def __call__(self, frame: Frame) -> tuple[Region]:
        return (Region(frame.roi),) if frame.roi is not None else WholeImage()(frame)


@dataclass(frozen=True)
class WholeImage:
    """The whole image, even if the camera has a region for the frame."""

    word = WHOLE

    def __call__(self, frame: Frame) -> tuple[Region]:
        height, width = frame.depth.shape
        return (Region(Roi(0, 0, width, height)),)


@dataclass(frozen=True)
class Center:
    """The largest square in the middle."""

    word = "center"

    def __call__(self, frame: Frame) -> tuple[Region]:
        return (Region(centre_square(*frame.depth.shape)),)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same rectangle in every frame; scaled if the image size changes, such as on USB 2 after a reconnection."""

    roi: Roi
    _sizes: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Width and height of the first image, and of the newest."""

    @property
    def word(self) -> str:
        return ",".join(str(value) for value in self.roi)

    def __call__(self, frame: Frame) -> tuple[Region]:
        height, width = frame.depth.shape
        first, *newest = self._sizes or [(width, height)]
        scale_x, scale_y = width / first[0], height / first[1]
        x, y, w, h = self.roi
        roi = Roi(round(x * scale_x), round(y * scale_y), max(round(w * scale_x), 1), max(round(h * scale_y), 1))
        if (newest or [first])[0] != (width, height):
            text = ",".join(str(value) for value in roi)
            _log.warning("the images have %dx%d pixels now, not %dx%d: the region is %s", width, height, *first, text)
        self._sizes[:] = [first, (width, height)]
        return (Region(roi),)


@dataclass(frozen=True, kw_only=True)
class Several:
    """Several fixed regions in every frame, numbered from 0."""

    sources: tuple[Fixed | Center | WholeImage, ...]

    @property
    def word(self) -> str:
        return " ".join(source.word for source in self.sources)

    @property
    def most(self) -> int:
        return len(self.sources)

    def __call__(self, frame: Frame) -> tuple[Region, ...]:
        return tuple(source(frame)[0]._replace(number=number) for number, source in enumerate(self.sources))


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The squares around the `num` nearest compact objects in the depth image, followed from frame to frame."""

    num: int = 1
    _follower: Follower = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_follower", Follower(self.num))

    @property
    def word(self) -> str:
        return "nearest" if self.num == 1 else f"nearest:{self.num}"

    @property
    def most(self) -> int:
        return self.num

    def __call__(self, frame: Frame) -> tuple[Region, ...]:
        height, width = frame.depth.shape
        found = nearest_objects(frame.depth, depth_unit_m=frame.depth_unit_m, most=self.num + MORE_CANDIDATES)
        followed = self._follower(found, height=height, width=width)
        return tuple(Region(one.roi, number=one.number, is_followed=True) for one in followed)


class FromFile:
    """A region per frame number, with its class if the file has it.

    The frame number is the one that live writes as `frame`: for cameras and recordings the colour stream's frame number as counted
    by the device; folders and the built-in scenes count from 1. A frame whose number is not in the file has no region. Numbers are
    not shifted: if no number of the file occurs in the run, `note` reports it.
    """

    word = ANY_CROP

    def __init__(self, by_number: dict[int, Region], *, path: Path) -> None:
        self._by_number, self._path = by_number, path
        self._seen: list[int] = []  # number of frames, number with a region, first and last number

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the file."""
        return tuple(sorted({region.label for region in self._by_number.values() if region.label is not None}))

    def __call__(self, frame: Frame) -> tuple[Region] | None:
        """The frame's region; None if it has none.

        Raises:
            UserError: the region does not fit the image. For recordings, which have one image size, the first call checks all
                entries of the file.
        """
        number = frame.color_number
        region = self._by_number.get(number)
        if not self._seen:
            self._seen = [0, 0, number, number]
            for entry in self._by_number if frame.timestamp_domain == "recorded" else ():
                self._check(entry, frame)
        self._seen[0] += 1
        self._seen[3] = number
        if region is not None:
            self._seen[1] += 1
            self._check(number, frame)
        return None if region is None else (region,)

    def note(self) -> str | None:
        """One line about the frames of this run without a region, or None if there were none."""
        if not self._seen or self._seen[1] == self._seen[0]:
            return None
        num_frames, num_found, first, last = self._seen
        text = f"{num_found} of {num_frames} frames had a region in {self._path}"
        if num_found:
            return f"{text}; the others were skipped"
        lowest, highest = min(self._by_number), max(self._by_number)
        return f"{text}: it has regions for frames {lowest} to {highest}, but the camera's frames are {first} to {last}"

    def _check(self, number: int, frame: Frame) -> None:
        height, width = frame.depth.shape
        try:
            square_in(self._by_number[number].roi, height=height, width=width)
        except UserError as error:
            raise UserError(f"{self._path}, frame {number}: {error}") from None


def read_regions(path: Path) -> FromFile:
    """Read a regions file: {"frames": [{"frame": 1, "roi_xywh": [x, y, w, h], "label": "call"}, ...]}; "label" is optional.

    Raises:
        UserError: the file is missing or has another form, or a region is invalid for any image; the message has the entry.
    """
    entries = read_json(path, what="the regions file", spec=_SPEC)["frames"]
    if not entries:
        raise UserError(
            f'{path} has no frames: {{"frames": [{{"frame": 1, "roi_xywh": [x, y, w, h]}}, ...]}} was expected'
        )
    by_number: dict[int, Region] = {}
    for index, entry in enumerate(entries):
        number, region = _region_from_entry(entry, f"{path}, entry {index + 1} of frames")
        if number in by_number:
            raise UserError(f"{path}, entry {index + 1} of frames: frame {number} occurs twice")
        by_number[number] = region
    return FromFile(by_number, path=path)


def _region_from_entry(entry: dict[str, Any], where: str) -> tuple[int, Region]:
    number, box = entry["frame"], entry["roi_xywh"]
    if number < 0:
        raise UserError(f"{where}: frame is {shortened(number)}, a frame number of 0 or more was expected")
    if len(box) != 4:
        raise UserError(f"{where}: roi_xywh is {shortened(box)}, four numbers [x, y, w, h] were expected")
    return number, Region(_checked(Roi(*box), where=f"{where}: roi_xywh is {shortened(box)}"), entry.get("label"))


def _parse_num(spec: str) -> int:
    """N of nearest:N; 1 for nearest."""
    _, colon, word = spec.partition(":")
    num = int(word) if word.isascii() and word.isdecimal() and len(word) < 4 else 0
    if colon and not 0 < num <= MAX_REGIONS:
        raise UserError(f"--roi {shortened(spec)}: nearest:N with N from 1 to {MAX_REGIONS} was expected")
    return num if colon else 1


def _parse_rectangle(spec: str) -> Roi:
    try:
        x, y, w, h = (int(part) for part in spec.split(","))
    except ValueError:
        raise UserError(f"--roi {shortened(spec)}: one of these was expected: {WORDS}") from None
    return _checked(Roi(x, y, w, h), where=f"--roi {shortened(spec)}")


def _checked(roi: Roi, *, where: str) -> Roi:
    """`roi`. Refuses a region that is invalid for any image size."""
    if roi.w <= 0 or roi.h <= 0:
        raise UserError(f"{where}: a width and height above 0 were expected in x,y,w,h")
    if any(abs(value) > MAX_COORDINATE for value in roi):
        raise UserError(f"{where}: pixels of an image were expected in x,y,w,h, at most {MAX_COORDINATE}")
    square = square_around(roi)
    if square.x + square.w <= 0 or square.y + square.h <= 0:
        raise UserError(f"{where}: it is completely left of or above the image; an overlap was expected")
    return roi


def shortened(value: Any) -> str:
    """A value given by the user, in at most 60 characters."""
    text = printable(value if isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
