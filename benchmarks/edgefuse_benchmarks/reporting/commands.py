"""edgefuse bench compare and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import AsJson, Force, finite

if TYPE_CHECKING:
    from edgefuse_benchmarks.reporting.compare import Comparison

EXIT_SLOWER = 3


def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of edgefuse bench: before.", metavar="A.json")],
    second: Annotated[Path, typer.Argument(help="JSON file of the same benchmark: after.", metavar="B.json")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1000,
            callback=finite,
            metavar="RATIO",
            help="Exit with 3 if a median of B is above RATIO times that of A, by more than the spread. For CI, such as 1.2.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two results: medians, p99, their ratio B / A with its spread, and whether the difference exceeds the spread.

    Exit codes: 0 compared, 1 a file cannot be compared, 2 wrong usage, 3 slower than --fail-above allows.
    """
    from edgefuse.io.text import say
    from edgefuse_benchmarks.reporting.compare import compare as compare_reports
    from edgefuse_benchmarks.reporting.saved import read_report

    found = compare_reports(read_report(first), read_report(second))
    if as_json:
        from edgefuse_benchmarks.report import dumps

        typer.echo(dumps(found.to_json()))
    else:
        _print(found)
    slower = [row for row in found.rows if fail_above is not None and row.exceeds(fail_above)]
    if slower:
        worst = max(slower, key=lambda row: row.ratio)
        say(
            f"{len(slower)} series slower than {fail_above:g} times: at most {worst.ratio:.2f} ({worst.group}: {worst.name})"
        )
        raise typer.Exit(EXIT_SLOWER)


def _print(found: Comparison) -> None:
    import sys

    from edgefuse.io.text import new_console, new_table, printable
    from edgefuse_benchmarks.console import PLAIN_WIDTH
    from edgefuse_benchmarks.reporting.compare import CAVEAT

    console = new_console(sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(f"bench {found.benchmark}: B compared with A")
    for line in found.differences or ("same machine, commit, bundle, settings and versions",):
        console.print(printable(line), style="yellow" if found.differences else None, soft_wrap=True)
    table = new_table(box=None, pad_edge=False, header_style="bold")
    table.add_column("times in ms")
    for header in ("A p50", "B p50", "B / A", "95 %", "A p99", "B p99"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("B is")
    for row in found.rows:
        times = [f"{value / 1e6:.4g}" for value in (row.first.p50_ns, row.second.p50_ns)]
        tails = [f"{value / 1e6:.4g}" for value in (row.first.p99_ns, row.second.p99_ns)]
        spread = f"{row.low:.2f}-{row.high:.2f}"
        table.add_row(f"{row.group}: {row.name}", *times, f"{row.ratio:.2f}", spread, *tails, row.verdict)
    console.print(table)
    for which, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            console.print(printable(f"only in {which}: {'; '.join(names)}"), soft_wrap=True)
    console.print(f"note: {CAVEAT}", soft_wrap=True)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder with results: the --out of edgefuse bench.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    force: Force = False,
) -> None:
    """Make one HTML page of all results in a folder: main messages, hardware, warnings, plots and tables. It needs no network."""
    from edgefuse.errors import UserError
    from edgefuse.io.files import check_writable
    from edgefuse.io.text import say
    from edgefuse_benchmarks.reporting.page import write_page

    if out.exists() and not force:
        raise UserError(f"{out} exists: give another --out, or --force to overwrite it")
    check_writable(out)
    num_results, left_out = write_page(folder, out)
    for reason in left_out:
        say(f"not shown: {reason}")
    say(f"report: {out} ({num_results} results)")
