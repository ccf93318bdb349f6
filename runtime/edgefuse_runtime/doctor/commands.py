"""The command edgefuse doctor: shows the checks of `report`, or prints them as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from edgefuse.console.options import AsJson
from edgefuse.io.text import new_console, printable

if TYPE_CHECKING:
    from rich.console import Console

    from edgefuse_runtime.doctor.check import Check

STYLES = {"ok": "green", "missing": "dim", "warning": "yellow", "broken": "bold red"}
NAME_COLUMN, FOUND_COLUMN = 11, 25
BEFORE_STEP = "  "


def doctor(as_json: AsJson = False) -> None:
    """Check Python, PyTorch, engines, GPU and cameras of this machine, and show what to type for what is missing.

    Exit code 1 if a part is installed but does not work. A missing part is not a failure: install it only if you need it.
    """
    from edgefuse import __version__
    from edgefuse.io.json_files import dumps
    from edgefuse_runtime.doctor.report import examine

    checks = examine()
    if as_json:
        typer.echo(dumps({"edgefuse": __version__, "checks": [check.to_json() for check in checks]}))
    else:
        show(checks, new_console(), version=__version__)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


def show(checks: Sequence[Check], console: Console, *, version: str) -> None:
    """Print the checks under their headings. What to type is never broken into lines, so that it can be copied."""
    from rich.text import Text

    group = ""
    console.print(f"edgefuse {version}", style="bold")
    for check in checks:
        if check.component.group != group:
            group = check.component.group
            console.print(group, style="bold")
        line = Text()
        line.append(f"  {check.state:<{NAME_COLUMN - 2}}", style=STYLES[check.state])
        line.append(f"{check.component.name:<{FOUND_COLUMN - NAME_COLUMN}}")
        line.append(_wrapped(check.found, console.width))
        last_line = line.plain.rpartition("\n")[2]
        for step in map(printable, check.step.splitlines()):
            fits = check.step == step and len(last_line) + len(BEFORE_STEP) + len(step) <= console.width
            line.append(BEFORE_STEP if fits else f"\n{' ' * NAME_COLUMN}")
            line.append(step, style="cyan")
        console.print(line, soft_wrap=True)
    if any(check.step for check in checks):
        console.print("\nFor a part that you need, type what is shown with it.")


def _wrapped(text: str, width: int) -> str:
    """`text` in lines that begin in its column."""
    lines = textwrap.wrap(
        printable(text), max(20, width - FOUND_COLUMN), break_long_words=False, break_on_hyphens=False
    )
    return f"\n{' ' * FOUND_COLUMN}".join(lines)
