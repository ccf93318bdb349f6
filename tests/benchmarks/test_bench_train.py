"""The benchmark of the training step, on a small data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.measure import Plan
from edgefuse.training.recipe import TrainConfig
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.suites.train import KINDS, PREPARE, bench_train

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=30, max_rounds=30)


def test_each_kind_of_step_learns_and_is_timed(colour_and_range: Path, tmp_path: Path) -> None:
    report = bench_train([colour_and_range], config=TrainConfig(size=32, batch_size=8), plan=PLAN)
    (group,) = report.groups
    assert [one.name for one in group.series] == [*(kind.name for kind in KINDS), PREPARE]
    assert len({name for name, _, _ in ((one.numerator, one.median, one.low) for one in group.ratios)}) == len(KINDS)
    for kind in KINDS:
        first, last = group.facts["loss_first_and_last"][kind.name]
        assert last < first
        p50_ns = next(one for one in group.series if one.name == kind.name).summary().p50_ns
        assert group.facts["pairs_per_s"][kind.name] == pytest.approx(8 / p50_ns * 1e9, abs=0.1)
    assert len(group.facts["epoch_s"]) == 2 and min(group.facts["epoch_s"]) > 0
    save_plot(report, tmp_path / "train.png")
    assert (tmp_path / "train.png").stat().st_size > 1000
