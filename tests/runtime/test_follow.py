"""Following objects from frame to frame: stable numbers, regions without jitter, no lag for objects that move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.framing import Roi
from edgefuse_runtime.regions.follow import HELD_FRAMES, Followed, Follower, Found


def _found(x: float, y: float, side: float, distance_m: float = 0.6) -> Found:
    return Found(Roi(round(x - side / 2), round(y - side / 2), round(side), round(side)), distance_m)


def _follow(follower: Follower, *found: Found) -> tuple[Followed, ...]:
    return follower(found, height=480, width=640)


def _centre(roi: Roi) -> tuple[float, float]:
    return roi.x + roi.w / 2, roi.y + roi.h / 2


def test_the_jitter_of_a_resting_object_is_damped() -> None:
    rng = np.random.default_rng(0)
    follower, raw, smooth = Follower(), [], []
    for _ in range(100):
        x, y, side = 300 + rng.normal(0, 3), 200 + rng.normal(0, 3), 120 + rng.normal(0, 4)
        found = _found(x, y, side)
        (followed,) = _follow(follower, found)
        assert followed.number == 1
        raw.append([*_centre(found.roi), found.roi.w])
        smooth.append([*_centre(followed.roi), followed.roi.w])

    def moved(boxes: list[list[float]]) -> float:
        return float(np.abs(np.diff(np.array(boxes[10:]), axis=0)).mean())

    assert moved(smooth) < 0.35 * moved(raw)
    assert np.abs(np.mean(smooth, axis=0) - [300, 200, 120]).max() < 3


@pytest.mark.parametrize("speed", [2, 8, 15, 19, 20, 21, 40])
def test_a_moving_object_is_followed_closely(speed: int) -> None:
    follower = Follower()
    for step, x in enumerate(range(80, 560, speed)):
        (followed,) = _follow(follower, _found(x, 200, 100))
        assert followed.number == 1
        if step != 1:  # one large change may be an error
            assert abs(_centre(followed.roi)[0] - x) <= 12  # an eighth of its side: the margin of a region


def test_one_wrong_detection_hardly_moves_the_region() -> None:
    follower = Follower()
    for number in range(30):
        (followed,) = _follow(follower, _found(300, 200, 100 if number % 5 else 160))
        if number > 1:
            assert abs(followed.roi.w - 100) <= 25 and followed.number == 1


def test_an_object_that_is_missed_keeps_its_number_and_region_for_a_while() -> None:
    follower = Follower()
    (before,) = _follow(follower, _found(300, 200, 100))
    for _ in range(HELD_FRAMES):
        assert _follow(follower) == (before,)
    assert _follow(follower, _found(302, 201, 100))[0].number == 1
    for _ in range(HELD_FRAMES):
        _follow(follower)
    assert _follow(follower) == ()
    assert _follow(follower, _found(300, 200, 100))[0].number == 2


def test_it_stays_with_one_of_two_objects_at_the_same_distance() -> None:
    follower, rng = Follower(), np.random.default_rng(1)
    numbers = set()
    for _ in range(50):
        left, right = _found(150, 200, 100, 0.6 + rng.normal(0, 0.01)), _found(450, 200, 100, 0.6)
        pair = (left, right) if rng.random() < 0.5 else (right, left)
        numbers |= {one.number for one in _follow(follower, *pair)}
    assert len(numbers) == 1


def test_a_clearly_nearer_object_takes_its_place() -> None:
    follower = Follower()
    far, near = _found(150, 200, 100, 0.6), _found(450, 200, 100, 0.5)
    assert _centre(_follow(follower, far)[0].roi)[0] == 150
    assert _centre(_follow(follower, far, near)[0].roi)[0] == 450
    assert [one.number for one in _follow(follower, far, near)] == [2]


def test_objects_that_pass_each_other_keep_their_numbers() -> None:
    follower = Follower(2)
    for step in range(30):
        left, right = _found(100 + 12 * step, 120, 90, 0.5), _found(500 - 12 * step, 330, 90, 0.7)
        first, second = _follow(follower, right, left)
        assert (first.number, second.number) == (2, 1) or (step == 0 and {first.number, second.number} == {1, 2})
        assert _centre(first.roi)[1] < _centre(second.roi)[1]


BOXES = st.builds(
    _found, st.integers(0, 640), st.integers(0, 480), st.integers(1, 480), st.floats(0.1, 5, allow_nan=False)
)


@given(st.lists(st.lists(BOXES, max_size=5), max_size=12), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_any_objects_give_regions_inside_the_image_with_numbers_that_never_return(
    frames: list[list[Found]], num: int
) -> None:
    follower, gone, before = Follower(num), set(), set()
    absent: dict[int, int] = {}
    for found in frames:
        followed = _follow(follower, *found)
        numbers = [one.number for one in followed]
        assert len(numbers) == len(set(numbers)) <= num
        assert len(followed) >= min(num, len(found))
        for one in followed:
            x, y, w, h = one.roi
            assert 0 <= x <= x + w <= 640 and 0 <= y <= y + h <= 480 and w == h >= 1
        for number in before:
            absent[number] = 0 if number in numbers else absent.get(number, 0) + 1
        before |= set(numbers)
        gone |= {number for number, count in absent.items() if count > len(frames)}
        assert not gone & set(numbers)
