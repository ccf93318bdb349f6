"""Engines after a pause and over minutes: real calls, short pauses and short minutes."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from edgefuse.measure import Plan, Variant
from edgefuse_benchmarks.console import print_report
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.reporting.messages import warnings
from edgefuse_benchmarks.suites import engine as suite
from edgefuse_benchmarks.suites.engine_over_time import by_minute, first_calls_after_pauses

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=6, max_rounds=6)


def test_each_call_follows_a_pause_of_its_own() -> None:
    order: list[object] = []
    variants = [Variant(name=name, call=partial(order.append, name)) for name in ("a", "b")]
    group = first_calls_after_pauses(variants, num_calls=2, idle_s=7.0, pause=order.append)
    assert order == [7.0, "a", 7.0, "b", 7.0, "a", 7.0, "b"]
    assert [(one.name, len(one.samples_ns)) for one in group.series] == [("a", 2), ("b", 2)]
    assert (group.scope, group.name) == ("after a pause", "first call after 7 s")


def _over_minutes(first: dict[str, float], second: dict[str, float]) -> tuple[str, ...]:
    """The notes of two short minutes in which the calls take these seconds."""
    now = dict(first)

    def progress(done: int, total: int | None, /, *, stage: str = "") -> None:
        assert (total, stage) == (2, "minutes")
        now.update(second if done else first)

    variants = [Variant(name=name, call=lambda name=name: time.sleep(now[name])) for name in first]  # type: ignore[misc]
    group, notes = by_minute(variants, minutes=2, plan=PLAN, minute_s=0.2, progress=progress)
    assert group.name == "2 minutes" and all(one.turns_ns.shape == (2, 1) for one in group.series)
    for row, expected in zip(group.facts["minutes"], (first, second), strict=True):
        assert row["p50_ms"] == pytest.approx({name: 1000 * s for name, s in expected.items()}, rel=0.3)
        assert {"mhz", "temperatures_c", "throttle_events", "gpu_throttle"} < set(row)
    return notes


def test_a_changed_order_of_the_engines_is_said() -> None:
    order, slower, clocks = _over_minutes({"a": 0.004, "b": 0.008}, {"a": 0.016, "b": 0.008})
    assert order.startswith("the order of the engines CHANGED: a and b (minute 1: ")
    assert ", minute 2: " in order
    assert slower.startswith("slower in the last minute than in the first: a (")
    assert clocks.startswith("clocks and temperatures, first and last minute: ")


def test_the_same_order_is_said_too() -> None:
    order, _ = _over_minutes({"a": 0.02, "b": 0.01}, {"a": 0.02, "b": 0.0095})
    assert order == "the order of the engines did not change, fastest first: b; a"


def test_a_bundle_is_measured_over_minutes_with_its_peak_memory(
    bench_bundle: Path, colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "by_minute", partial(by_minute, minute_s=0.1))
    monkeypatch.setattr(suite, "first_calls_after_pauses", partial(first_calls_after_pauses, idle_s=0.01))
    report = suite.bench_engine(
        bench_bundle, camera=str(colour_and_range), threads=(1, 2), plan=PLAN, num_starts=1, num_pauses=2, minutes=3
    )
    by_scope = {group.scope: group for group in report.groups}
    # Of the first number of threads alone.
    assert [one.name for one in by_scope["each minute"].series] == ["onnxruntime, 1 thread"]
    assert [len(one.samples_ns) for one in by_scope["each minute"].series] == [3]
    assert [len(one.samples_ns) for one in by_scope["after a pause"].series] == [2]
    peak_bytes = by_scope["cold start"].facts["peak_bytes"]
    assert 50e6 < peak_bytes < 400e6  # a process with ONNX Runtime, and not the one that started it
    assert f"peak memory of a process with one engine: onnxruntime {peak_bytes / 1e6:.0f} MB" in report.notes
    assert not any("sample(s)" in text and "only 2" in text for text in warnings(report))
    save_plot(report, tmp_path / "plot.png")
    with (tmp_path / "text").open("w") as file:
        print_report(report, file=file)
    assert "scope each minute" in (tmp_path / "text").read_text()
