"""Names and messages in a form that is safe to show in any terminal, table, plot or file.

Names of classes, files and devices are data: they may contain brackets that rich parses as markup, dollars that matplotlib parses
as formulas, terminal control characters, or bytes that are not UTF-8. Owns how such text is shown; all code that prints, draws or
names a folder uses it. Standard library only; rich is imported on use.
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
"""File systems allow 255 bytes; temporary names and suffixes need the rest."""

_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control and format characters (such as right-to-left marks), lone surrogates, line and paragraph separators."""


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with every character that is not visible replaced by an escape.

    Bytes of a file name that are not UTF-8 become \xNN, control and format characters \n, \x1b or \u202e. The result can be
    encoded in UTF-8 and never moves a terminal's cursor.

    Args:
        keep: characters to leave unchanged, such as line breaks in a message of several lines.

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
    """A path quoted for the shell. Every `edgefuse ...` command in a message uses it.

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
    """A sort key that orders numbers in names by value: frame_2 before frame_10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]


def some_of(names: Sequence[str], *, most: int = 5) -> str:
    """The first few names for a message, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: on one line, with bars escaped."""
    return printable(text).replace("|", "\\|")


def write_text(path: Path, text: str) -> None:
    """Write a text file such as a report in UTF-8, with names as `printable` shows them."""
    path.write_text(printable(text, keep="\n\t"), encoding="utf-8")


def ascii_only(text: str) -> str:
    """`text` for ASCII-only writers such as OpenCV's `putText`: other characters become question marks."""
    return printable(text).encode("ascii", "replace").decode("ascii")


def say(text: str) -> None:
    """Print one line to standard error. A closed or broken stream is ignored."""
    with contextlib.suppress(OSError):
        write_line(text, sys.stderr)


def write_line(text: str, stream: IO[str] | None) -> None:
    """Print `text` and flush; line breaks are kept. A stream of None was closed by the parent process."""
    if stream is not None:
        print(printable(text, keep="\n\t"), file=stream, flush=True)


def new_console(file: IO[str] | None = None, *, width: int | None = None) -> Console:
    """A rich console for text with names in it: no markup, no emoji codes, no highlighting.

    Use `style=` or `rich.text.Text` for styles. Pass names through `printable`, or put them into a `new_table`.
    """
    from rich.console import Console

    return Console(file=file or sys.stdout, width=width, markup=False, emoji=False, highlight=False)


def new_table(*headers: str, **options: Any) -> Table:
    """A `rich.table.Table` that shows headers and cells literally: `printable`, and without markup on `new_console`."""
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
    """Make standard output and error accept any text: characters that their encoding lacks are escaped.

    Output to a stream that was closed before the start (`>&-`, some supervisors) is discarded. Otherwise it would end the
    program, or go into the first file that the program opens.
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
    """Open /dev/null as a closed standard descriptor, so that no file gets its number: native libraries print to 1 and 2."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def check_name(name: str, *, what: str) -> str:
    """Check a name that becomes a folder: of a class, a sequence, a camera.

    Raises:
        UserError: it is empty, hidden, too long, not UTF-8, or contains a slash, a backslash or an invisible character.
    """
    problem = name_problem(name)
    if problem:
        raise UserError(f"the {what} is {printable(name)!r}: {problem}; a plain name such as red_mug was expected")
    return name


def name_problem(name: str) -> str | None:
    """What is wrong with a folder name; None if it is valid."""
    try:
        num_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not UTF-8"
    problems = {
        "it is empty": not name.strip(),
        "it begins with a dot, which hides it": name.startswith("."),
        "it contains a slash or backslash": "/" in name or "\\" in name,
        "it contains a control character": printable(name) != name,
        f"it has {num_bytes} bytes, at most {MAX_NAME_BYTES} were expected": num_bytes > MAX_NAME_BYTES,
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)
