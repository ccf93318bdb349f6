"""A result as one PNG: the core over its widths, an engine's samples, the live loop's stages. Read from the `Report` alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.io.matplotlib_io import COLOURS, GREY, new_figure, save_figure
from edgefuse.model.choices import model_in_words
from edgefuse_benchmarks.core_plot import draw_core
from edgefuse_benchmarks.report import Group, Report

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
    gpus = [gpu["name"] for gpu in report.machine.get("gpus") or [] if report.benchmark == "core"]
    machine = ", ".join([cpu["model"], f"{cpu['cores_usable']} core(s)", *gpus, report.machine["date_utc"][:10]])
    figure.suptitle(f"edgefuse bench {report.benchmark}{_measured(report.parameters)}\n{machine}")
    draw = {
        "core": draw_core,
        "engine": _draw_engine,
        "preprocess": _draw_preprocess,
        "live": _draw_live,
        "train": _draw_train,
        "energy": _draw_energy,
        "outputs": _draw_outputs,
        "peers": _draw_peers,
    }
    draw[report.benchmark](figure, report)
    return figure


def _measured(parameters: Mapping[str, Any]) -> str:
    """Model, engine and input size; of a training, the model; the core has none of these."""
    if "config" in parameters:
        config = parameters["config"]
        return f": {model_in_words(fusion=config['fusion'], rgb=config['rgb'], depth=config['depth'])}"
    if "model" not in parameters:
        return ": gate, fusion and fully connected layers alone"
    model, size, engine = parameters["model"], parameters["input_size"], parameters.get("engine")
    on = f", {engine['engine']} {engine['precision']}" if engine else ""
    return (
        f": {model_in_words(fusion=model['fusion'], rgb=model['rgb'], depth=model['depth'])}{on}, input {size} x {size}"
    )


def _draw_engine(figure: Any, report: Report) -> None:
    """Every call of each engine with its median and 99th percentile; the medians of each minute, or the stages of a cold start."""
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
    starts = [group for group in report.groups if group.scope == "cold start"]
    minutes = [group for group in report.groups if group.scope == "each minute"]
    if minutes:
        _draw_minutes(cold, minutes[0])
    elif starts:
        _draw_starts(cold, starts)
    else:
        cold.set_axis_off()


def _draw_minutes(axes: Any, group: Group) -> None:
    """The median of each minute of each engine, in its colour of the other panel."""
    for one, colour in zip(group.series, itertools.cycle(COLOURS), strict=False):
        medians_ms = one.samples_ns / 1e6
        axes.plot(np.arange(1, len(medians_ms) + 1), medians_ms, ".-", color=colour, label=one.name)
    axes.set(xlabel="minute", ylabel="median, ms", title="each minute of work", ylim=(0, None))
    axes.legend(fontsize=8, loc="lower left", frameon=False)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_starts(cold: Any, starts: Sequence[Group]) -> None:
    """The stages of a cold start with each engine."""
    height, longest_ms = 0.8 / len(starts), 0.0
    for place, (group, colour) in enumerate(zip(starts, COLOURS, strict=False)):
        medians_ms = [one.summary().p50_ns / 1e6 for one in group.series]
        rows = np.arange(len(medians_ms)) + (place - (len(starts) - 1) / 2) * height
        bars = cold.barh(rows, medians_ms, height=height, color=colour)
        cold.bar_label(
            bars, [f"{ms:.0f} ms, {group.name.partition(',')[0]}" for ms in medians_ms], padding=3, fontsize=8
        )
        longest_ms = max(longest_ms, *medians_ms)
    cold.set_yticks(range(len(starts[0].series)), _names(starts[0]))
    cold.set(xlabel="median, ms", title="cold start", xlim=(0, 1.6 * longest_ms))
    cold.invert_yaxis()


def _draw_live(figure: Any, report: Report) -> None:
    """Stages one after another with the tail of the whole, and every frame over time, against the time between frames at 30 Hz."""
    stages, over_time = figure.subplots(1, 2)
    groups = [group for group in report.groups if group.scope == "frame to result"]
    for row, (group, pace_colour) in enumerate(zip(groups, (*COLOURS[3:], *COLOURS[:3]), strict=False)):
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


def _draw_train(figure: Any, report: Report) -> None:
    """Median time of each kind of step, and of the preparation of a batch."""
    group = report.groups[0]
    _draw_medians(figure, group, title=f"one step on {group.facts['device']}, {group.name}")


def _draw_preprocess(figure: Any, report: Report) -> None:
    """Median time of each way from a raw pair to the inputs of a network."""
    _draw_medians(figure, report.groups[0], title=f"from a raw pair to the network's inputs, {report.groups[0].name}")


def _draw_medians(figure: Any, group: Group, *, title: str) -> None:
    axes = figure.subplots()
    bars = axes.barh(_names(group), [one.summary().p50_ns / 1e6 for one in group.series], color=COLOURS[0])
    axes.bar_label(bars, [f"{one.summary().p50_ns / 1e6:.3g} ms" for one in group.series], padding=3)
    axes.set(xlabel="median, ms", title=title)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _draw_outputs(figure: Any, report: Report) -> None:
    """Median and 99th percentile of live without an output and with each."""
    group = report.groups[0]
    axes = figure.subplots()
    for row, one in enumerate(group.series):
        summary = one.summary()
        for value_ns, name, colour in ((summary.p99_ns, "p99", COLOURS[1]), (summary.p50_ns, "median", COLOURS[0])):
            (bar,) = axes.barh([row], [value_ns / 1e6], color=colour, height=0.6, label=name if row == 0 else None)
            label, end = f"{value_ns / 1e6:.3g} ms ", bar.get_width()
            axes.text(end, row, label, ha="right", va="center", color="white", fontsize=9)
    axes.set_yticks(range(len(group.series)), _names(group))
    axes.set(xlabel="ms", title=f"from a frame to its result, {group.name}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.invert_yaxis()


def _draw_energy(figure: Any, report: Report) -> None:
    """Energy of a result at each pace: above idle, and the part of the idle machine."""
    axes = figure.subplots()
    rows = [
        (f"{group.name}, {rail}", group.facts["energy"][rail])
        for group in report.groups
        for rail in group.facts["totals"]
    ]
    names = [name for name, _ in rows]
    above = np.array([found["mj_per_result_above_idle"] for _, found in rows])
    idle = np.array([found["mj_per_result"] for _, found in rows]) - above
    axes.bar_label(axes.barh(names, above, color=COLOURS[1], label="above idle"), fmt="%.3g", label_type="center")
    axes.bar_label(
        axes.barh(names, idle, left=above, color="0.8", label="idle machine"), fmt="%.3g", label_type="center"
    )
    axes.set(xlabel="mJ per result", title="energy of a result, from the complete frame")
    axes.invert_yaxis()
    axes.legend(loc="lower right")


def _draw_peers(figure: Any, report: Report) -> None:
    """Median and 99th percentile of each way from a complete frame to probabilities, the fastest first; edgefuse in blue."""
    axes = figure.subplots()
    group = report.groups[0]
    series = sorted(group.series, key=lambda one: one.summary().p50_ns)
    ratios = {one.numerator: f", {one.median:.2f}" for one in group.ratios}
    ours = group.facts.get("ours", "")
    for row, one in enumerate(series):
        p50_ms, p99_ms = (value / 1e6 for value in (one.summary().p50_ns, one.summary().p99_ns))
        axes.barh(row, p50_ms, color=COLOURS[0] if one.name.startswith("edgefuse") else "0.7")
        axes.plot([p50_ms, p99_ms], [row, row], color="black", linewidth=1)
        axes.plot(p99_ms, row, "|", color="black", markersize=10)
        label = f"{p50_ms:.3g} ms{ratios.get(one.name, ' = 1.00' if one.name == ours else '')}"
        axes.annotate(label, (p99_ms, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(series)), [one.name for one in series])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    xlabel = f"ms; bar: median, with its ratio to {ours}; line: 99th percentile"
    axes.set(xlabel=xlabel, title=f"complete frame to probabilities, {group.name}")


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 0.1 and 10, not with powers of ten; with 2, 3, ... between where it spans little."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Labels the same ticks, with 0.3 and not 3e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(Plain(labelOnlyBase=False))


def _names(group: Group) -> list[str]:
    return [one.name for one in group.series]
