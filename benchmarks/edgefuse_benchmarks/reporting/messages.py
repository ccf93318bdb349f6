"""The main message of a result in one sentence, its key figures, and its warnings. Made from the figures alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from edgefuse.measure import Ratio, Series
from edgefuse_benchmarks.report import FEW_BY_NATURE, Group, Report, general_notes

FRAME_MS = 1000 / 30

_WARNINGS = (
    "busy",
    "MISSED",
    "throttled",
    "away from this virtual machine",
    "unsteady",
    "CHANGED",
    "DROPPED",
    "slower in the last minute",
    "close to their maximum",
)
"""Words of the notes that say how far the figures can be trusted."""


OURS = "edgefuse, "
"""How the names of edgefuse's own series begin in a result of `bench peers`."""

_ASIDE = re.compile("read weights|flushed|empty kernel|in a chain")
"""Series of the core that a short table leaves out."""


class KeyFigure(NamedTuple):
    """One line of a short table: what was measured, and its series."""

    what: str
    series: Series
    more: str = ""


def message(report: Report) -> str:
    """What the result shows, in one sentence."""
    make: dict[str, Callable[[Report], str]] = {
        "core": _core,
        "engine": _engine,
        "preprocess": _preprocess,
        "live": _live,
        "train": _train,
        "energy": _energy,
        "peers": _peers,
    }
    return make.get(report.benchmark, _fastest)(report)


def key_figures(report: Report) -> list[KeyFigure]:
    """The few series that a short table shows."""
    found: list[KeyFigure] = []
    for group in report.groups:
        if group.name.startswith("reference"):  # what live is compared with
            continue
        if group.scope == "frame to result":
            found.append(KeyFigure(f"live, frame to result, {group.name}", group.series[0], _frames(group)))
        elif group.scope == "core":
            whole = [one for one in group.series if not _ASIDE.search(one.name)]
            gated = [one for one in whole if one.name.startswith("gated")]
            one = _fastest_of([one for one in gated if "CUDA" in one.name] or gated or whole)
            found.append(KeyFigure(f"fusion core alone, {group.name}: {one.name}", one))
        elif group.scope == "training step":
            one = _fastest_of([one for one in group.series if one.name.startswith("step")] or list(group.series))
            more = f"{group.facts['pairs_per_s'][one.name]:g} pairs/s" if "pairs_per_s" in group.facts else ""
            found.append(KeyFigure(f"training {one.name}, {group.name}", one, more))
        elif group.scope not in {*FEW_BY_NATURE, "frame age"}:
            one = _fastest_of(group.series)
            ratios = [each for each in group.ratios if each.numerator == one.name]
            more = f"{ratios[0].median:.2f} of {ratios[0].denominator}" if ratios else ""
            found.append(KeyFigure(f"{group.scope}, {group.name}: {one.name}", one, more))
    return found


def warnings(report: Report) -> list[str]:
    """The notes that say how far the figures can be trusted; today's rules also for older results."""
    notes = dict.fromkeys((*report.notes, *general_notes(report)))
    return [note for note in notes if any(word in note for word in _WARNINGS)]


def other_notes(report: Report) -> list[str]:
    """The notes that are no warnings."""
    return [note for note in report.notes if not any(word in note for word in _WARNINGS)]


def duration(time_ns: float) -> str:
    """A time with three digits: 13.1 µs, 4.64 ms, 1.20 s.

    Example:
        >>> duration(4_637_000)
        '4.64 ms'
    """
    unit, divisor = next(
        (unit, divisor)
        for limit, unit, divisor in ((1e6, "µs", 1e3), (1e9, "ms", 1e6), (float("inf"), "s", 1e9))
        if time_ns < limit
    )
    value = time_ns / divisor
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _core(report: Report) -> str:
    found = [(group, one) for group in report.groups if (one := _gate_ratio(group)) is not None]
    if not found:
        return _fastest(report)
    medians = [one.median for _, one in found]
    way = found[0][1].numerator.removeprefix("gated, ")
    first, last = found[0][0], found[-1][0]
    return (
        f"Gated fusion takes {min(medians):.2f} to {max(medians):.2f} times as long as concatenation ({first.name} to {last.name}; {way}): "
        f"{duration(_p50(first, found[0][1].numerator))} to {duration(_p50(last, found[-1][1].numerator))}."
    )


def _gate_ratio(group: Group) -> Ratio | None:
    """The ratio of gated and naive in ONNX Runtime with one thread, or in the first way that was measured."""
    found = [
        one for one in group.ratios if one.denominator == one.numerator.replace("gated", "naive", 1) != one.numerator
    ]
    wanted = [one for one in found if one.numerator == "gated, ONNX Runtime, 1 thread"]
    return next(iter(wanted or found), None)


def _engine(report: Report) -> str:
    group = next((group for group in report.groups if group.scope == "engine"), None)
    if group is None:
        return _fastest(report)
    one = _fastest_of(group.series)
    text = f"{one.name} classifies a cropped pair in {duration(one.summary().p50_ns)} (99 % within {duration(one.summary().p99_ns)})"
    slowest = max(group.series, key=lambda each: each.summary().p50_ns)
    if slowest is not one:
        text += f", {slowest.summary().p50_ns / one.summary().p50_ns:.2g} times as fast as {slowest.name}"
    return f"{text}."


def _preprocess(report: Report) -> str:
    group = report.groups[0]
    found = [one for one in group.ratios if one.numerator == "framing.fit"]
    if not found:
        return _fastest(report)
    parts = [f"{one.median:.2f} of the time of {one.denominator.partition(': ')[2]}" for one in found]
    p50_ns = _p50(group, "framing.fit")
    return f"A raw pair ({group.name}) is ready for the network in {duration(p50_ns)}: {' and '.join(parts)}."


def _live(report: Report) -> str:
    groups = [group for group in report.groups if group.scope == "frame to result"]
    if not groups:
        return _fastest(report)
    group = next((group for group in groups if "paced" in group.name), groups[-1])
    summary = group.series[0].summary()
    frames = _frames(group)
    fits = "less" if summary.p99_ns / 1e6 < FRAME_MS else "more"
    return (
        f"A result comes {duration(summary.p50_ns)} after its frame ({group.name}; 99 % within {duration(summary.p99_ns)}), {fits} than "
        f"the {FRAME_MS:.0f} ms between two frames at 30 Hz{f'; {frames}' if frames else ''}."
    )


def _frames(group: Group) -> str:
    processed, received = (sum(group.facts.get(name) or [0]) for name in ("processed", "received"))
    return f"{processed} of {received} frames were classified" if received else ""


def _train(report: Report) -> str:
    group = report.groups[0]
    steps = [one for one in group.series if one.name.startswith("step")]
    if not steps:
        return _fastest(report)
    one, facts = _fastest_of(steps), group.facts
    text = f"A training step takes {duration(one.summary().p50_ns)} ({one.name}, {group.name}, {facts.get('device', 'unknown device')})"
    if facts.get("epoch_s"):
        text += f"; an epoch of {facts.get('num_pairs')} pairs takes {facts['epoch_s'][-1]:.3g} s with the preparation of the batches"
    return f"{text}."


def _energy(report: Report) -> str:
    parts = []
    for group in report.groups:
        for rail, covers in group.facts.get("totals", {}).items():
            found = group.facts["energy"][rail]
            parts.append(
                f"{found['mj_per_result_above_idle']:.3g} mJ {group.name} ({covers}; {found['mj_per_result']:.3g} mJ with idle)"
            )
    return f"A result takes {', '.join(parts)}, above the idle machine." if parts else _fastest(report)


def _peers(report: Report) -> str:
    group = report.groups[0]
    by_name, ours = _by_name(group), group.facts.get("ours")
    if ours not in by_name or not group.ratios:
        return _fastest(report)
    peers = [one for one in group.ratios if not one.numerator.startswith(OURS)]
    faster = [f"{one.numerator} ({one.median:.2f})" for one in peers if one.high < 1]
    slower = [f"{one.numerator} ({one.median:.2f})" for one in peers if one.low > 1]
    text = f"{ours}, which --engine auto runs here, classifies a complete frame in {duration(by_name[ours].summary().p50_ns)}"
    parts = [f"{what}: {', '.join(names)}" for what, names in (("Faster", faster), ("Slower", slower)) if names]
    return f"{'. '.join((text, *parts))}."


def _fastest(report: Report) -> str:
    series = [one for group in report.groups for one in group.series]
    if not series:
        return "The file has no series."
    one = _fastest_of(series)
    return f"{len(series)} series; the fastest is {one.name}: {duration(one.summary().p50_ns)} (median)."


def _fastest_of(series: Any) -> Series:
    found: Series = min(series, key=lambda one: one.summary().p50_ns)
    return found


def _by_name(group: Group) -> dict[str, Series]:
    return {one.name: one for one in group.series}


def _p50(group: Group, name: str) -> float:
    return _by_name(group)[name].summary().p50_ns
