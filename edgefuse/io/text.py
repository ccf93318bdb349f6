"""Names and messages as people see them, whatever is in a name and wherever the text goes.

A class, file or device name is data: it may hold brackets that rich takes for markup, dollars that matplotlib takes for
formulas, control characters that a terminal obeys, or bytes that are no UTF-8. Owns how such text is shown; everything that
prints, draws or names a folder uses it. Standard library only, rich where it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_NAME_BYTES = 200
"""File systems take 255 bytes; temporary names and suffixes need some of them."""

_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control, format (such as right-to-left marks), lone surrogates, line and paragraph separators."""


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with everything that does not show as itself written as an escape.

    Bytes that were no UTF-8 in a file name become \xNN, control and format characters \n, \x1b or \u202e. The result can be
    encoded in UTF-8 and never moves a terminal's cursor.

    Args:
        keep: characters to leave as they are, such as a line break in a message of several lines.

    Example:
        >>> print(printable("caf\udce9\x1b[2J"))
        caf\xe9\x1b[2J
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _HIDDEN_CATEGORIES
        else _escaped(character)
        for character in text
    )


def quoted(path: Path | str) -> str:
    """A path in a command that a message gives, as a shell takes it: every `edgefuse ...` that is shown has it so.

    Example:
        >>> print(f"edgefuse train {quoted('my mugs')} --out RUN")
        edgefuse train 'my mugs' --out RUN
    """
    return shlex.quote(printable(str(path)))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python stores a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people count: frame_2 before frame_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]


def some_of(names: Sequence[str], *, most: int = 5) -> str:
    """A few names for a message, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def markdown_cell(text: str) -> str:
    """`text` in a cell of a Markdown table: on one line, and no bar in it ends the cell."""
    return printable(text).replace("|", "\\|")


def write_text(path: Path, text: str) -> None:
    """Write a text for people, such as a report, as UTF-8; names in it show as `printable` shows them."""
    path.write_text(printable(text, keep="\n\t"), encoding="utf-8")


def ascii_only(text: str) -> str:
    """`text` for writers that know ASCII alone, such as OpenCV's `putText`: everything else becomes a question mark."""
    return printable(text).encode("ascii", "replace").decode("ascii")


def say(text: str) -> None:
    """One line for the user, on standard error; nowhere where it is closed, or its reader is gone."""
    with contextlib.suppress(OSError):
        write_line(text, sys.stderr)


def write_line(text: str, stream: IO[str] | None) -> None:
    """Print `text` and flush; line breaks in it stay. None is a stream that the parent process closed."""
    if stream is not None:
        print(printable(text, keep="\n\t"), file=stream, flush=True)


def new_console(file: IO[str] | None = None, *, width: int | None = None) -> Console:
    """A rich console for texts with names in them: no markup, no emoji codes, no highlighting.

    Style what needs it with `style=` or `rich.text.Text`. Names still go through `printable`, or into a `new_table`.
    """
    from rich.console import Console

    return Console(file=file or sys.stdout, width=width, markup=False, emoji=False, highlight=False)


def new_table(*headers: str, **options: Any) -> Table:
    """A `rich.table.Table` whose headers and cells are shown as they are: `printable`, and no markup on `new_console`."""
    from rich.table import Table

    class NameTable(Table):
        def add_column(self, header: Any = "", *arguments: Any, **more: Any) -> None:
            super().add_column(_shown(header), *arguments, **more)

        def add_row(self, *cells: Any, **more: Any) -> None:
            super().add_row(*(_shown(cell) for cell in cells), **more)

    table = NameTable(**{**options, "title": _shown(options.get("title"))})
    for header in headers:
        table.add_column(header)
    return table


def _shown(cell: Any) -> Any:
    return printable(cell, keep="\n") if isinstance(cell, str) else cell


def prepare_streams() -> None:
    """Make standard output and error take any text: what their encoding lacks is written as an escape.

    Where one was closed before the start (`>&-`, some supervisors), what is written to it is lost, instead of ending the
    program or landing in the first file that it opens.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _occupy(number)
            if number:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115, PTH123
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _occupy(number: int) -> None:
    """Open /dev/null under a closed standard descriptor, so that no file gets it: native libraries print to 1 and 2."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def check_name(name: str, *, what: str) -> str:
    """A name that becomes a folder: of a class, a sequence, a camera.

    Raises:
        UserError: it is empty, hidden, too long, not UTF-8, or holds a slash, a backslash or a character that does not show.
    """
    problem = name_problem(name)
    if problem:
        raise UserError(f"the {what} is {printable(name)!r}: {problem}; a plain name such as red_mug was expected")
    return name


def name_problem(name: str) -> str | None:
    """What is wrong with a name that a folder has or is to have; None where nothing is."""
    try:
        num_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    problems = {
        "it is empty": not name.strip(),
        "it begins with a dot, which hides it": name.startswith("."),
        "it holds a slash or backslash": "/" in name or "\\" in name,
        "it holds a control character": printable(name) != name,
        f"it has {num_bytes} bytes, at most {MAX_NAME_BYTES} were expected": num_bytes > MAX_NAME_BYTES,
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)
