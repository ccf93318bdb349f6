"""The plot of the core benchmark: a row of panels for the CPU, two for the GPU, each with one message as its title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgefuse.io.matplotlib_io import COLOURS, GREY, label_lines
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites.core import FLUSHED, READ
from edgefuse_benchmarks.suites.core_gpu import CHAIN, COLD, COMPILED, EAGER, GRAPH, TRITON

ROW_HEIGHT_IN = 4.6
ORT = "ONNX Runtime, 1 thread"
KINDS = ("gated", "joint", "naive", "spatial")

Line = tuple[str, str, Callable[[Group], float | None]]
"""Label, colour, and the value of a group in µs, None if it was not measured."""


def draw_core(figure: Any, report: Report) -> None:
    """Draw what the report has; the JSON has all variants."""
    core = [group for group in report.groups if group.scope == "core"]
    on_cpu = [group for group in core if group.facts.get("device", "cpu") == "cpu"]
    on_gpu = [group for group in core if group not in on_cpu]
    streams = [group for group in report.groups if group.scope == "two streams"]
    rows = bool(on_cpu) + bool(on_gpu) + (len(on_gpu) > 1 or bool(streams))
    figure.set_size_inches(15, ROW_HEIGHT_IN * max(rows, 1) + 0.6)
    if rows == 0:
        return
    panels = list(figure.subplots(rows, 3, squeeze=False))
    if on_cpu:
        _draw_cpu(panels.pop(0), on_cpu)
    if on_gpu:
        _draw_gpu(panels.pop(0), on_gpu)
    if panels:
        _draw_kinds_batches_streams(panels.pop(0), on_gpu, streams)


def _draw_cpu(panels: Sequence[Any], groups: Sequence[Group]) -> None:
    smallest = min(group.facts.get("batch", 1) for group in groups)
    groups = sorted(
        (one for one in groups if one.facts.get("batch", 1) == smallest), key=lambda one: int(one.facts["d"])
    )
    ways = [("torch", "torch, 1 thread"), ("ONNX Runtime", ORT), ("OpenVINO", "OpenVINO, 1 thread")]
    engines: list[Line] = [
        (label, colour, _median(f"gated, {way}")) for (label, way), colour in zip(ways, COLOURS, strict=False)
    ]
    engines.append(("reading gated's\nweights", GREY, _median(f"gated, {READ}")))
    kinds: list[Line] = [
        (kind, colour, _median(f"{kind}, {ORT}")) for kind, colour in zip(KINDS, COLOURS, strict=False)
    ]
    limits: list[Line] = [
        ("ONNX Runtime", COLOURS[1], _quotient(f"gated, {ORT}", f"gated, {READ}")),
        ("ONNX Runtime,\ncaches emptied", COLOURS[3], _quotient(f"gated, {ORT}{FLUSHED}", f"gated, {READ}{FLUSHED}")),
        ("torch", COLOURS[0], _quotient("gated, torch, 1 thread", f"gated, {READ}")),
    ]
    last = groups[-1]
    d, times = last.facts["d"], limits[0][2](last)
    gate = _quotient(f"gated, {ORT}", f"naive, {ORT}")(last)
    one_thread = "gated on one CPU thread, by engine"
    _over_d(panels[0], groups, engines, title=f"{one_thread}\n", ylabel="µs a call")
    _over_d(
        panels[1],
        groups,
        kinds,
        ylabel="µs a call",
        title=f"d = {d}: gated takes {_text(gate)} times naive\n(ONNX Runtime)",
    )
    _over_d(
        panels[2],
        groups,
        limits,
        title=f"d = {d}: gated takes {_text(times)} times the reading\nof its weights (ONNX Runtime)",
        ylabel="time / time to read the weights",
    )
    panels[2].axhline(1, color="0.8", zorder=0)


def _draw_gpu(panels: Sequence[Any], groups: Sequence[Group]) -> None:
    groups = _gated(groups)
    if not groups:
        return
    replays: list[Line] = [
        (label, colour, _median(name))
        for (label, name), colour in zip(
            (("torch", EAGER), ("torch.compile", COMPILED), ("CUDA graph\nof torch", GRAPH), ("Triton", TRITON)),
            COLOURS,
            strict=False,
        )
    ]
    replays.append(("limit", GREY, _limit("replay")))
    alone: list[Line] = [
        ("CUDA graph\nof torch", COLOURS[2], _median(GRAPH + CHAIN)),
        ("Triton", COLOURS[3], _median(TRITON + CHAIN)),
        ("limit", GREY, _limit("chain")),
    ]
    cold: list[Line] = [
        ("CUDA graph\nof torch", COLOURS[2], _median(GRAPH + COLD)),
        ("Triton", COLOURS[3], _median(TRITON + COLD)),
        ("limit", GREY, _limit("cold")),
    ]
    last = groups[-1]
    d = last.facts["d"]

    def times(name: str, limit: str) -> str:
        found, least = _median(name)(last), _limit(limit)(last)
        return _text(None if found is None or least is None else found / least)

    share = _text(_quotient(TRITON, EAGER)(last))
    _over_d(
        panels[0],
        groups,
        replays,
        ylabel="µs a run",
        title=f"d = {d}: Triton takes {share} of torch's time\n(gated, runs from Python)",
    )
    title = f"d = {d}: Triton takes {times(TRITON + CHAIN, 'chain')} times its limit\n(on the GPU alone)"
    _over_d(panels[1], groups, alone, ylabel="µs a run", title=title)
    title = f"d = {d}: {times(TRITON + COLD, 'cold')} times its limit\nwith weights from the GPU's memory"
    _over_d(panels[2], groups, cold, ylabel="µs a run", title=title)


def _draw_kinds_batches_streams(panels: Sequence[Any], groups: Sequence[Group], streams: Sequence[Group]) -> None:
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        of_kind = _gated(groups, kind=kind)
        _plot(panels[0], of_kind, (kind, colour, _median(TRITON + CHAIN)), "d")
    _finish(panels[0], "d", title="Triton, on the GPU alone: every fusion\n", ylabel="µs a run")
    widths = [group.facts["d"] for group in groups if group.facts["batch"] > 1]
    if widths:
        batches = [one for one in groups if _is(one, kind="gated", d=widths[0])]
        batches.sort(key=lambda one: int(one.facts["batch"]))
        for line in (
            ("CUDA graph\nof torch", COLOURS[2], _median(GRAPH + CHAIN)),
            ("Triton", COLOURS[3], _median(TRITON + CHAIN)),
            ("limit", GREY, _limit("chain")),
        ):
            _plot(panels[1], batches, line, "batch")
        _finish(
            panels[1],
            "batch",
            title=f"Triton over the batch (gated, d = {widths[0]},\non the GPU alone)",
            ylabel="µs a run",
        )
    else:
        panels[1].set_axis_off()
    if streams:
        _draw_streams(panels[2], streams)
    else:
        panels[2].set_axis_off()


def _draw_streams(axes: Any, streams: Sequence[Group]) -> None:
    """The plain order, two streams and the longer side of each model."""
    names, values, colours = [], [], []
    for group in streams:
        backbone = group.facts["backbone"]
        for name, colour in (
            ("plain order", COLOURS[1]),
            ("two streams", COLOURS[0]),
            (group.facts["longer_side"], GREY),
        ):
            names.append(f"{backbone}\n{name}")
            values.append((_median(name)(group) or 0) / 1e3)
            colours.append(colour)
    bars = axes.barh(range(len(names)), values, color=colours)
    axes.bar_label(bars, [f"{value:.3g} ms" for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    least = max(one.median for group in streams for one in group.ratios[:1])
    axes.set_xlabel("ms a run")
    axes.set_title(f"Two streams: at most {least:.3g} times the longer side\n(two backbones, gated)", fontsize=11)


def _gated(groups: Sequence[Group], *, kind: str = "gated") -> list[Group]:
    found = [one for one in groups if _is(one, kind=kind, batch=1)]
    return sorted(found, key=lambda one: int(one.facts["d"]))


def _is(group: Group, **facts: Any) -> bool:
    return all(group.facts[name] == value for name, value in {"precision": "float32", **facts}.items())


def _over_d(axes: Any, groups: Sequence[Group], lines: Sequence[Line], *, title: str, ylabel: str) -> None:
    for line in lines:
        _plot(axes, groups, line, "d")
    _finish(axes, "d", title=title, ylabel=ylabel)


def _plot(axes: Any, groups: Sequence[Group], line: Line, fact: str) -> None:
    label, colour, value = line
    found = [(group.facts[fact], value(group)) for group in groups]
    points = [(x, y) for x, y in found if y is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, label=label)


def _finish(axes: Any, fact: str, *, title: str, ylabel: str) -> None:
    ticks = sorted({float(x) for line in axes.get_lines() for x in line.get_xdata()})
    axes.set(xscale="log", yscale="log", ylabel=ylabel)
    axes.set_xlabel("features of each sensor (d)" if fact == "d" else "pairs of a run (batch)")
    axes.set_title(title, fontsize=11)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high < 100 * low:  # name more than the powers of ten
        from matplotlib.ticker import LogLocator

        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    label_lines(axes)


def _median(name: str) -> Callable[[Group], float | None]:
    def value(group: Group) -> float | None:
        return next((one.summary().p50_ns / 1e3 for one in group.series if one.name == name), None)

    return value


def _limit(name: str) -> Callable[[Group], float | None]:
    return lambda group: group.facts["limits_ns"][name] / 1e3


def _quotient(above: str, below: str) -> Callable[[Group], float | None]:
    def value(group: Group) -> float | None:
        a, b = _median(above)(group), _median(below)(group)
        return None if a is None or b is None else a / b

    return value


def _text(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"
