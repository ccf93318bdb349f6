"""What pauses and minutes of work do to engines: the first call after a pause, and the median of each minute. For the engine benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from edgefuse.measure import Plan, Series, Variant, measure, ratio, timed_ns
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks.machine_state import counters, during
from edgefuse_benchmarks.report import Group

IDLE_S = 10.0
MINUTE_S = 60.0
CLEARLY = 1.03
"""An engine is slower than another one in a minute if its median is at least this many times as long."""


def first_calls_after_pauses(
    variants: Sequence[Variant],
    *,
    num_calls: int,
    idle_s: float = IDLE_S,
    pause: Callable[[float], object] = time.sleep,
    progress: Progress = no_progress,
) -> Group:
    """Time single calls, each after a pause of the whole process: caches are cold then, clocks low, and threads asleep.

    Args:
        num_calls: for each variant, in turns.
    """
    turns: dict[str, list[list[int]]] = {variant.name: [] for variant in variants}
    for number in range(num_calls):
        for position, variant in enumerate(variants):
            progress(number * len(variants) + position, num_calls * len(variants), stage="pauses")
            pause(idle_s)
            turns[variant.name].append([timed_ns(variant)])
    progress(num_calls * len(variants), num_calls * len(variants), stage="pauses")
    series = tuple(Series(name=name, turns_ns=np.array(found, np.int64)) for name, found in turns.items())
    return Group(scope="after a pause", name=f"first call after {idle_s:g} s", series=series)


def by_minute(
    variants: Sequence[Variant],
    *,
    minutes: int,
    plan: Plan,
    minute_s: float = MINUTE_S,
    progress: Progress = no_progress,
) -> tuple[Group, tuple[str, ...]]:
    """Run the variants in turns for whole minutes.

    Returns:
        The median of each minute as the samples, with clocks and temperatures in `facts["minutes"]`; and notes: whether the order of
        the variants changed, and which became slower.
    """
    plan = replace(plan, warmup_s=0.0, min_warmup_calls=0, measure_s=minute_s, min_rounds=1, max_rounds=1_000_000)
    medians_ns: dict[str, list[float]] = {variant.name: [] for variant in variants}
    rows: list[dict[str, Any]] = []
    for number in range(minutes):
        progress(number, minutes, stage="minutes")
        before = counters()
        for one in measure(variants, plan=replace(plan, seed=plan.seed + number), check=list):
            medians_ns[one.name].append(one.summary().p50_ns)
        state = during(before)
        rows.append(
            {
                "p50_ms": {name: round(found[-1] / 1e6, 4) for name, found in medians_ns.items()},
                **{name: state[name] for name in ("mhz", "temperatures_c", "throttle_events", "gpu_throttle")},
            }
        )
    progress(minutes, minutes, stage="minutes")
    series = tuple(
        Series(name=name, turns_ns=np.array(found, np.float64).round().astype(np.int64)[:, None])
        for name, found in medians_ns.items()
    )
    reference, *others = series
    group = Group(
        scope="each minute",
        name="1 minute" if minutes == 1 else f"{minutes} minutes",
        series=series,
        ratios=tuple(ratio(other, reference) for other in others if minutes > 1),
        facts={"minutes": rows},
    )
    return group, (*(_order_notes(medians_ns) if minutes > 1 else ()), *_clock_notes(rows))


def _order_notes(medians_ns: Mapping[str, Sequence[float]]) -> list[str]:
    """Whether one variant was clearly faster than another in one minute and clearly slower in another, and which became slower."""
    changed = []
    for a, b in combinations(medians_ns, 2):
        pairs = list(zip(medians_ns[a], medians_ns[b], strict=True))
        ahead = next((i for i, (x, y) in enumerate(pairs) if y >= CLEARLY * x), None)
        behind = next((i for i, (x, y) in enumerate(pairs) if x >= CLEARLY * y), None)
        if ahead is not None and behind is not None:
            when = ", ".join(
                f"minute {i + 1}: {pairs[i][0] / 1e6:.3g} and {pairs[i][1] / 1e6:.3g} ms"
                for i in sorted((ahead, behind))
            )
            changed.append(f"{a} and {b} ({when})")
    if changed:
        notes = [f"the order of the engines CHANGED: {'; '.join(changed)}"]
    elif len(medians_ns) == 1:
        notes = []
    else:
        whole = {name: float(np.median(found)) for name, found in medians_ns.items()}
        notes = [
            f"the order of the engines did not change, fastest first: {'; '.join(sorted(whole, key=whole.__getitem__))}"
        ]
    slower = [
        f"{name} ({found[-1] / found[0]:.2f})" for name, found in medians_ns.items() if found[-1] >= CLEARLY * found[0]
    ]
    return [*notes, *([f"slower in the last minute than in the first: {', '.join(slower)}"] if slower else [])]


def _clock_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """First and last minute's clocks and temperatures in words."""
    found = []
    for kind, unit in (("mhz", "MHz"), ("temperatures_c", "C")):
        first, last = rows[0][kind], rows[-1][kind]
        found += [f"{name} {first[name]:.0f} -> {last[name]:.0f} {unit}" for name in first if name in last]
    return [f"clocks and temperatures, first and last minute: {', '.join(found) or 'not readable on this machine'}"]
