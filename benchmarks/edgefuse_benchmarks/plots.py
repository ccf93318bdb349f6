"""A result as one PNG: the core over its widths, an engine's samples, the live loop's stages. Read from the `Report` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.io.matplotlib_io import new_figure, save_figure
from edgefuse_benchmarks.measure import Ratio
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites.core import FLUSHED, READ

READ_COLOUR = "0.55"
PACE_COLOURS = ("tab:purple", "tab:brown")


def save_plot(report: Report, path: Path) -> None:
    """Draw `report` into the PNG `path`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    save_figure(figure_of(report), path)


def figure_of(report: Report) -> Any:
    """The matplotlib figure of a report."""
    figure = new_figure(width_in=13, height_in=5, extra="bench")
    {"core": _draw_core, "engine": _draw_engine, "live": _draw_live}[report.benchmark](figure, report)
    cpu = report.machine["cpu"]
    figure.suptitle(
        f"edgefuse bench {report.benchmark}: {cpu['model']}, {cpu['cores_usable']} core(s), {report.machine['date_utc'][:10]}"
    )
    return figure


def _draw_core(figure: Any, report: Report) -> None:
    """Left: medians over d, and the time to read the weights. Right: what the gate costs, beside the ratio of the weights."""
    times, ratios = figure.subplots(1, 2)
    widths = [group.facts["d"] for group in report.groups]
    ways = [one.name.removeprefix("gated, ") for one in report.groups[0].series if one.name.startswith("gated, ")]
    colours = _colours(ways)
    for kind, line in (("gated", "-"), ("naive", "--")):
        for way in ways:
            p50_us = [_median_us(group, f"{kind}, {way}") for group in report.groups]
            marker = "x" if way.endswith(FLUSHED) else "o"
            label = f"{kind}, {way}" if kind == "gated" else None
            times.plot(widths, p50_us, line, marker=marker, markersize=4, color=colours[way], label=label)
    times.plot([], [], "k--", label="dashed: naive")
    times.set(
        xscale="log",
        yscale="log",
        xlabel="d (features of each modality)",
        ylabel="p50 in microseconds",
        title="core, batch 1",
    )
    times.set_xticks(widths, [str(width) for width in widths])
    times.minorticks_off()

    for number, way in enumerate(way for way in ways if READ not in way):
        found = [_find(group, f"gated, {way}", f"naive, {way}") for group in report.groups]
        offset = 1 + 0.03 * (number - 1)
        _error_bars(ratios, [width * offset for width in widths], found, color=colours[way], label=way)
    weights = [group.facts["weights_bytes"] for group in report.groups]
    ratios.plot(widths, [one["gated"] / one["naive"] for one in weights], "k:", label="ratio of the weights' bytes")
    ratios.axhline(1, color="0.8", zorder=0)
    ratios.set(
        xscale="log",
        xlabel="d",
        ylabel="gated / naive",
        title="cost of the gate (bars: 95 % of the median)",
        ylim=(0, None),
    )
    ratios.set_xticks(widths, [str(width) for width in widths])
    ratios.minorticks_off()
    _plain_numbers(times.yaxis)
    for axes in (times, ratios):
        axes.grid(alpha=0.3)
        _legend_below(axes)


def _draw_engine(figure: Any, report: Report) -> None:
    """Samples over time, their shares, and the cold start's stages."""
    over_time, fractions, cold = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    group = next(group for group in report.groups if group.scope == "engine")
    colours = _colours([one.name for one in group.series])
    for one in group.series:
        samples_ms = one.samples_ns / 1e6
        over_time.plot(samples_ms, ".", markersize=3, color=colours[one.name])
        counted = np.arange(1, len(samples_ms) + 1) / len(samples_ms)
        fractions.step(np.sort(samples_ms), counted, where="post", color=colours[one.name], label=one.name)
    over_time.set(xlabel="sample, in the order of time", ylabel="ms", title="every sample", yscale="log")
    fractions.set(xlabel="ms", ylabel="share of samples at or below", title="distribution", xscale="log")
    _plain_numbers(over_time.yaxis)
    _plain_numbers(fractions.xaxis)
    for axes in (over_time, fractions):
        axes.grid(alpha=0.3, which="both")
    _legend_below(fractions)
    starts = next((group for group in report.groups if group.scope == "cold start"), None)
    if starts is None:
        cold.set_axis_off()
        return
    names = [one.name for one in starts.series]
    medians_ms = [one.summary().p50_ns / 1e6 for one in starts.series]
    bars = cold.barh(names, medians_ms, color=READ_COLOUR)
    cold.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    cold.set(xlabel="ms, median", title="cold start", xlim=(0, 1.25 * max(medians_ms)))
    cold.invert_yaxis()


def _draw_live(figure: Any, report: Report) -> None:
    """Stages one after another with the tail of the whole, and every frame over time."""
    stages, over_time = figure.subplots(1, 2)
    groups = [group for group in report.groups if group.scope == "frame to result"]
    parts = [one.name for one in groups[0].series[1:-1]]
    colours = _colours(parts)
    for row, group in enumerate(groups):
        whole = group.series[0].summary()
        left_ms = 0.0
        for one in group.series[1:-1]:
            median_ms = one.summary().p50_ns / 1e6
            stages.barh(row, median_ms, left=left_ms, color=colours[one.name], label=one.name if row == 0 else None)
            left_ms += median_ms
        for value_ns, marker, name in (
            (whole.p50_ns, "|", "p50"),
            (whole.p95_ns, "^", "p95"),
            (whole.p99_ns, "D", "p99"),
            (whole.max_ns, "x", "max"),
        ):
            label = f"{name} of the whole" if row == 0 else None
            stages.plot(value_ns / 1e6, row, marker, color="k", markersize=12 if marker == "|" else 6, label=label)
        over_time.plot(group.series[0].samples_ns / 1e6, ".", markersize=3, color=PACE_COLOURS[row], label=group.name)
    stages.set_yticks(range(len(groups)), [group.name for group in groups])
    stages.set(xlabel="ms; bars: median of each stage", title="frame to result", ylim=(len(groups) - 0.4, -0.6))
    over_time.set(
        xlabel="result, in the order of time", ylabel="frame to result in ms", title="every result", yscale="log"
    )
    _plain_numbers(over_time.yaxis)
    for axes in (stages, over_time):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _legend_below(axes: Any) -> None:
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 0.1 and 10, not with powers of ten; with 2, 3, ... between where it spans little."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def _colours(names: list[str]) -> Mapping[str, str]:
    """A colour for each name; reading weights is grey, because it is a bound and no rival."""
    rivals = [name for name in names if READ not in name]
    return dict.fromkeys(names, READ_COLOUR) | {name: f"C{i}" for i, name in enumerate(rivals)}


def _median_us(group: Group, name: str) -> float:
    return next(one for one in group.series if one.name == name).summary().p50_ns / 1e3


def _find(group: Group, numerator: str, denominator: str) -> Ratio:
    return next(one for one in group.ratios if (one.numerator, one.denominator) == (numerator, denominator))


def _error_bars(axes: Any, x: list[float], ratios: list[Ratio], *, color: str, label: str) -> None:
    medians = np.array([one.median for one in ratios])
    below = medians - [one.low for one in ratios]
    above = [one.high for one in ratios] - medians
    axes.errorbar(x, medians, yerr=[below, above], fmt="o-", markersize=4, capsize=3, color=color, label=label)
