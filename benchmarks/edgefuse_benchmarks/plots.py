"""A result as one PNG: the core over its widths, an engine's samples, the live loop's stages. Read from the `Report` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.io.matplotlib_io import COLOURS, GREY, label_lines, new_figure, save_figure
from edgefuse.measure import Ratio
from edgefuse.model.choices import model_in_words
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites.core import FLUSHED, READ

FRAME_BUDGET_MS = 1000 / 30


def save_plot(report: Report, path: Path) -> None:
    """Draw `report` into the PNG `path`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    save_figure(figure_of(report), path)


def figure_of(report: Report) -> Any:
    """The matplotlib figure of a report."""
    figure = new_figure(width_in=13, height_in=4.6, extra="bench")
    cpu = report.machine["cpu"]
    machine = f"{cpu['model']}, {cpu['cores_usable']} core(s), {report.machine['date_utc'][:10]}"
    figure.suptitle(f"edgefuse bench {report.benchmark}{_measured(report.parameters)}\n{machine}")
    {"core": _draw_core, "engine": _draw_engine, "live": _draw_live}[report.benchmark](figure, report)
    return figure


def _measured(parameters: Mapping[str, Any]) -> str:
    """Model, engine and input size; of the core, which has no model, the batch."""
    if "model" not in parameters:
        return ": gated and naive fusion alone, batch 1 (ORT = ONNX Runtime)"
    model, size, engine = parameters["model"], parameters["input_size"], parameters.get("engine")
    on = f", {engine['engine']} {engine['precision']}" if engine else ""
    return (
        f": {model_in_words(fusion=model['fusion'], rgb=model['rgb'], depth=model['depth'])}{on}, input {size} x {size}"
    )


def _draw_core(figure: Any, report: Report) -> None:
    """Median times over d with the weights in the caches and without, and what the gate costs. The JSON has all variants."""
    cached, flushed, ratios = figure.subplots(1, 3)
    flushed.sharey(cached)
    widths = [group.facts["d"] for group in report.groups]
    rivals = [f"{kind}, {way}, 1 thread" for way in ("ONNX Runtime", "torch") for kind in ("gated", "naive")]
    for axes, suffix in ((cached, ""), (flushed, FLUSHED)):
        for name, colour in (*zip(rivals, COLOURS, strict=False), (f"gated, {READ}", GREY)):
            if name + suffix in _names(report.groups[0]):
                p50_us = [_median_us(group, name + suffix) for group in report.groups]
                axes.plot(widths, p50_us, marker="o", markersize=4, color=colour, label=_short(name))
        axes.set(ylabel="median time of a call, µs", yscale="log")
        _plain_numbers(axes.yaxis)
    cached.set(title="one thread, weights in the caches")
    flushed.set(title="one thread, caches emptied before each call")
    _draw_ratios(ratios, report, widths)
    for axes in (cached, flushed, ratios):
        axes.set(xscale="log", xlabel="features of each sensor (d)")
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        label_lines(axes)


def _draw_ratios(axes: Any, report: Report, widths: list[int]) -> None:
    """How much longer gated takes than naive in up to four ways, with the 95 % intervals; and how many more bytes it reads."""
    ways = [name.removeprefix("gated, ") for name in _names(report.groups[0]) if name.startswith("gated, ")]
    ways = [way for way in ways if READ not in way]
    for way, colour in zip(dict.fromkeys((*ways[:3], ways[-1])), COLOURS, strict=False):
        found = [_find(group, f"gated, {way}", f"naive, {way}") for group in report.groups]
        medians = np.array([one.median for one in found])
        interval = [medians - [one.low for one in found], [one.high for one in found] - medians]
        axes.plot(widths, medians, marker="o", markersize=4, color=colour, label=_short(way))
        axes.errorbar(widths, medians, yerr=interval, fmt="none", capsize=3, color=colour)
    weights = [group.facts["weights_bytes"] for group in report.groups]
    axes.plot(widths, [one["gated"] / one["naive"] for one in weights], ":", color=GREY, label="bytes of weights")
    axes.axhline(1, color="0.8", zorder=0)
    axes.set(title="gated compared with naive", ylabel="time of gated / time of naive", ylim=(0, None))


def _short(name: str) -> str:
    name = name.replace("ONNX Runtime", "ORT").replace(f"gated, {READ}", "reading gated's\nweights")
    return name.replace(FLUSHED, ",\ncaches emptied") if FLUSHED in name else name.removesuffix(", 1 thread")


def _draw_engine(figure: Any, report: Report) -> None:
    """Every call of each engine with its median and 99th percentile, and the stages of a cold start."""
    calls, cold = figure.subplots(1, 2, width_ratios=(3, 2))
    group = next(group for group in report.groups if group.scope == "engine")
    rng = np.random.default_rng(0)
    for row, one in enumerate(group.series):
        samples_ms, summary = one.samples_ns / 1e6, one.summary()
        scatter = row + rng.uniform(-0.3, 0.1, len(samples_ms))
        calls.plot(samples_ms, scatter, ".", markersize=3, alpha=0.5, color=COLOURS[row % len(COLOURS)])
        for value_ns, name, side in ((summary.p50_ns, "median", "right"), (summary.p99_ns, "p99", "left")):
            calls.plot([value_ns / 1e6] * 2, [row - 0.35, row + 0.2], color="black")
            calls.text(value_ns / 1e6, row + 0.36, f"{name} {value_ns / 1e6:.3g} ms", ha=side, fontsize=8)
    calls.set_yticks(range(len(group.series)), _names(group))
    calls.set(
        xlabel="time of a call, ms",
        title="one pair in, one prediction out",
        xscale="log",
        ylim=(len(group.series) - 0.4, -0.6),
    )
    calls.margins(x=0.25)
    _plain_numbers(calls.xaxis)
    calls.grid(alpha=0.3, axis="x", which="both")
    starts = next((group for group in report.groups if group.scope == "cold start"), None)
    if starts is None:
        cold.set_axis_off()
        return
    medians_ms = [one.summary().p50_ns / 1e6 for one in starts.series]
    bars = cold.barh(_names(starts), medians_ms, color=COLOURS[0])
    cold.bar_label(bars, fmt="%.0f ms", padding=3, fontsize=8)
    cold.set(xlabel="median, ms", title="cold start", xlim=(0, 1.25 * max(medians_ms)))
    cold.invert_yaxis()


def _draw_live(figure: Any, report: Report) -> None:
    """Stages one after another with the tail of the whole, and every frame over time, against the time between frames at 30 Hz."""
    stages, over_time = figure.subplots(1, 2)
    groups = [group for group in report.groups if group.scope == "frame to result"]
    for row, (group, pace_colour) in enumerate(zip(groups, COLOURS[3:], strict=False)):
        whole = group.series[0].summary()
        left_ms = 0.0
        for one, colour in zip(group.series[1:-1], COLOURS, strict=False):
            median_ms = one.summary().p50_ns / 1e6
            stages.barh(row, median_ms, left=left_ms, height=0.5, color=colour, label=one.name if row == 0 else None)
            left_ms += median_ms
        for value_ns, marker, name in (
            (whole.p50_ns, "|", "p50"),
            (whole.p95_ns, "^", "p95"),
            (whole.p99_ns, "D", "p99"),
            (whole.max_ns, "x", "max"),
        ):
            label = f"{name} of all stages" if row == 0 else None
            stages.plot(value_ns / 1e6, row, marker, color="k", markersize=14 if marker == "|" else 6, label=label)
        over_time.plot(group.series[0].samples_ns / 1e6, ".", markersize=4, color=pace_colour, label=group.name)
    budget = f"30 Hz frame budget, {FRAME_BUDGET_MS:.0f} ms"
    stages.axvline(FRAME_BUDGET_MS, color=GREY, linestyle="--", label=budget)
    over_time.axhline(FRAME_BUDGET_MS, color=GREY, linestyle="--", label=budget)
    stages.set_yticks(range(len(groups)), [group.name for group in groups])
    stages.set(xlabel="time from frame to result, ms (bars: median of each stage)", ylim=(len(groups) - 0.4, -0.6))
    over_time.set(xlabel="frame, in order of time", ylabel="time from frame to result, ms", yscale="log")
    _plain_numbers(over_time.yaxis)
    for axes, columns in ((stages, 4), (over_time, 3)):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 0.1 and 10, not with powers of ten; with 2, 3, ... between where it spans little."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def _names(group: Group) -> list[str]:
    return [one.name for one in group.series]


def _median_us(group: Group, name: str) -> float:
    return next(one for one in group.series if one.name == name).summary().p50_ns / 1e3


def _find(group: Group, numerator: str, denominator: str) -> Ratio:
    return next(one for one in group.ratios if (one.numerator, one.denominator) == (numerator, denominator))
