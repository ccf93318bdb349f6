from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse_runtime.cameras.tally import Tally


def _count(pairs: list[tuple[int, int]]) -> tuple[Tally, list[tuple[int, int]]]:
    tally = Tally()
    fresh = [pair for pair in pairs if tally.is_fresh(color_number=pair[0], depth_number=pair[1])]
    return tally, fresh


@pytest.mark.parametrize(
    ("pairs", "received", "delivered", "dropped", "stale"),
    [
        pytest.param([(1, 1), (2, 2), (3, 3)], 3, 3, 0, 0, id="nothing is lost"),
        pytest.param([(162, 170), (163, 171)], 2, 2, 0, 0, id="streams that count apart"),
        pytest.param([(5, 5), (9, 9)], 5, 2, 3, 0, id="a gap in both"),
        pytest.param([(1, 1), (1, 2), (1, 3), (4, 4)], 4, 2, 0, 2, id="colour stands still"),
        pytest.param([(1, 1), (2, 1), (3, 3)], 3, 2, 0, 1, id="depth stands still"),
        pytest.param([(1, 1), (1, 1), (2, 2)], 2, 2, 0, 0, id="the same pair again"),
        pytest.param([(9, 9), (9, 10), (9, 11), (11, 11), (12, 12)], 4, 3, 0, 1, id="a late half that comes after all"),
        pytest.param([(1, 1), (2, 3), (3, 5), (4, 7)], 7, 4, 3, 0, id="colour at half the rate"),
        pytest.param([(8, 8), (9, 9), (1, 1), (2, 2)], 4, 4, 0, 0, id="a camera that starts again"),
    ],
)
def test_counts(pairs: list[tuple[int, int]], received: int, delivered: int, dropped: int, stale: int) -> None:
    counters = _count(pairs)[0].counters
    assert (counters.received, counters.delivered, counters.dropped, counters.stale) == (
        received,
        delivered,
        dropped,
        stale,
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_every_pair_is_accounted_for(steps: list[tuple[int, int]]) -> None:
    """Each place in the faster stream's count has one fate, however the streams stall and skip."""
    pairs = [(7, 90)]
    for color_step, depth_step in steps:
        pairs.append((pairs[-1][0] + color_step, pairs[-1][1] + depth_step))
    tally, fresh = _count(pairs)
    places = [max(color - 7, depth - 90) for color, depth in pairs]
    fresh_places = {max(color - 7, depth - 90) for color, depth in fresh}
    counters = tally.counters
    assert counters.received == places[-1] + 1
    assert counters.delivered == len(fresh) == len(fresh_places)
    assert counters.stale == len(set(places) - fresh_places)
    assert counters.dropped == len(set(range(places[-1] + 1)) - set(places))
    assert all(now[0] > last[0] and now[1] > last[1] for last, now in itertools.pairwise(fresh))
