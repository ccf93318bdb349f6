"""Parsing `--roi`: keywords, rectangles and files of regions. `--roi nearest` is in test_nearest.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.framing import Roi, fit
from edgefuse_runtime.camera import Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.regions.region import Region, most_regions, parse_region, parse_regions, read_regions, word_of


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
        ("-30,0,20,200", Roi(-30, 0, 20, 200)),  # its square overlaps the image
    ],
)
def test_fixed_regions(spec: str | None, expected: Roi) -> None:
    assert parse_region(spec)(_frame()) == (Region(expected),)


def test_the_cameras_region_comes_before_the_whole_image() -> None:
    known = Roi(1, 2, 3, 4)
    assert parse_region(None)(_frame(roi=known)) == (Region(known),)
    assert parse_region("whole")(_frame(roi=known)) == (Region(Roi(0, 0, 640, 480)),)


def test_several_regions_are_numbered_in_their_order() -> None:
    find = parse_regions(["10,20,30,40", "center", "whole"])
    assert find(_frame()) == (
        Region(Roi(10, 20, 30, 40), number=0),
        Region(Roi(80, 0, 480, 480), number=1),
        Region(Roi(0, 0, 640, 480), number=2),
    )
    assert most_regions(find) == 3 and word_of(find) == "10,20,30,40 center whole"
    assert parse_regions(["center"]) == parse_region("center")


@pytest.mark.parametrize("specs", [["nearest", "center"], ["nearest:2", "nearest"], ["1,2,3,4"] * 17, []])
def test_other_combinations_of_regions_are_refused(specs: list[str]) -> None:
    with pytest.raises(UserError, match=r"--roi .*(expected|must be)"):
        parse_regions(specs)


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "middle",
            "nearest:0",
            "nearest:17",
            "nearest:",
            "nearest:x",
            "1,2,3",
            "1,2,3,4,5",
            "1,2,x,4",
            "1,2,0,4",
            "1,2,3,-4",
            "1.5,2,3,4",
            "nan,2,3,4",
            "0,0,2000000000,480",
        ),
        *("-50,0,40,40", "0,-9,9,9", "9" * 5000, f"0,0,{'9' * 5000},1", "\x1b[2J"),
    ],
)
def test_other_words_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"--roi .*expected") as caught:
        parse_region(spec)
    assert len(str(caught.value)) < 250 and str(caught.value).isprintable()


def _write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps({"unit_m": 0.001, "frames": entries}))
    return path


ENTRIES = [{"frame": n, "label": "ab"[n % 2], "roi_xywh": [n, 0, 10, 12]} for n in (1, 2, 3)]


def test_a_file_has_region_and_class_by_frame_number(tmp_path: Path) -> None:
    find = parse_region(str(_write(tmp_path / "r.json", ENTRIES)))
    assert find(_frame(number=2)) == (Region(Roi(2, 0, 10, 12), "a"),)
    assert find(_frame(number=3)) == (Region(Roi(3, 0, 10, 12), "b"),)
    assert find(_frame(number=4)) is None


def test_a_region_is_only_for_its_frame_number(tmp_path: Path) -> None:
    """Regions of a file that begins at frame 10 are not shifted, and a file with other numbers matches nothing and is reported."""
    entries = [{"frame": n, "roi_xywh": [n, 0, 8, 8], "label": f"thing_{n}"} for n in range(10, 21)]
    find = read_regions(_write(tmp_path / "r.json", entries))
    found = {n: find(_frame(number=n)) for n in range(1, 31)}
    assert {n: regions[0].label for n, regions in found.items() if regions} == {n: f"thing_{n}" for n in range(10, 21)}
    assert find.note() == f"11 of 30 frames had a region in {tmp_path / 'r.json'}; the others were skipped"


@pytest.mark.parametrize("first", [0, 4, 170])
def test_a_file_that_matches_no_frame_is_reported(first: int, tmp_path: Path) -> None:
    find = read_regions(_write(tmp_path / "r.json", ENTRIES))
    assert find.labels == ("a", "b") and find.note() is None
    numbers = [n for n in range(first, first + 50) if n not in (1, 2, 3)]
    assert [find(_frame(number=n)) for n in numbers] == [None] * len(numbers)
    assert find.note() == (
        f"0 of {len(numbers)} frames had a region in {tmp_path / 'r.json'}: it has regions for frames 1 to 3, "
        f"but the camera's frames are {numbers[0]} to {numbers[-1]}"
    )


def test_a_file_that_fits_has_no_note(tmp_path: Path) -> None:
    find = read_regions(_write(tmp_path / "r.json", ENTRIES))
    assert all(find(_frame(number=n)) for n in (1, 2, 3)) and find.note() is None


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([640, 0, 9, 9], "does not overlap the 640x480"),
        ([0, 0, 2561, 9], "4 times"),
        ([9, 1000, 9, 9], "does not overlap"),
    ],
)
def test_all_regions_of_a_recording_are_checked_with_its_first_frame(
    box: list[int], message: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "r.json", [*ENTRIES, {"frame": 30, "roi_xywh": box}])
    with pytest.raises(UserError, match=f"r.json, frame 30: .*{message}"):
        read_regions(path)(replace(_frame(number=1), timestamp_domain="recorded"))
    find = read_regions(path)  # a folder's images may differ in size
    assert find(_frame(number=1)) is not None
    with pytest.raises(UserError, match=f"r.json, frame 30: .*{message}"):
        find(_frame(number=30))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "has no frames"),
        ("x", "frames = 'x', a list"),
        ([5], r"frames\[0\] = 5, an object"),
        ([ENTRIES[0], {"roi_xywh": [1, 2, 3, 4]}], r"lacks the field frames\[1\].frame"),
        ([{"frame": True, "roi_xywh": [1, 2, 3, 4]}], "frame = True, an integer"),
        ([{"frame": -1, "roi_xywh": [1, 2, 3, 4]}], "entry 1 of frames: frame is -1"),
        ([{"frame": 1, "roi_xywh": [1, 2, 3]}], "four numbers"),
        ([{"frame": 1, "roi_xywh": [1, 2, "3", 4]}], r"roi_xywh\[2\] = '3', an integer"),
        ([{"frame": 1, "roi_xywh": [1, 2, 3.5, 4]}], r"roi_xywh\[2\] = 3.5, an integer"),
        ([{"frame": 1, "roi_xywh": [1, 2, float("nan"), 4]}], "NaN, a finite number"),
        ([{"frame": 1, "roi_xywh": [1, float("-inf"), 3, 4]}], "-Infinity, a finite number"),
        ([ENTRIES[0], {"frame": 5, "roi_xywh": [1, 2, 0, 4]}], "entry 2 of frames: .*above 0"),
        ([{"frame": 1, "roi_xywh": [1, 2, 9, -4]}], "above 0"),
        ([{"frame": 1, "roi_xywh": [0, 0, 64000, 480]}], "entry 1 of frames: .*64000.*at most"),
        ([{"frame": 1, "roi_xywh": [-20, -20, 10, 10]}], "left of or above"),
        ([{"frame": 1, "roi_xywh": [1, 2, 3, 4], "label": 5}], "label = 5, a string"),
        ([ENTRIES[0], ENTRIES[0]], "entry 2 of frames: frame 1 occurs twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_entry(entries: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        parse_region(str(_write(tmp_path / "r.json", entries)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the regions file is missing"):
        parse_region(str(tmp_path / "nothing.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
BOXES = st.lists(st.integers(-50, 700) | st.integers() | st.floats() | JSON, min_size=3, max_size=5) | JSON
FILES = st.fixed_dictionaries(
    {
        "frames": st.lists(st.fixed_dictionaries({"frame": st.integers(-1, 9) | JSON, "roi_xywh": BOXES}), max_size=4)
        | JSON
    }
)


@given(value=FILES | JSON, shape=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(max_examples=200, deadline=None)
def test_any_regions_file_gives_regions_inside_the_image_or_one_error(
    value: Any, shape: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "r.json"
    path.write_text(json.dumps(value))
    try:
        find = read_regions(path)
        regions = [find(_frame(np.ones(shape, np.uint16), number=number)) for number in range(10)]
    except UserError as error:
        assert "r.json" in str(error) and "\n" not in str(error)
        return
    frame = _frame(np.ones(shape, np.uint16))
    for (region,) in filter(None, regions):
        assert fit(frame.rgb, frame.depth, size=16, roi=region.roi).rgb.shape == (16, 16, 3)


@given(
    spec=st.text() | st.lists(st.integers() | st.floats(), min_size=4, max_size=4).map(lambda v: ",".join(map(str, v)))
)
@settings(deadline=None)
def test_any_text_is_a_region_or_one_error(spec: str) -> None:
    try:
        source = parse_region(spec)
    except UserError:
        return
    assert parse_region(word_of(source)) == source  # the value in dataset.json can be parsed


def test_the_gestures_file_fits_its_recording(gestures_recording: Path, gestures_regions: Path) -> None:
    """Frame k of the file is the k-th of the recording: each region has a hand in front of the wall."""
    find = read_regions(gestures_regions)
    assert len(find.labels) == 10
    with open_camera(str(gestures_recording)) as camera:
        for frame in frames(camera):
            (region,) = find(frame) or ()
            assert region.label in find.labels
            x, y, w, h = region.roi
            inside, outside = frame.depth[y : y + h, x : x + w], frame.depth[:, :200]
            assert np.percentile(inside[inside > 0], 5) < 0.7 * np.median(outside[outside > 0])
