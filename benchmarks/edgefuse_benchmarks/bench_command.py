"""What the commands of `edgefuse bench` that write a result share: two options, the check before the work, and the steps after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgefuse_benchmarks.report import Report

Out = Annotated[Path, typer.Option(help="Folder for the result: a JSON file and a plot, with a new name each time.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer samples, under a minute: a first impression, not for publication.")
]


def check_out(out: Path) -> None:
    """Check before the work that the result can be saved.

    Raises:
        UserError: it cannot.
    """
    from edgefuse.errors import UserError
    from edgefuse.io.files import check_writable

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: a new or existing folder was expected")
    check_writable(out / "result")


def finish(report: Report, *, out: Path, as_json: bool) -> None:
    """Print the result, save it, and plot it last, so that a failure loses nothing of the steps before."""
    report = report.finished()
    from edgefuse_benchmarks.console import print_report
    from edgefuse_benchmarks.plots import save_plot
    from edgefuse_benchmarks.report import dumps, save

    print_and_save(
        lambda: typer.echo(dumps(report.to_json(raw=False))) if as_json else print_report(report),
        save=lambda: save(report, out),
        plot=lambda path: save_plot(report, path),
    )


def print_and_save(show: Callable[[], None], *, save: Callable[[], Path], plot: Callable[[Path], object]) -> None:
    """The steps of `finish`, for any result: `save` returns its file, `plot` draws to the given one."""
    from edgefuse.io.text import say

    try:
        show()
    finally:  # even if standard output is closed
        path = save()
        say(f"result: {path}")
    try:
        plot(path.with_suffix(".png"))
    except Exception as error:
        say(f"no plot: {error}")
