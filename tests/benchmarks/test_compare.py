"""Comparison of two results: from their files, with known differences, and as a command with its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.errors import UserError
from edgefuse.measure import Series
from edgefuse_benchmarks.report import Group, Report, save
from edgefuse_benchmarks.reporting.compare import compare
from edgefuse_benchmarks.reporting.saved import read_report

MACHINE = {
    "cpu": {"model": "a chip", "cores_usable": 2},
    "gpus": [],
    "commit": "a" * 40,
    "versions": {"numpy": "2.0"},
    "load_average_1min": 0.1,
}
PARAMETERS = {"bundle": "cups", "files": {"model.onnx": {"sha256": "1" * 64}}, "threads": [1], "timer_overhead_ns": 50}


def result(
    *, seed: int, scale: float = 1.0, rounds: int = 100, names: tuple[str, ...] = ("a", "b"), **more: Any
) -> Report:
    rng = np.random.default_rng(seed)
    series = tuple(
        Series(name=name, turns_ns=(scale * rng.normal(1e6, 5e4, (rounds, 2))).astype(np.int64), first_call_ns=7)
        for name in names
    )
    one = Report(
        benchmark="engine",
        machine=MACHINE,
        parameters=PARAMETERS,
        parity=(),
        groups=(Group(scope="engine", name="one pair", series=series),),
    )
    return replace(one, **more)


def test_a_file_is_the_same_result_again(tmp_path: Path) -> None:
    from test_bench_report import REPORTS

    for name, one in REPORTS.items():
        again = read_report(save(one, tmp_path))
        for group, read in zip(one.groups, again.groups, strict=True):
            assert [s.name for s in group.series] == [s.name for s in read.series]
            assert all(np.array_equal(a.turns_ns, b.turns_ns) for a, b in zip(group.series, read.series, strict=True))
            assert read.series[0].first_call_ns == 10**6 and read.bytes_read == group.bytes_read
            assert [r.median for r in read.ratios] == pytest.approx([r.median for r in group.ratios], abs=1e-4)
        assert (again.benchmark, again.machine["cpu"]) == (name, one.machine["cpu"])


def test_equal_runs_are_within_the_spread_and_a_planted_difference_is_not() -> None:
    same = compare(result(seed=1), result(seed=2))
    assert {row.verdict for row in same.rows} == {"within the spread"} and same.differences == ()
    slower = compare(result(seed=1), result(seed=2, scale=1.1))
    for row in slower.rows:
        assert row.verdict == "slower" and row.low < 1.1 < row.high
        assert row.exceeds(1.05) and not row.exceeds(1.1)
        assert row.second.p50_ns / row.first.p50_ns == row.ratio
    assert {row.verdict for row in compare(result(seed=1, scale=1.1), result(seed=2)).rows} == {"faster"}


def test_the_interval_holds_the_true_ratio_although_neighbouring_rounds_are_alike() -> None:
    """Rounds that drift: an interval over single rounds would be far too narrow, and would miss the truth in most runs."""

    def drifting(seed: int) -> Report:
        rng = np.random.default_rng(seed)
        level, levels = 0.0, []
        for step in rng.normal(0, 1, 400):
            level = 0.9 * level + step
            levels.append(1e6 + 2e4 * level)
        series = Series(name="a", turns_ns=np.array(levels, np.int64)[:, np.newaxis])
        return replace(result(seed=0), groups=(Group(scope="engine", name="", series=(series,)),))

    rows = [compare(drifting(2 * k), drifting(2 * k + 1)).rows[0] for k in range(20)]
    assert sum(row.low <= 1 <= row.high for row in rows) >= 15


def test_few_rounds_give_no_verdict() -> None:
    (row, _) = compare(result(seed=1, rounds=3), result(seed=2, rounds=100, scale=3)).rows
    assert row.verdict == "too few rounds" and not row.exceeds(1.0)


def test_what_else_differs_is_in_the_first_lines() -> None:
    other = {
        **MACHINE,
        "cpu": {"model": "another chip", "cores_usable": 2},
        "commit": "b" * 40,
        "versions": {"numpy": "2.1"},
    }
    files = {"model.onnx": {"sha256": "2" * 64}}
    found = compare(
        result(seed=1),
        result(
            seed=1, machine=other, parameters={**PARAMETERS, "files": files, "threads": [4], "timer_overhead_ns": 60}
        ),
    )
    assert list(found.differences) == [
        "another machine: a chip, 2 core(s) -> another chip, 2 core(s)",
        "another commit: aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "another bundle: cups (11111111) -> cups (22222222)",
        "other settings: threads",
        "other versions: numpy 2.0 -> 2.1",
    ]


def test_series_of_one_result_only_are_listed_and_nothing_in_common_is_refused() -> None:
    found = compare(result(seed=1), result(seed=2, names=("b", "c")))
    assert [row.name for row in found.rows] == ["b"]
    assert (found.only_first, found.only_second) == (("one pair: a",), ("one pair: c",))
    with pytest.raises(UserError, match="no series in common"):
        compare(result(seed=1), result(seed=2, names=("c",)))
    with pytest.raises(UserError, match="first result is of bench engine, the second of bench live"):
        compare(result(seed=1), result(seed=2, benchmark="live"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema version 2, this edgefuse reads version 1: measure again"),
        ({"schema": None}, "schema version None"),
        ({"groups": None}, "groups"),
        ({"notes": "text"}, "notes"),
        ({"benchmark": None}, "benchmark"),
    ],
)
def test_other_files_are_refused_in_words(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = save(result(seed=1), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words) as refused:
        read_report(path)
    assert str(path) in str(refused.value)


def test_damaged_samples_and_the_output_of_json_are_refused(tmp_path: Path) -> None:
    path = save(result(seed=1), tmp_path)
    kept = json.loads(path.read_text())
    series = kept["groups"][0]["series"][0]
    for samples in ([], [1, "x"], [1, 2, 3], [-1, 2], [10**30, 1], None):
        path.write_text(
            json.dumps({**kept, "groups": [{**kept["groups"][0], "series": [{**series, "samples_ns": samples}]}]})
        )
        with pytest.raises(UserError, match="not times in nanoseconds"):
            read_report(path)
    path.write_text(json.dumps(result(seed=1).to_json(raw=False)))
    with pytest.raises(UserError, match="output of --json"):
        read_report(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a result of edgefuse bench"):
        read_report(path)


def bench_compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgefuse", "bench", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_a_table_and_its_exit_code_is_for_ci(tmp_path: Path) -> None:
    first, second = (str(save(result(seed=k, scale=1 + 0.2 * k), tmp_path)) for k in (0, 1))
    plain = bench_compare(first, second)
    assert plain.returncode == 0 and plain.stderr == ""
    assert "same machine, commit, bundle, settings and versions" in plain.stdout.splitlines()[1]
    (row,) = [line.split() for line in plain.stdout.splitlines() if line.startswith("one pair: a")]
    assert row[-1] == "slower" and float(row[-4 - 1]) == pytest.approx(1.2, abs=0.03)
    allowed = bench_compare(first, second, "--fail-above", "1.3", "--json")
    assert allowed.returncode == 0 and json.loads(allowed.stdout)["rows"][0]["verdict"] == "slower"
    refused = bench_compare(first, second, "--fail-above", "1.1")
    assert refused.returncode == 3 and "2 series slower than 1.1 times" in refused.stderr
    assert bench_compare(first, str(tmp_path / "none.json")).returncode == 1
