"""Names are data: whatever they hold, each shows on one line, tables keep their form and files can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgefuse.errors import UserError
from edgefuse.io.text import (
    ascii_only,
    check_name,
    markdown_cell,
    name_problem,
    new_console,
    new_table,
    printable,
    write_text,
)

ANY_TEXT = st.text(alphabet=st.characters(codec=None), max_size=40)


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_any_names_are_one_row_of_a_markdown_table(names: list[str]) -> None:
    row = f"| {' | '.join(map(markdown_cell, names))} |"
    row.encode("utf-8")
    assert len(row.splitlines()) <= 1 and row.replace("\\|", "").count("|") == len(names) + 1


@given(ANY_TEXT)
def test_a_report_can_be_written_whatever_names_are_in_it(name: str) -> None:
    path = Path(f"/dev/shm/edgefuse-test-{os.getpid()}.md")
    try:
        write_text(path, f"# {name}\n")
        assert path.read_text(encoding="utf-8") == f"# {printable(name, keep=chr(10) + chr(9))}\n"
    finally:
        path.unlink()


@given(ANY_TEXT)
def test_any_name_is_shown_on_one_line_of_utf_8(name: str) -> None:
    shown = printable(name)
    shown.encode("utf-8")
    assert "\x1b" not in shown and len(shown.splitlines()) <= 1 and printable(shown) == shown
    assert ascii_only(name).isascii()


@given(ANY_TEXT)
def test_a_name_is_a_folder_or_has_a_problem(name: str) -> None:
    if name_problem(name) is None:
        assert Path("root", name).name == name
        os.fsencode(name)
    else:
        with pytest.raises(UserError, match="plain name"):
            check_name(name, what="label")


@pytest.mark.parametrize("name", ["[ok]", "[bold]cup", "[/x]", "mug[old]", ":smile:", "$x$", "\x1b[2Jx", "caf\udce9"])
def test_a_table_shows_names_as_they_are(name: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        table = new_table(name, title=name)
        table.add_row(name)
        console: Console = new_console(file, width=200)
        console.print(table)
        console.print(printable(name))
    assert (tmp_path / "out").read_text(encoding="utf-8").count(printable(name)) == 4
