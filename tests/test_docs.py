"""Links, anchors, tables and commands of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from edgefuse.app.main import build_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/results/*.md"))
)
GUIDES = [path for path in PAGES if path.parent in (ROOT, ROOT / "docs") and path.name != "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^()\s]+)\)")
INLINE_CODE = re.compile(r"`[^`\n]+`")


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it is in a block of code."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        yield fenced or line.startswith("    "), line


def _prose(text: str) -> str:
    return "\n".join("" if is_code else line for is_code, line in _lines(text))


def _anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings: lower case, no punctuation, hyphens for spaces, -1, -2 ... for repetitions."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ +(.+)$", _prose(text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).strip().replace(" ", "-")
        anchors.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return anchors


def _broken_links(path: Path, text: str) -> list[str]:
    broken = []
    for target in LINK.findall(INLINE_CODE.sub("`", _prose(text))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        if not page.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in _anchors(text if page == path else page.read_text(encoding="utf-8")):
            broken.append(f"{target}: no such heading")
    return broken


def _broken_tables(text: str) -> list[str]:
    """Rows that GitHub shows as text: the first line of a table has no blank line before it, or no line of dashes after it."""
    lines = ["", *_prose(text).splitlines(), ""]
    firsts = [n for n, (last, line) in enumerate(pairwise(lines), 1) if line.startswith("|") > last.startswith("|")]
    is_free = [not line.strip() or line.endswith("-->") for line in lines]
    return [lines[n] for n in firsts if not is_free[n - 1] or not re.fullmatch(r"\|[-:| ]+\|", lines[n + 1])]


def _commands(text: str) -> Iterator[list[str]]:
    """The words behind `edgefuse` of each command, in blocks of code and in inline code."""
    blocks = "\n".join(line.strip() if is_code else "" for is_code, line in _lines(text)).replace("\\\n", " ")
    lines = [*blocks.splitlines(), *(code.strip("`") for code in INLINE_CODE.findall(_prose(text)))]
    for line in lines:
        words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 else []
        starts = [n for n, word in enumerate(words) if word.endswith("edgefuse") and not word.startswith("-")]
        for n in starts:
            rest = words[n + 1 :]
            ends = [k for k, word in enumerate(rest) if word in {"&&", "|", ";", ">"}]
            yield rest[: ends[0]] if ends else rest


def _unknown_options(text: str) -> list[str]:
    app = typer.main.get_command(build_app())
    unknown = []
    for words in _commands(text):
        command, names = app, iter(words)
        while hasattr(command, "commands") and (found := command.commands.get(next(names, ""))) is not None:
            command = found
        known = {"--help", "--debug"} | {name for parameter in command.params for name in parameter.opts}
        given = [re.split("[=|]", word)[0] for word in words if re.match(r"--[a-z]", word)]
        unknown += [f"{' '.join(words)}: {name}" for name in given if name not in known]
    return unknown


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_tables(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not _broken_links(path, text)
    assert not _broken_tables(text)


def test_the_options_of_commands_exist() -> None:
    unknown = {path.name: _unknown_options(path.read_text(encoding="utf-8")) for path in GUIDES}
    assert {name: found for name, found in unknown.items() if found} == {}


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("")
    text = "# A `b` c\n## Twice\n## Twice\n[1](#a-b-c) [2](#twice-1) [3](#twice-2) [4](none.md) [5](https://a.b)\n\n    [6](code.md)\n"
    assert _broken_links(path, text) == ["#twice-2: no such heading", "none.md: no such file"]
    assert _broken_tables("text\n| a |\n|---|\n\n| b |\n| c |\n\n| d |\n|--:|\n| e |\n") == ["| a |", "| b |"]
    assert _unknown_options(
        "`edgefuse live B --jsonl F` and\n\n    edgefuse data check D --jsonl F && edgefuse info P --json\n"
    ) == ["data check D --jsonl F: --jsonl"]
