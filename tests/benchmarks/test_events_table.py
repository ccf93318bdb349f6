"""The table of a run's decisions against the true classes."""

from __future__ import annotations

from typing import Any

from edgefuse_benchmarks.suites.events import Shown, objects_in, table


def _decided(frame: int, label: str) -> dict[str, Any]:
    return {"frame": frame, "label": label, "probability": 0.9}


def test_frames_in_a_row_with_one_class_are_one_object() -> None:
    frames = [{"frame": n, "label": label} for n, label in enumerate("aabba", start=1)]
    assert objects_in(frames) == [Shown("a", 1, 2), Shown("b", 3, 4), Shown("a", 5, 5)]


def test_every_object_is_right_wrong_unknown_or_missed() -> None:
    objects = [Shown("a", 1, 5), Shown("b", 8, 12), Shown("c", 13, 17), Shown("d", 18, 22)]
    decided = [_decided(3, "a"), _decided(7, "b"), _decided(10, "a"), _decided(15, "unknown")]
    *lines, _, summary = table(objects, decided)
    assert lines[2] == "| 1 to 5 | a | a, b | 0.90, 0.90 | 3, 7 | right |"  # up to the frame before the next object
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["right", "wrong", "unknown", "missed"]
    assert (
        summary
        == "4 objects: 1 right, 1 wrong, 1 unknown, 1 without a decision; 1 decisions more than one for an object."
    )
