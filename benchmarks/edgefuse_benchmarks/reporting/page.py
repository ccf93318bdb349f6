"""The HTML report: one page without external files of all results in a folder, for readers who did not measure them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced
from edgefuse.io.text import write_text
from edgefuse_benchmarks.reporting.html import bullets, element, escaped, text
from edgefuse_benchmarks.reporting.sections import ORDER, Section, section_of

STYLE = """
:root{--back:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#5a6470;--line:#d5dae0;--bar:#0b6aa8;--warn:#8a4b00;--warnback:#fff4e0}
@media (prefers-color-scheme:dark){:root{--back:#14171b;--card:#1e2329;--ink:#e8ebee;--soft:#a3adb8;--line:#38414b;--bar:#4ea8e6;
--warn:#ffc66d;--warnback:#33270f}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:62rem;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}h3{font-size:1.25rem;margin:0}h4{margin:1.6rem 0 .4rem;font-size:1rem}
a{color:var(--bar)}.soft,.remark,figcaption{color:var(--soft)}.remark{font-size:.9rem}
section{border-top:1px solid var(--line);margin-top:2.5rem;padding-top:1.5rem}
.message{font-size:1.15rem;margin:.4rem 0 .8rem}
.short{padding:0;list-style:none}.short li{background:var(--card);border-left:4px solid var(--bar);padding:.6rem .9rem;margin:.5rem 0;border-radius:3px}
.short .soft{display:block;font-size:.85rem}
.warnings{background:var(--warnback);color:var(--warn);border-radius:3px;padding:.6rem .9rem .6rem 2rem;margin:.8rem 0;font-size:.92rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:.35rem 1.5rem;margin:1rem 0;font-size:.92rem}
.facts div{min-width:0;overflow-wrap:anywhere}dt{color:var(--soft);font-size:.8rem}dd{margin:0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:.8rem 0;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left;white-space:normal;min-width:11rem}thead th{color:var(--soft);font-weight:600}tbody th{font-weight:400}
.chart{width:100%;height:auto;max-width:800px;font-size:13px}.chart text{fill:var(--ink)}.chart .value{fill:var(--soft)}
.bar{fill:var(--bar)}.whisker{stroke:var(--soft);stroke-width:1.5;fill:none}
figure{margin:1.2rem 0}figure img{width:100%;background:#fff;border-radius:4px}summary{cursor:pointer;color:var(--soft)}
@media print{:root{--back:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--bar:#0b6aa8;--warn:#000;--warnback:#fff}
body{max-width:none;padding:0;font-size:11pt}section{break-inside:auto}h3,h4{break-after:avoid}svg,figure,tr,.facts{break-inside:avoid}
.warnings{border:1px solid #888}table{font-size:8pt}th,td{white-space:normal}th:first-child{min-width:0}}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser loads nothing from elsewhere and runs no script."""


def write_page(folder: Path, out: Path) -> tuple[int, list[str]]:
    """Write the report of all results in `folder` and in its folders.

    Returns:
        The number of results in the page, and the JSON files that it does not show, with the reason.

    Raises:
        UserError: `folder` is no folder, or has no result.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: the --out of edgefuse bench was expected")
    sections, left_out = [], []
    for path in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"))):
        try:
            sections.append(section_of(path))
        except UserError as error:
            left_out.append(f"{path.relative_to(folder)}: {str(error).replace(str(path), path.name)}")
    if not sections:
        raise UserError(
            f"{folder} has no result of edgefuse bench" + (f" ({len(left_out)} other JSON files)" if left_out else "")
        )
    sections.sort(key=lambda one: one.date, reverse=True)
    sections.sort(key=lambda one: ORDER.index(one.title) if one.title in ORDER else len(ORDER))
    with file_replaced(out) as temporary:
        write_text(temporary, page(sections, left_out, name=folder.resolve().name))
    return len(sections), left_out


def page(sections: Sequence[Section], left_out: Sequence[str], *, name: str) -> str:
    """The complete page."""
    dates = sorted(one.date for one in sections if one.date)
    machines = dict.fromkeys(one.machine for one in sections)
    num_warned = sum(bool(one.warnings) for one in sections)
    about = (
        f"{len(sections)} result(s) of {name} on {len(machines)} machine(s), measured {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}; "
        f"{num_warned} with warnings. Page made {datetime.now(timezone.utc):%Y-%m-%d}."
    )
    short = [
        element(
            "li",
            element("a", element("strong", escaped(one.title)), href=f"#r{number}"),
            f" {escaped(one.message)}",
            text("span", f"{one.machine}{'; with warnings' if one.warnings else ''}", class_="soft"),
        )
        for number, one in enumerate(sections)
    ]
    body = [
        element("header", text("h1", "edgefuse: what was measured"), text("p", about, class_="soft")),
        text("h2", "In short"),
        element("ul", *short, class_="short"),
        *(_section(one, number) for number, one in enumerate(sections)),
    ]
    if left_out:
        body += [element("section", text("h3", "Files that are not shown"), bullets(left_out))]
    body.append(
        text(
            "p",
            "Median: half of the samples are faster. p99: 99 of 100 are faster. cv: standard deviation over mean. Bars are medians, lines reach to p99.",
            class_="remark",
        )
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>edgefuse: {escaped(name)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _section(one: Section, number: int) -> str:
    return element(
        "section",
        text("h3", one.title),
        text("p", one.message, class_="message"),
        bullets(one.warnings, class_="warnings"),
        one.body,
        text("p", f"From {one.file}", class_="remark"),
        id=f"r{number}",
    )
