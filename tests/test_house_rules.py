"""Files and functions stay short enough to be read in one go.

A function over the limit says why on its first line: `def parse(  # long: one table, row by row`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgefuse", "export", "runtime", "benchmarks", "tests")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
REASON = re.compile(r"#\s*long:\s*\w")


def _sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def _long_functions(source: str) -> list[str]:
    """Functions over the limit without a reason, as "name: N lines". Decorators do not count."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES and not REASON.search(lines[node.lineno - 1]):
                found.append(f"{node.name} (line {node.lineno}): {num_lines} lines")
    return found


def test_files_are_short() -> None:
    lines_by_file = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _sources()}
    found = [f"{path}: {lines} lines" for path, lines in lines_by_file.items() if lines > MAX_FILE_LINES]
    assert not found, "\n".join(found)


def test_functions_are_short() -> None:
    found = [f"{path}: {text}" for path in _sources() for text in _long_functions(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("first_line", "num_lines", "refused"),
    [
        ("def f():", MAX_FUNCTION_LINES, False),
        ("def f():", MAX_FUNCTION_LINES + 1, True),
        ("async def f():", MAX_FUNCTION_LINES + 1, True),
        ("def f():  # long: a table", MAX_FUNCTION_LINES + 1, False),
        ("def f():  # long:", MAX_FUNCTION_LINES + 1, True),
    ],
)
def test_long_functions_are_found(first_line: str, num_lines: int, refused: bool) -> None:
    source = "\n".join([first_line, *["    pass"] * (num_lines - 1)])
    assert bool(_long_functions(source)) is refused
