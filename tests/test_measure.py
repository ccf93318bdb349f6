"""Timing: what is timed, in which order, which samples are kept, and when nothing is measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.measure import ParityError, Plan, Series, Variant, measure, ratio, summarise, timer_overhead_ns


def plan(*, rounds: int, warmup_calls: int = 0) -> Plan:
    return Plan(
        warmup_s=0.0, min_warmup_calls=warmup_calls, measure_s=0.0, min_rounds=rounds, max_rounds=rounds, seed=3
    )


def agree() -> Sequence[str]:
    return ()


def series(name: str, turns_ns: object) -> Series:
    return Series(name=name, turns_ns=np.array(turns_ns, np.int64))


class Recorder:
    """Calls that record their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def call(self, name: str) -> Callable[[], object]:
        return lambda: self.names.append(name)


@given(st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=300))
def test_figures_are_numpys_of_all_samples(samples: list[int]) -> None:
    found = summarise(np.array(samples, np.int64))
    assert found.count == len(samples)
    assert (found.min_ns, found.max_ns) == (min(samples), max(samples))
    for q, value in ((50, found.p50_ns), (95, found.p95_ns), (99, found.p99_ns)):
        assert value == pytest.approx(np.percentile(samples, q))
    assert found.mean_ns == pytest.approx(np.mean(samples))
    assert found.cv == pytest.approx(np.std(samples) / np.mean(samples))


def test_every_round_has_one_turn_of_each_variant_in_changing_order() -> None:
    recorder = Recorder()
    names = ("a", "b", "c")
    variants = [Variant(name=name, call=recorder.call(name), calls_per_turn=2, settle_calls=1) for name in names]
    found = measure(variants, plan=plan(rounds=12, warmup_calls=4), check=agree)
    first, warm_up, rounds = recorder.names[:3], recorder.names[3:15], recorder.names[15:]
    assert first == [*names]
    assert warm_up == [name for name in names for _ in range(4)]
    turns = [rounds[i : i + 3] for i in range(0, len(rounds), 3)]  # one settling call and two timed ones
    assert all(len(set(turn)) == 1 for turn in turns)
    orders = ["".join(turn[0] for turn in turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(orders) == 12
    assert all(sorted(order) == [*names] for order in orders)
    assert len(set(orders)) > 2
    assert [(one.name, one.turns_ns.shape) for one in found] == [(name, (12, 2)) for name in names]


def test_nothing_is_measured_after_a_failed_check() -> None:
    recorder = Recorder()
    variants = [Variant(name=name, call=recorder.call(name)) for name in ("a", "b")]
    with pytest.raises(ParityError, match="b is off by 3"):
        measure(variants, plan=plan(rounds=5), check=lambda: ["b is off by 3"])
    assert recorder.names == ["a", "b"]
    assert gc.isenabled()


def test_twice_the_time_is_a_ratio_of_two() -> None:
    variants = [
        Variant(name="long", call=lambda: time.sleep(0.004)),
        Variant(name="short", call=lambda: time.sleep(0.002)),
    ]
    long, short = measure(variants, plan=plan(rounds=40), check=agree)
    found = ratio(long, short)
    assert 1.5 < found.median < 2.5
    assert found.low <= found.median <= found.high
    assert found.p5 <= found.low
    assert found.high <= found.p95
    assert (found.numerator, found.denominator, found.num_rounds) == ("long", "short", 40)
    assert long.summary().min_ns >= 4e6


def test_a_drift_of_the_machine_cancels_in_the_ratio() -> None:
    rng = np.random.default_rng(0)
    drift = np.linspace(1e6, 1e7, 200)[:, np.newaxis]
    short = series("short", drift * rng.uniform(0.95, 1.05, (200, 5)))
    long = series("long", 3 * drift * rng.uniform(0.95, 1.05, (200, 5)))
    found = ratio(long, short)
    assert found.median == pytest.approx(3, abs=0.05)
    assert found.high - found.low < 0.06
    assert long.summary().cv > 0.4


def test_the_coverage_of_the_interval_is_about_95_percent() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        above, below = (
            series(name, rng.lognormal(np.log(mean_ns), 0.2, (50, 1))) for name, mean_ns in (("a", 2e6), ("b", 1e6))
        )
        found = ratio(above, below)
        hits += found.low <= 2 <= found.high
    assert 0.85 <= hits / 60 <= 0.999


def test_ratios_need_common_rounds() -> None:
    with pytest.raises(ValueError, match="not measured together"):
        ratio(series("a", [[1], [2]]), series("b", [[1]]))


def test_the_longest_call_is_kept_and_the_first_is_separate() -> None:
    durations_s = iter([0.02, 0.0, 0.0, 0.03, 0.0, 0.0])
    (found,) = measure(
        [Variant(name="a", call=lambda: time.sleep(next(durations_s)))], plan=plan(rounds=5), check=agree
    )
    summary = found.summary()
    assert found.first_call_ns is not None
    assert found.first_call_ns >= 20e6
    assert summary.max_ns >= 30e6
    assert summary.p50_ns < 10e6
    assert int(found.samples_ns.argmax()) == 2


def test_waiting_counts_and_preparing_does_not() -> None:
    on_device = Variant(name="on a device", call=lambda: None, wait=lambda: time.sleep(0.003))
    prepared = Variant(name="prepared", call=lambda: None, prepare=lambda: time.sleep(0.003))
    waited, called = measure([on_device, prepared], plan=plan(rounds=10), check=agree)
    assert waited.summary().min_ns >= 3e6
    assert called.summary().p50_ns < 1e6


def test_earlier_queued_work_is_not_part_of_the_call() -> None:
    queue = [0.02]

    def wait() -> None:
        while queue:
            time.sleep(queue.pop())

    (found,) = measure(
        [Variant(name="a", call=lambda: queue.append(0.001), wait=wait)], plan=plan(rounds=3), check=agree
    )
    assert found.first_call_ns is not None
    assert found.first_call_ns < 20e6


def test_settling_calls_are_not_samples() -> None:
    cold = {"a": True}

    def warm() -> None:
        if cold["a"]:
            time.sleep(0.005)
        cold["a"] = False

    disturbing = Variant(name="other", call=lambda: cold.update(a=True))
    settled = Variant(name="settled", call=warm, settle_calls=1, calls_per_turn=3)
    found, _ = measure([settled, disturbing], plan=plan(rounds=10), check=agree)
    assert found.summary().p95_ns < 4e6


def test_the_garbage_collector_is_paused() -> None:
    seen: list[bool] = []
    measure([Variant(name="a", call=lambda: seen.append(gc.isenabled()))], plan=plan(rounds=3), check=agree)
    assert not any(seen)
    assert gc.isenabled()


def test_both_limits_of_the_warm_up_and_of_the_rounds_hold() -> None:
    times_s: list[float] = []
    (found,) = measure(
        [Variant(name="a", call=lambda: times_s.append(time.perf_counter()))],
        plan=Plan(warmup_s=0.05, min_warmup_calls=1, measure_s=0.05, min_rounds=1, max_rounds=10**9),
        check=agree,
    )
    num_samples = len(found.samples_ns)
    assert num_samples > 1
    assert times_s[-1] - times_s[-num_samples] >= 0.045
    assert times_s[-num_samples] - times_s[0] >= 0.045


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="the same name"):
        measure([Variant(name="a", call=int), Variant(name="a", call=int)], plan=plan(rounds=1), check=agree)


def test_timing_itself_costs_little() -> None:
    assert 0 < timer_overhead_ns() < 20_000


def test_a_variant_can_measure_itself() -> None:
    times_ns = iter(range(1000, 1100))
    variant = Variant(name="GPU", call=lambda: next(times_ns), returns_ns=True)
    chosen = Plan(warmup_s=0, min_warmup_calls=2, measure_s=0, min_rounds=3, max_rounds=3)
    (found,) = measure([variant], plan=chosen, check=agree)
    assert found.turns_ns.tolist() == [[1003], [1004], [1005]]  # after the first call and two of the warm-up
    assert found.first_call_ns is None
