"""Where live looks: rectangles, files of regions, and the nearest thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.frames import Frame, frames
from edgefuse_runtime.regions import parse_region, read_regions


def _frame(
    depth: NDArray[np.uint16] | None = None, *, number: int = 1, roi: Roi | None = None, unit_m: float = 0.001
) -> Frame:
    depth = depth if depth is not None else np.full((480, 640), 1000, np.uint16)
    return Frame(
        rgb=np.zeros((*depth.shape, 3), np.uint8),
        depth=depth,
        depth_unit_m=unit_m,
        align="color",
        color_number=number,
        depth_number=number,
        timestamp_ms=0.0,
        timestamp_domain="none",
        arrival_ns=0,
        ready_ns=0,
        name=str(number),
        roi=roi,
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, Roi(0, 0, 640, 480)),
        ("whole", Roi(0, 0, 640, 480)),
        ("center", Roi(80, 0, 480, 480)),
        ("10,20,30,40", Roi(10, 20, 30, 40)),
        ("-5, 7 ,300,200", Roi(-5, 7, 300, 200)),
    ],
)
def test_fixed_regions(spec: str | None, expected: Roi) -> None:
    region = parse_region(spec)(_frame())
    assert region is not None
    assert (region.roi, region.label) == (expected, None)


def test_what_the_camera_knows_comes_before_the_whole_picture() -> None:
    known = Roi(1, 2, 3, 4)
    region = parse_region(None)(_frame(roi=known))
    assert region is not None and region.roi == known


@pytest.mark.parametrize("spec", ["", "middle", "1,2,3", "1,2,3,4,5", "1,2,x,4", "1,2,0,4", "1,2,3,-4", "1.5,2,3,4"])
def test_other_words_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"--roi .*expected"):
        parse_region(spec)


def _write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps({"unit_m": 0.001, "frames": entries}))
    return path


ENTRIES = [{"frame": n, "label": "ab"[n % 2], "roi_xywh": [n, 0, 10, 12]} for n in (1, 2, 3)]


def test_a_file_gives_region_and_class_by_frame_number(tmp_path: Path) -> None:
    find = parse_region(str(_write(tmp_path / "r.json", ENTRIES)))
    second, third = find(_frame(number=2)), find(_frame(number=3))
    assert second is not None and third is not None
    assert (second.roi, second.label) == (Roi(2, 0, 10, 12), "a")
    assert (third.roi, third.label) == (Roi(3, 0, 10, 12), "b")
    assert find(_frame(number=4)) is None


def test_a_file_counts_from_the_first_frame_where_numbers_start_elsewhere(tmp_path: Path) -> None:
    """A recording taken from a running camera starts at some number; a dropped frame must not shift the rest."""
    find = read_regions(_write(tmp_path / "r.json", ENTRIES))
    assert find.labels == ("a", "b")
    found = [find(_frame(number=number)) for number in (170, 172, 173)]
    assert [region.roi.x if region is not None else None for region in found] == [1, 3, None]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "has no frames"),
        ("x", "has no frames"),
        ([5], "entry 1 of frames is a JSON int"),
        ([ENTRIES[0], {"roi_xywh": [1, 2, 3, 4]}], "entry 2 of frames: frame is None"),
        ([{"frame": True, "roi_xywh": [1, 2, 3, 4]}], "frame is True"),
        ([{"frame": 1, "roi_xywh": [1, 2, 3]}], "four numbers"),
        ([{"frame": 1, "roi_xywh": [1, 2, "3", 4]}], "four numbers"),
        ([{"frame": 1, "roi_xywh": [1, 2, 0, 4]}], "above 0"),
        ([{"frame": 1, "roi_xywh": [1, 2, 3, 4], "label": 5}], "label is 5"),
        ([ENTRIES[0], ENTRIES[0]], "frame 1 is there twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_entry(entries: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        parse_region(str(_write(tmp_path / "r.json", entries)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the regions file is missing"):
        parse_region(str(tmp_path / "nothing.json"))


def test_the_gestures_file_fits_its_recording(gestures_recording: Path, gestures_regions: Path) -> None:
    """Frame k of the file is the k-th of the recording: in each region there is a hand before the wall."""
    find = read_regions(gestures_regions)
    assert len(find.labels) == 10
    with open_camera(str(gestures_recording)) as camera:
        for frame in frames(camera):
            region = find(frame)
            assert region is not None and region.label in find.labels
            x, y, w, h = region.roi
            inside, outside = frame.depth[y : y + h, x : x + w], frame.depth[:, :200]
            assert np.percentile(inside[inside > 0], 5) < 0.7 * np.median(outside[outside > 0])
