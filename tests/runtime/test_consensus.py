"""Decisions over time: one appearance, one decision and one departure per object, for any sequence of answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.answers import NONE, UNKNOWN
from edgefuse_runtime.decisions.consensus import Consensus, Seen, Status
from edgefuse_runtime.decisions.events import Appeared, Decided, Left, ObjectEvent, event_detail

LETTERS = {"A": "mug", "B": "bottle", "?": UNKNOWN, ".": NONE, "-": None}


def _events(text: str, *, agree: int = 3, of: int = 5, is_followed: bool = False) -> list[ObjectEvent]:
    """The events of a region whose answers are the letters of `text`, frames 0, 1, 2, ..."""
    consensus = Consensus(agree=agree, of=of)
    events = []
    for frame, letter in enumerate(text):
        seen = Seen(0, LETTERS[letter], 0.9, (1, 2, 3, 4), 0.5, is_followed=is_followed)
        events += consensus.update([seen], frame=frame)
    return events


def _short(events: Sequence[ObjectEvent]) -> str:
    return " ".join(
        f"{event.event[0]}{event.object}@{event.frame}{'' if isinstance(event, Appeared) else f'={event.label}'}"
        for event in events
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("AA", ""),  # too few
        ("AAAAAAAAA", "a1@2 d1@2=mug"),
        ("..A..A..A..", ""),  # never three of five
        ("A.A.A", "a1@4 d1@4=mug"),
        ("AAABAAABAAAA", "a1@2 d1@2=mug"),  # single outliers
        ("AAA.A.AA..AA", "a1@2 d1@2=mug"),  # seen again before five frames without it
        ("AAA.....", "a1@2 d1@2=mug l1@2=mug"),
        ("AAA.....AAA", "a1@2 d1@2=mug l1@2=mug a2@10 d2@10=mug"),
        ("AAAAABBBBB", "a1@2 d1@2=mug l1@4=mug a2@7 d2@7=bottle"),  # without a gap
        ("ABABABABABABA", "a1@2 d1@4=mug"),  # neither is absent from the last three
        ("ABAB", "a1@2"),  # something, but what?
        ("AB?.....", "a1@2 l1@2=None"),
        ("???AAAAA", "a1@2 d1@2=unknown d1@5=mug"),  # recognised later: the same object
        ("AAAAA?????", "a1@2 d1@2=mug l1@4=mug a2@7 d2@7=unknown"),
        ("A-A-A", "a1@4 d1@4=mug"),  # frames without a decision do not count
        ("AAA-----.....", "a1@2 d1@2=mug l1@2=mug"),
    ],
)
def test_events_of_a_fixed_region(text: str, expected: str) -> None:
    assert _short(_events(text)) == expected


def test_a_followed_object_stays_the_same_when_its_answer_changes() -> None:
    events = _events("AAAAABBBBB.....", is_followed=True)
    assert _short(events) == "a1@2 d1@2=mug d1@7=bottle l1@9=bottle"
    assert isinstance(events[2], Decided) and events[2].previous == "mug"
    assert isinstance(events[3], Left) and events[3].num_seen == 10


def test_counts_of_objects_that_follow_without_a_gap() -> None:
    left = [event for event in _events("AAAAABBBBBBB.....") if isinstance(event, Left)]
    assert [(event.num_seen, event.label, event.frame) for event in left] == [(5, "mug", 4), (7, "bottle", 11)]


def test_an_event_has_what_a_line_needs() -> None:
    consensus = Consensus(agree=2, of=4)
    consensus.update([Seen(7, "mug", 0.6, (1, 2, 3, 4), 0.5)], frame=10)
    consensus.update([Seen(7, "bottle", 0.9, (1, 2, 3, 4), 0.5)], frame=11)
    events = consensus.update([Seen(7, "mug", 0.8, (5, 6, 7, 8), 0.61)], frame=12)
    assert [event_detail(event) for event in events] == [
        {
            "object": 1,
            "region": 7,
            "frame": 12,
            "roi": [5, 6, 7, 8],
            "nearest_m": 0.61,
            "label": "mug",
            "probability": 0.7,
            "num_agreed": 2,
            "num_frames": 3,
            "previous": None,
        }
    ]
    assert events[0].message == "object 1 is mug (0.70, 2 of 3 frames), 0.61 m away"
    assert consensus.status(7) == Status(1, "mug") and consensus.status(8) == Status()


def test_regions_are_independent_and_a_missing_region_is_empty() -> None:
    consensus = Consensus(agree=2, of=2)
    events = []
    for frame in range(6):
        seen = [Seen(1, "mug", 0.9)] if frame < 4 else []
        events += consensus.update([*seen, *([Seen(2, "bottle", 0.8)] if frame > 1 else [])], frame=frame)
    assert _short(events) == "a1@1 d1@1=mug a2@3 d2@3=bottle l1@3=mug"
    assert consensus.status(1) == Status()


ANSWERS = st.text(alphabet="AB?.-", max_size=60)
WINDOWS = st.integers(1, 6).flatmap(lambda of: st.tuples(st.integers(1, of), st.just(of)))


@given(ANSWERS, WINDOWS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_every_object_appears_once_then_is_decided_then_leaves(
    text: str, window: tuple[int, int], is_followed: bool
) -> None:
    agree, of = window
    events = _events(text, agree=agree, of=of, is_followed=is_followed)
    present: int | None = None
    appeared = 0
    for event in events:
        if isinstance(event, Appeared):
            appeared += 1
            assert event.object == appeared and present is None  # one at a time
            present, label = event.object, None
        elif isinstance(event, Decided):
            assert event.object == present and event.previous == label != event.label
            assert event.num_agreed >= agree and event.num_frames <= of
            counted = [letter for letter in text[: event.frame + 1] if letter != "-"][-of:]
            assert [LETTERS[letter] for letter in counted].count(event.label) == event.num_agreed
            label = event.label
        else:
            assert event.object == present and event.label == label and event.num_seen >= agree
            present = None
    assert [event.frame for event in events if not isinstance(event, Left)] == sorted(
        event.frame for event in events if not isinstance(event, Left)
    )
    seen_in_all = sum(event.num_seen for event in events if isinstance(event, Left))
    assert seen_in_all <= sum(letter in "AB?" for letter in text)


@given(ANSWERS, WINDOWS)
@settings(max_examples=200, deadline=None)
def test_frames_without_a_decision_change_nothing(text: str, window: tuple[int, int]) -> None:
    agree, of = window
    with_them, without = _events(text, agree=agree, of=of), _events(text.replace("-", ""), agree=agree, of=of)
    assert [(event.event, event.object) for event in with_them] == [(event.event, event.object) for event in without]


@given(WINDOWS, st.integers(0, 30), st.integers(0, 30))
def test_one_decision_for_an_object_of_any_duration(window: tuple[int, int], num: int, gap: int) -> None:
    agree, of = window
    events = _events("A" * num + "." * gap, agree=agree, of=of)
    expected = ["appeared", "decided", "left"] if gap >= of else ["appeared", "decided"]
    assert [event.event for event in events] == (expected if num >= agree else [])
