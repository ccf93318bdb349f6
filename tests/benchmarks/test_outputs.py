"""What outputs of live cost: every way sees the same frames, and each output does its work meanwhile. Times are not checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.suites.outputs import COLLECT, NONE, VIEWERS, OutputsPlan, bench_outputs
from toy_bundle import make_toy_bundle

PLAN = OutputsPlan(num_rounds=1, num_frames=60, num_first=90, rate_hz=30)


@pytest.mark.slow
def test_each_way_takes_its_turns(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle", labels=("near", "middle", "far"))
    report = bench_outputs(bundle, ways=(NONE, COLLECT, VIEWERS), plan=PLAN, engine="cpu")
    (group,) = report.groups
    assert [one.name for one in group.series] == [NONE, COLLECT, VIEWERS]
    assert all(one.turns_ns.shape == (1, 60) and (one.turns_ns > 0).all() for one in group.series)
    done = report.parameters["done"]
    assert {way: len(numbers) for way, numbers in done.items()} == {COLLECT: 1, VIEWERS: 1}
    assert all(number > 0 for numbers in done.values() for number in numbers), done
    assert set(group.facts["p99_ratio"]) == {COLLECT, VIEWERS} and len(report.notes) == 2
    save_plot(report, tmp_path / "plot.png")
