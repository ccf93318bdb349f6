"""The result of `bench adaptive` as one PNG: accuracy against mean latency, and what depth answers at each threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefuse.adaptive import MAX_LOSS
from edgefuse.io.matplotlib_io import COLOURS, GREY, new_figure, save_figure
from edgefuse.model.choices import model_in_words
from edgefuse_benchmarks.adaptive.curve import GOAL_RATIO, AdaptiveReport, Row

BLUE, RED, GREEN = COLOURS[:3]


def save_plot(report: AdaptiveReport, path: Path) -> None:
    """Draw `report` into the PNG `path`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure(width_in=13, height_in=5, extra="bench")
    model, engine = report.parameters["model"], report.parameters["engine"]
    words = model_in_words(fusion=model["fusion"], rgb=model["rgb"], depth=model["depth"])
    library = "OpenVINO" if engine["engine"] == "openvino" else "ONNX Runtime"
    figure.suptitle(
        f"edgefuse live --adaptive T: answers from depth alone where its probability is at least T\n{words}, {report.parameters['input_size']} px, "
        f"{library} {engine['precision']}, {report.parameters['num_pairs']} test pairs in {', '.join(report.parameters['data'])}\n"
        f"{report.machine['cpu']['model']}, {report.parameters['num_threads']} thread(s), {report.machine['date_utc'][:10]}"
    )
    latency, fractions = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_latency(latency, report)
    _draw_fractions(fractions, report)
    save_figure(figure, path)


def _draw_latency(axes: Any, report: AdaptiveReport) -> None:
    """Every threshold, the complete model, and the area of the goal."""
    full, rows = report.full, report.rows[1:]
    least = 100 * (full.accuracy - MAX_LOSS)
    lowest, highest = (pick(100 * row.accuracy for row in report.rows) for pick in (min, max))
    margin = max(2.0, 0.15 * (highest - lowest))
    right = 1.08 * max(1.0, *(row.high for row in rows))
    axes.fill_between([0, GOAL_RATIO], least, highest + margin, color=GREEN, alpha=0.15, linewidth=0)
    axes.annotate(
        f"goal: at most {GOAL_RATIO:g} of the time\nand {100 * MAX_LOSS:g} points lost",
        (0.01 * right, least),
        xytext=(0, -5),
        textcoords="offset points",
        color=GREEN,
        va="top",
        fontsize=9,
    )
    axes.axhline(least, color=GREY, linestyle=":", linewidth=1.2)
    axes.plot([row.ratio for row in rows], [100 * row.accuracy for row in rows], "o-", color=BLUE, linewidth=1.5)
    for row in rows:
        axes.plot([row.low, row.high], [100 * row.accuracy] * 2, color=BLUE, linewidth=3, alpha=0.3)
    for row in _labelled(rows):
        text = "depth alone" if row.threshold == 0 else f"T = {row.threshold:g}"
        axes.annotate(
            text, (row.ratio, 100 * row.accuracy), xytext=(6, -14), textcoords="offset points", color=BLUE, fontsize=9
        )
    axes.plot(1, 100 * full.accuracy, "D", color=RED, markersize=9)
    axes.annotate(
        f"complete model, {full.mean_ms:.2f} ms",
        (1, 100 * full.accuracy),
        xytext=(-6, 10),
        textcoords="offset points",
        color=RED,
        ha="right",
        fontsize=9,
    )
    axes.set(
        xlabel="mean time of a pair, against the complete model",
        ylabel="accuracy on all test pairs, %",
        xlim=(0, right),
        ylim=(lowest - margin, highest + margin),
        title=_message(report),
    )
    axes.grid(alpha=0.3)


def _message(report: AdaptiveReport) -> str:
    best, loss = report.fastest, f"at most {100 * MAX_LOSS:g} points lost"
    if best.threshold is None:
        return f"no threshold is faster with {loss}"
    return f"{best.name} takes {best.ratio:.2f} of the time with {loss}: the goal is {'met' if report.meets_goal else 'missed'}"


def _labelled(rows: tuple[Row, ...]) -> list[Row]:
    """The rows that get a label, without those that lie beside one that has it; from depth alone to the highest threshold."""
    kept: list[Row] = []
    for row in reversed(rows):
        if all(abs(row.ratio - one.ratio) > 0.09 or abs(row.accuracy - one.accuracy) > 0.04 for one in kept):
            kept.append(row)
    return kept


def _draw_fractions(axes: Any, report: AdaptiveReport) -> None:
    """What depth answers, and how often it is right."""
    rows = [row for row in reversed(report.rows) if row.threshold]
    names, places = [f"{row.threshold:g}" for row in rows], range(len(rows))
    bars = axes.bar(places, [100 * row.from_depth for row in rows], color=BLUE, alpha=0.35)
    axes.bar_label(bars, fmt="%.0f", fontsize=8)
    right = [(i, 100 * row.accuracy_of_depth) for i, row in enumerate(rows) if row.accuracy_of_depth is not None]
    if right:
        axes.plot(*zip(*right, strict=True), "o-", color=BLUE, linewidth=1.5)
    axes.set_xticks(places, names)
    axes.set(
        xlabel="threshold T",
        ylabel="%",
        ylim=(0, 108),
        title="bars: pairs that depth alone answers\nline: accuracy of these answers",
    )
    axes.grid(alpha=0.3, axis="y")
