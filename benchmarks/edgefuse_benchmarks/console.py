"""Prints a result as text: one table per group, ratios, notes. Colours and lines on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from edgefuse.io.text import new_console, new_table, printable
from edgefuse_benchmarks.report import SCOPES, Group, Report, general_notes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 140


def print_report(report: Report, *, file: IO[str] | None = None) -> None:
    """Print the complete result, by default to standard output."""
    stream = file or sys.stdout
    console = new_console(stream, width=None if stream.isatty() else PLAIN_WIDTH)
    cpu = report.machine["cpu"]
    console.print(f"{report.benchmark}: {cpu['model']}, {cpu['cores_usable']} core(s), {report.machine['date_utc']}")
    printed_scopes = set()
    for group in report.groups:
        if group.scope not in printed_scopes:
            printed_scopes.add(group.scope)
            console.print(f"\nscope {group.scope}: {SCOPES[group.scope]}", style="bold")
        console.print(_series_table(group, console))
    if any(group.ratios for group in report.groups):
        console.print("\nratios of medians, paired by rounds", style="bold")
        console.print(_ratio_table(report, console))
    for note in (*report.notes, *general_notes(report)):
        console.print(printable(f"note: {note}"), style="yellow", soft_wrap=not stream.isatty())


def _series_table(group: Group, console: Console) -> Table:
    summaries = [(series, series.summary()) for series in group.series]
    divisor, digits, unit = (1e3, 1, "us") if group.scope == "core" else (1e6, 3, "ms")
    with_bytes = bool(group.bytes_read)
    with_first = any(series.first_call_ns is not None for series in group.series)
    headers = ["p50", "p95", "p99", "max", *(["first"] if with_first else [])]
    table = _new_table(group.name, [*(f"{header} {unit}" for header in headers), "cv", "samples"], console)
    if with_bytes:
        table.add_column("GB/s", justify="right")
    for series, summary in summaries:
        first_ns = [] if not with_first else [series.first_call_ns]
        times_ns = [summary.p50_ns, summary.p95_ns, summary.p99_ns, summary.max_ns, *first_ns]
        cells = ["-" if time_ns is None else f"{time_ns / divisor:,.{digits}f}" for time_ns in times_ns]
        cells += [f"{summary.cv:.0%}", str(summary.count)]
        gb_per_s = group.gb_per_s(series)
        table.add_row(
            series.name, *cells, *([] if not with_bytes else ["-" if gb_per_s is None else f"{gb_per_s:.1f}"])
        )
    for name, reason in group.facts.get("not_measured", {}).items():
        table.add_row(printable(f"{name}: not measured, {reason}"))
    return table


def _ratio_table(report: Report, console: Console) -> Table:
    table = _new_table("", ["ratio", "95 % of the median", "p5-p95 of rounds", "rounds"], console)
    groups = [group for group in report.groups if group.ratios]
    for group in groups:
        where = f"{group.name}: " if len(groups) > 1 else ""
        for found in group.ratios:
            table.add_row(
                where + ratio_label(found.numerator, found.denominator),
                f"{found.median:.2f}",
                f"{found.low:.2f}-{found.high:.2f}",
                f"{found.p5:.2f}-{found.p95:.2f}",
                str(found.num_rounds),
            )
    return table


def ratio_label(numerator: str, denominator: str) -> str:
    """ "gated / naive (torch, 1 thread)" for "gated, torch, 1 thread" over "naive, torch, 1 thread"."""
    above, below = numerator.split(", "), denominator.split(", ")
    shared: list[str] = []
    while len(above) > 1 and len(below) > 1 and above[-1] == below[-1]:
        shared.insert(0, above.pop())
        below.pop()
    label = f"{', '.join(above)} / {', '.join(below)}"
    return f"{label} ({', '.join(shared)})" if shared else label


def _new_table(title: str, headers: list[str], console: Console) -> Table:
    from rich import box

    table = new_table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table
