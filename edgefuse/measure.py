"""Timing for benchmarks and builds: warm-up, interleaved variants, raw samples, ratios with their spread.

    turn    consecutive calls of a variant, each timed separately (`calls_per_turn`)
    round   one turn of every variant, in a new random order, so that a drift of the machine affects all variants alike

The outputs of the variants are compared first (`check`); if they differ, nothing is measured. No sample is clipped. Requires only
NumPy.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError

NUM_RESAMPLES = 1000


class ParityError(UserError):
    """The outputs of the variants differ, so nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A function to time.

    Attributes:
        call: the timed function; its result is ignored, unless `returns_ns`.
        wait: waits until the work of `call` is done, inside the timing (torch.cuda.synchronize); None if `call` is
            synchronous.
        prepare: runs before every call, outside the timing; for example to fill the caches with other data.
        calls_per_turn: consecutive timed calls.
        settle_calls: untimed calls at the start of every turn, so that the variant finds its own data in the caches
            although another variant ran before it.
        returns_ns: `call` measures itself, such as many replays between two CUDA events, and returns nanoseconds.
    """

    name: str
    call: Callable[[], object]
    wait: Callable[[], object] | None = None
    prepare: Callable[[], object] | None = None
    calls_per_turn: int = 1
    settle_calls: int = 0
    returns_ns: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure. Both minimums apply: the time, and the number of calls or rounds.

    Attributes:
        warmup_s, min_warmup_calls: of each variant, before the first round.
        measure_s, min_rounds: of all variants together.
        max_rounds: limits the number of raw samples for calls of a few microseconds.
        seed: of the order within each round.
    """

    warmup_s: float = 0.2
    min_warmup_calls: int = 10
    measure_s: float = 3.0
    min_rounds: int = 10
    max_rounds: int = 10_000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of raw samples in nanoseconds; `cv` is the coefficient of variation (standard deviation / mean)."""

    count: int
    mean_ns: float
    min_ns: float
    p50_ns: float
    p95_ns: float
    p99_ns: float
    max_ns: float
    cv: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """The raw samples of one variant.

    Attributes:
        turns_ns: int64 [rounds, calls of a turn], in chronological order.
        first_call_ns: the first call of all, before the warm-up; None if it was not timed separately, or measures itself.
    """

    name: str
    turns_ns: NDArray[np.int64]
    first_call_ns: int | None = None

    @property
    def samples_ns(self) -> NDArray[np.int64]:
        """All samples [n], in chronological order."""
        return self.turns_ns.reshape(-1)

    def summary(self) -> Summary:
        """The figures of all samples."""
        return summarise(self.samples_ns)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Time of `numerator` over that of `denominator`, paired by rounds.

    Attributes:
        median: of the ratios of all rounds; the ratio of a round is that of the medians of its turns.
        low, high: 95 % interval of the median (percentile bootstrap over rounds).
        p5, p95: percentiles of the ratios of all rounds: the variation between rounds.
    """

    numerator: str
    denominator: str
    median: float
    low: float
    high: float
    p5: float
    p95: float
    num_rounds: int


def measure(variants: Sequence[Variant], *, plan: Plan, check: Callable[[], Sequence[str]]) -> tuple[Series, ...]:
    """Time variants against each other.

    Args:
        check: compares the outputs of the variants and returns the differences as text; empty = no difference. It runs
            after the first calls, so that those really are the first.

    Returns:
        One series for each variant, in the given order.

    Raises:
        ParityError: `check` returned differences; only the first calls were timed, and they are not reported.
    """
    names = [variant.name for variant in variants]
    if len(set(names)) != len(names):
        raise ValueError(f"two variants have the same name: {names}")
    with _gc_paused():
        first_calls_ns = [timed_ns(variant) for variant in variants]
        if problems := check():
            raise ParityError(
                "the outputs of the variants differ, so nothing was measured:\n  " + "\n  ".join(problems)
            )
        for variant in variants:
            _warm_up(variant, plan)
        turns = _rounds(variants, plan)
    return tuple(
        Series(
            name=variant.name,
            turns_ns=np.array(turns[i], np.int64),
            first_call_ns=None if variant.returns_ns else first_calls_ns[i],
        )
        for i, variant in enumerate(variants)
    )


def summarise(samples_ns: NDArray[np.int64]) -> Summary:
    """The figures of samples [n] in nanoseconds, n >= 1; percentiles are NumPy's, with linear interpolation."""
    p50, p95, p99 = np.percentile(samples_ns, (50, 95, 99))
    mean = float(samples_ns.mean())
    return Summary(
        count=len(samples_ns),
        mean_ns=mean,
        min_ns=float(samples_ns.min()),
        p50_ns=float(p50),
        p95_ns=float(p95),
        p99_ns=float(p99),
        max_ns=float(samples_ns.max()),
        cv=float(samples_ns.std() / mean) if mean else 0.0,
    )


def ratio(numerator: Series, denominator: Series, *, seed: int = 0) -> Ratio:
    """The ratio of two series of one `measure`, with its spread."""
    if len(numerator.turns_ns) != len(denominator.turns_ns):
        raise ValueError("the series have different numbers of rounds: they were not measured together")
    by_round = np.median(numerator.turns_ns, axis=1) / np.maximum(np.median(denominator.turns_ns, axis=1), 1)
    rng = np.random.default_rng(seed)
    medians = [np.median(rng.choice(by_round, len(by_round))) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(medians, (2.5, 97.5))
    p5, p95 = np.percentile(by_round, (5, 95))
    return Ratio(
        numerator=numerator.name,
        denominator=denominator.name,
        median=float(np.median(by_round)),
        low=float(low),
        high=float(high),
        p5=float(p5),
        p95=float(p95),
        num_rounds=len(by_round),
    )


def timer_overhead_ns(*, num_calls: int = 1000) -> float:
    """Overhead of the timing, which is part of every sample: the median of timed calls that do nothing."""
    nothing = Variant(name="nothing", call=lambda: None)
    return float(np.median([timed_ns(nothing) for _ in range(num_calls)]))


def timed_ns(variant: Variant) -> int:
    """The time of one call in nanoseconds, with `prepare` before and `wait` after it."""
    if variant.prepare is not None:
        variant.prepare()
    call, wait = variant.call, variant.wait
    if variant.returns_ns:
        found_ns = call()
        assert isinstance(found_ns, int)
        return found_ns
    if wait is None:
        start_ns = time.perf_counter_ns()
        call()
        return time.perf_counter_ns() - start_ns
    wait()  # earlier work is not part of this call's time
    start_ns = time.perf_counter_ns()
    call()
    wait()
    return time.perf_counter_ns() - start_ns


def _warm_up(variant: Variant, plan: Plan) -> None:
    end_s = time.perf_counter() + plan.warmup_s
    num_calls = 0
    while num_calls < plan.min_warmup_calls or time.perf_counter() < end_s:
        timed_ns(variant)
        num_calls += 1


def _rounds(variants: Sequence[Variant], plan: Plan) -> list[list[list[int]]]:
    """Raw samples [variant][round][call] in nanoseconds."""
    rng = np.random.default_rng(plan.seed)
    turns: list[list[list[int]]] = [[] for _ in variants]
    end_s = time.perf_counter() + plan.measure_s
    num_rounds = 0
    while num_rounds < plan.min_rounds or (num_rounds < plan.max_rounds and time.perf_counter() < end_s):
        for i in rng.permutation(len(variants)):
            variant = variants[i]
            for _ in range(variant.settle_calls):
                timed_ns(variant)
            turns[i].append([timed_ns(variant) for _ in range(variant.calls_per_turn)])
        num_rounds += 1
    return turns


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable the garbage collector, which would otherwise run during timed calls."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
