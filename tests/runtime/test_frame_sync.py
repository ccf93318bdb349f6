"""With any sequence of frame numbers, each pair is counted once, and no old image is paired with a new one."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse_runtime.cameras.frame_sync import MAX_LATE, REORDERED, FrameSync

_pixels = itertools.count()


@dataclass(frozen=True)
class Shot:
    """An image. Two of them differ unless `pixels` is equal."""

    number: int
    timestamp_ms: float = 0.0
    pixels: int = field(default_factory=lambda: next(_pixels))

    def has_equal_pixels(self, other: Shot) -> bool:
        return self.pixels == other.pixels


Frameset = tuple[Shot, Shot]


def _count(framesets: list[Frameset], period_ms: float = math.inf) -> tuple[FrameSync[Shot], list[Frameset]]:
    frame_sync: FrameSync[Shot] = FrameSync(period_ms=period_ms)
    fresh = []
    for color, depth in framesets:
        if frame_sync.is_fresh(color=color, depth=depth):
            fresh.append((color, depth))
        counters = frame_sync.counters
        assert counters.received == counters.delivered + counters.dropped + counters.stale
        assert min(counters.delivered, counters.dropped, counters.stale) >= 0
    return frame_sync, fresh


def _numbered(pairs: list[tuple[int, int]], *, timed: bool) -> list[Frameset]:
    """Framesets with these numbers. A number that repeats immediately is the same image, as from the pipeline."""
    streams = []
    for numbers in zip(*pairs, strict=True):
        shots: list[Shot] = []
        for number in numbers:
            repeats = shots and shots[-1].number == number
            shots.append(shots[-1] if repeats else Shot(number, number * 33.3 if timed else 0.0))
        streams.append(shots)
    return list(zip(streams[0], streams[1], strict=True))


@pytest.mark.parametrize("timed", [True, False], ids=["with times", "without times"])
@pytest.mark.parametrize(
    ("pairs", "received", "delivered", "dropped", "stale"),
    [
        pytest.param([(1, 1), (2, 2), (3, 3)], 3, 3, 0, 0, id="nothing is lost"),
        pytest.param([(162, 170), (163, 171)], 2, 2, 0, 0, id="streams with different numbers"),
        pytest.param([(5, 5), (9, 9)], 5, 2, 3, 0, id="a gap in both"),
        pytest.param([(1, 1), (1, 2), (1, 3), (4, 4)], 4, 2, 0, 2, id="colour number constant"),
        pytest.param([(1, 1), (2, 1), (3, 3)], 3, 2, 0, 1, id="depth number constant"),
        pytest.param([(1, 1), (1, 1), (2, 2)], 2, 2, 0, 0, id="the same pair again"),
        pytest.param([(9, 9), (9, 10), (9, 11), (11, 11), (12, 12)], 4, 3, 0, 1, id="a late image that arrives later"),
        pytest.param([(1, 1), (2, 3), (3, 5), (4, 7)], 7, 4, 3, 0, id="colour at half the rate"),
        pytest.param([(8, 8), (9, 9), (1, 1), (2, 2)], 4, 4, 0, 0, id="a camera that restarts"),
        pytest.param([(98, 98), (1, 98), (1, 1), (2, 2)], 3, 3, 0, 0, id="a camera that restarts, colour first"),
        pytest.param([(10, 10), (9, 11), (12, 12)], 3, 2, 0, 1, id="an old colour image that comes late"),
        pytest.param([(10, 10), (11, 9), (12, 12)], 3, 2, 0, 1, id="an old depth image that arrives late"),
        pytest.param([(10, 10), (8, 8), (11, 11)], 2, 2, 0, 0, id="an old pair that comes late"),
        pytest.param([(2**32 - 2, 7), (2**32 - 1, 8), (0, 9), (1, 10)], 4, 4, 0, 0, id="32 bits that wrap around"),
        pytest.param([(2**32 - 1, 8), (2, 11)], 4, 2, 2, 0, id="a gap around the wrap"),
        pytest.param([(2**32 - 1, 8), (0, 9), (2**32 - 1, 10), (2, 11)], 4, 3, 0, 1, id="late around the wrap"),
        pytest.param([(7, 7), (2**40, 8), (2**40 + 1, 9)], 3, 3, 0, 0, id="another base is no gap of 2**40"),
    ],
)
def test_counts(
    pairs: list[tuple[int, int]], received: int, delivered: int, dropped: int, stale: int, timed: bool
) -> None:
    counters = _count(_numbered(pairs, timed=timed))[0].counters
    assert (counters.received, counters.delivered, counters.dropped, counters.stale) == (
        received,
        delivered,
        dropped,
        stale,
    )


@pytest.mark.parametrize("step_ms", [33.3, 0.0], ids=["later times", "no times: pixels are compared"])
def test_constant_frame_numbers_are_pairs(step_ms: float) -> None:
    framesets = [(Shot(0, i * step_ms), Shot(0, i * step_ms)) for i in range(40)]
    frame_sync, fresh = _count(framesets)
    assert (frame_sync.counters.received, len(fresh)) == (40, 40)
    stalled = [(framesets[-1][0], Shot(0, (40 + i) * step_ms)) for i in range(5)]
    assert _count(framesets + stalled)[0].counters.stale == 5


def test_the_same_image_in_another_buffer_is_the_same() -> None:
    """As if playback repeats a message (librealsense#13324)."""
    color, depth = Shot(5, 100.0, pixels=-1), Shot(5, 100.0, pixels=-2)
    again = Shot(5, 100.0, pixels=-1)
    frame_sync, fresh = _count([(color, depth), (again, Shot(6, 133.0))])
    assert (len(fresh), frame_sync.counters.stale) == (1, 1)


def test_an_equal_number_with_other_pixels_and_a_later_time_is_a_new_image() -> None:
    """As observed on JetPack 7.2 with GMSL cameras: 562 of 3561."""
    numbers = [1, 1, 2, 3, 3, 4]
    frame_sync, fresh = _count([(Shot(number, 33.3 * i), Shot(i, 33.3 * i)) for i, number in enumerate(numbers)])
    assert (frame_sync.counters.received, len(fresh)) == (6, 6)


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("colour_lags", [True, False])
def test_a_stream_that_lags_by_complete_frames_gives_no_pair(lag: int, colour_lags: bool) -> None:
    pairs = [(Shot(0, i * 33.3), Shot(i + lag, (i + lag) * 33.3)) for i in range(40)]
    frame_sync, fresh = _count([pair if colour_lags else pair[::-1] for pair in pairs], period_ms=1000 / 30)
    assert not fresh and frame_sync.counters.stale == 40


@pytest.mark.parametrize("offset_ms", [0.0, 16.0, -16.0, 24.0, 2000.0, -2000.0])
def test_streams_with_a_constant_offset_are_pairs(offset_ms: float) -> None:
    framesets = [(Shot(i, 1e6 + i * 33.3), Shot(i, 1e6 + i * 33.3 + offset_ms)) for i in range(40)]
    assert len(_count(framesets, period_ms=1000 / 30)[1]) == 40


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_timestamps_of_one_stream_are_ignored(constant: int) -> None:
    framesets = [tuple(Shot(i, 0.0 if stream == constant else i * 33.3) for stream in (0, 1)) for i in range(40)]
    assert len(_count(framesets, period_ms=1000 / 30)[1]) == 40  # type: ignore[arg-type]


def test_a_clock_that_jumps_costs_one_second_of_pairs() -> None:
    """After its wrap, a camera's clock may differ by one frame for hours, while both streams advance."""
    period_ms = 1000 / 30
    framesets = [
        (Shot(n, n * period_ms), Shot(n, n * period_ms + (0 if n < 10 else 1.5 * period_ms))) for n in range(200)
    ]
    frame_sync, fresh = _count(framesets, period_ms=period_ms)
    assert len(fresh) == 200 - MAX_LATE and frame_sync.counters.stale == MAX_LATE


def test_one_stream_that_restarts_is_accepted_after_a_second() -> None:
    """Its timestamps restart too, so that its images seem late; after a second of them they count as new."""
    before = [(Shot(500 + i, 5000.0 + i), Shot(i, i * 33.3)) for i in range(5)]
    after = [(Shot(i, float(i)), Shot(5 + i, (5 + i) * 33.3)) for i in range(60)]
    frame_sync, fresh = _count(before + after)
    assert frame_sync.counters.stale == MAX_LATE
    assert len(fresh) == 5 + 60 - MAX_LATE


def test_a_late_image_that_is_repeated_never_becomes_new() -> None:
    late = Shot(8, 8.0)
    framesets = [(Shot(10, 10.0), Shot(10, 10.0)), *((late, Shot(11 + i, 11.0 + i)) for i in range(3 * MAX_LATE))]
    frame_sync, fresh = _count(framesets)
    assert len(fresh) == 1 and frame_sync.counters.stale == 3 * MAX_LATE


@st.composite
def _streams(draw: st.DrawFn) -> list[Frameset]:
    """Framesets of a camera with the pairs (n, n), of which either image may be repeated, dropped, or late.

    Numbers increase, wrap around, stay constant, or restart in both streams. Times are correct, or constant if numbers increase.
    """
    numbering = draw(st.sampled_from(["count", "wrap", "constant", "restart"]))
    timed = numbering in ("constant", "restart") or draw(st.booleans())
    base = {
        "count": draw(st.integers(0, 1000)),
        "wrap": 2**32 - draw(st.integers(1, 20)),
        "constant": 0,
        "restart": 900,
    }
    restarts_at = draw(st.integers(10, 30))
    shots: dict[tuple[int, int], Shot] = {}

    def shot(stream: int, moment: int) -> Shot:
        number = (base[numbering] + moment + 50 * stream) % 2**32
        if numbering == "constant":
            number = 0
        if numbering == "restart" and moment >= restarts_at:
            number = moment - restarts_at
        return shots.setdefault((stream, moment), Shot(number, moment * 33.3 if timed else 0.0, pixels=moment))

    seen = [0, 0]
    framesets = [(shot(0, 0), shot(1, 0))]
    moment = 0
    for _ in range(draw(st.integers(1, 40))):
        moment += draw(st.integers(1, 3))
        pair = []
        for stream in (0, 1):
            fate = draw(st.sampled_from(["new", "new", "new", "stalled", "late"]))
            shown = {
                "new": moment,
                "stalled": seen[stream],
                "late": max(seen[stream] - draw(st.integers(1, REORDERED)), 0),
            }[fate]
            if numbering == "restart" and (shown < restarts_at) != (seen[stream] < restarts_at):
                shown = max(shown, seen[stream])  # a restarted camera has no earlier images
            seen[stream] = max(seen[stream], shown)
            pair.append(shot(stream, shown))
        framesets.append((pair[0], pair[1]))
    return framesets


@given(_streams())
def test_no_old_image_is_paired_with_a_new_one(framesets: list[Frameset]) -> None:
    """`pixels` is the capture time: in a fresh pair both images are newer than all earlier ones."""
    frame_sync, fresh = _count(framesets)
    for stream in (0, 1):
        moments = [pair[stream].pixels for pair in fresh]
        assert all(now > before for before, now in itertools.pairwise(moments))
    assert frame_sync.counters.delivered == len(fresh)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40), st.booleans())
def test_every_pair_is_counted_once(steps: list[tuple[int, int]], timed: bool) -> None:
    """The stream that advanced further since the last fresh pair counts the pairs, even if streams stall and skip."""
    pairs = [(7, 90)]
    for color_step, depth_step in steps:
        pairs.append((pairs[-1][0] + color_step, pairs[-1][1] + depth_step))
    frame_sync, fresh = _count(_numbered(pairs, timed=timed))
    numbers = [(color.number, depth.number) for color, depth in fresh]
    between = [max(now[0] - last[0], now[1] - last[1]) for last, now in itertools.pairwise([*numbers, pairs[-1]])]
    assert frame_sync.counters.received == 1 + sum(between)
    assert all(now[0] > last[0] and now[1] > last[1] for last, now in itertools.pairwise(numbers))
