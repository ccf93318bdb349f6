"""README's performance table is what the script makes from the committed results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_report import REPORTS

from edgefuse.errors import UserError
from edgefuse_benchmarks.readme_table import BEGIN, END, README, ROOT, main, table, with_table
from edgefuse_benchmarks.report import save

OF = "gated, small + scratch, 64 px"


def test_readme_is_up_to_date() -> None:
    readme = (ROOT / README).read_text(encoding="utf-8")
    assert readme == with_table(readme, table()), "run: python -m edgefuse_benchmarks.readme_table"


def test_the_newest_result_of_each_folder_is_shown(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks/results"
    live = REPORTS["live"]
    older = replace(live, machine={**live.machine, "date_utc": "2025-01-01"})
    reference = replace(live.groups[1], name="reference, paced")
    newer = replace(
        live, groups=(live.groups[0],), notes=("the machine was busy: other processes used 1.25 of 2 core(s)",)
    )
    saved = (
        (newer, results),
        (older, results),
        (replace(older, groups=(*live.groups, reference)), results / "a_board"),
        (REPORTS["core"], results),
    )
    newest, _, on_board, core = (save(one, folder).relative_to(results).as_posix() for one, folder in saved)
    (results / "other.json").write_text("{}")
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"before\n{BEGIN}\n| |") and text.endswith(f"{END}\nafter\n") and "old" not in text
    rows = re.findall(r"^\| \[([^]]+)\]\(benchmarks/results/(\S+)\): ([^|]+) \|([^|]+)\|([^|]+)\|", text, re.MULTILINE)
    assert [row[:3] for row in rows] == [
        ("live, frame to result", on_board, f"paced; {OF}"),
        ("live, frame to result", newest, f"back to back; {OF}"),
        ("fusion core, d=512", core, "gated, torch, 1 thread"),
    ]
    assert [("busy machine" in line) for line in text.splitlines() if "live, " in line] == [False, True]
    assert all(re.fullmatch(r" [\d.]+ (µs|ms) ", time) for row in rows for time in row[3:])
    with pytest.raises(UserError, match="lacks the lines"):
        with_table("no comments", "")


def test_an_engine_is_shown_from_complete_frames_and_not_by_its_core(tmp_path: Path) -> None:
    engine = REPORTS["engine"]
    frames = replace(engine.groups[0], scope="raw frame", name="640x480")
    core = replace(REPORTS["core"].groups[0], name="of this bundle: d = 128")
    save(replace(engine, groups=(*engine.groups, frames, core)), tmp_path / "benchmarks/results")
    (row,) = table(tmp_path).splitlines()[2:]
    fastest = min(frames.series, key=lambda one: one.summary().p50_ns)
    assert row.startswith("| [raw frame](") and f": {fastest.name}; " in row
