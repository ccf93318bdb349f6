"""The decisions of a live run against the true classes of its recording, as a table.

edgefuse live BUNDLE --camera FILE.db3 --roi FILE.json --events-only --jsonl LOG
python -m edgefuse_benchmarks.suites.events LOG FILE.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from edgefuse.io.json_files import parse_json, read_json
from edgefuse.io.text import some_of


class Shown(NamedTuple):
    """An object of the recording: its class, and its first and last frame."""

    label: str
    first: int
    last: int


def objects_in(frames: Sequence[dict[str, Any]]) -> list[Shown]:
    """The objects of a regions file: frames in a row with one class are one object."""
    runs = [list(run) for _, run in groupby(frames, key=lambda frame: frame["label"])]
    return [Shown(run[0]["label"], run[0]["frame"], run[-1]["frame"]) for run in runs]


def table(objects: Sequence[Shown], decided: Sequence[dict[str, Any]]) -> list[str]:
    """Rows with the decisions for each object: those from its first frame to the frame before the next object's.

    Args:
        decided: details of the events "decided".
    """
    lines = ["| frames | shown | decided | probability | at frame | |", "|---|---|---|--:|--:|---|"]
    ends = [following.first for following in objects[1:]] + [objects[-1].last + 1]
    num_right = num_wrong = num_missed = num_more = 0
    for shown, end in zip(objects, ends, strict=True):
        own = [event for event in decided if shown.first <= event["frame"] < end]
        verdict = "missed"
        if own:
            verdict = (
                "right"
                if own[0]["label"] == shown.label
                else own[0]["label"]
                if own[0]["label"] == "unknown"
                else "wrong"
            )
        num_right, num_wrong = num_right + (verdict == "right"), num_wrong + (verdict == "wrong")
        num_missed, num_more = num_missed + (not own), num_more + max(len(own) - 1, 0)
        cells = [", ".join(str(event[name]) for event in own) or "-" for name in ("label", "frame")]
        probabilities = ", ".join(f"{event['probability']:.2f}" for event in own) or "-"
        lines.append(
            f"| {shown.first} to {shown.last} | {shown.label} | {cells[0]} | {probabilities} | {cells[1]} | {verdict} |"
        )
    num_unknown = len(objects) - num_right - num_wrong - num_missed
    lines += [
        "",
        f"{len(objects)} objects: {num_right} right, {num_wrong} wrong, {num_unknown} unknown, {num_missed} without a decision; {num_more} "
        f"decisions more than one for an object.",
    ]
    return lines


def main(log: str, regions: str) -> None:
    """Print the table."""
    lines = [parse_json(line, what=log) for line in Path(log).read_text().splitlines()]
    decided = [line["detail"] for line in lines if line.get("event") == "decided"]
    frames = read_json(Path(regions), what="the regions file", spec={"frames": [{"frame": int, "label": str}]})[
        "frames"
    ]
    print("\n".join(table(objects_in(frames), decided)))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(
            f"usage: python -m edgefuse_benchmarks.suites.events LOG FILE.json; got {some_of(sys.argv[1:] or ['nothing'])}"
        )
    main(sys.argv[1], sys.argv[2])
