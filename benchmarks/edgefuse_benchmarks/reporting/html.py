"""HTML and SVG elements. Every text goes through `escaped`, so that names in results cannot become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgefuse.io.text import printable
from edgefuse_benchmarks.reporting.messages import duration

_ROW, _LABEL, _WIDTH, _VALUE = 30, 270, 800, 190
"""Sizes of a chart in SVG units: height of a row; widths of the labels, of the whole, and of the values."""
MAX_LABEL = 42


class Bar(NamedTuple):
    """One row of a chart, in nanoseconds."""

    label: str
    p50_ns: float
    p99_ns: float


def escaped(text: object) -> str:
    """`text` for HTML, in elements and in attributes."""
    return html.escape(printable(str(text)), quote=True)


def element(name: str, *children: str, **attributes: str) -> str:
    """An element of HTML that was made by this module; use `escaped` for texts. `class_` is the attribute class."""
    shown = "".join(f' {key.rstrip("_")}="{escaped(value)}"' for key, value in attributes.items())
    return f"<{name}{shown}>{''.join(children)}</{name}>"


def text(name: str, value: object, **attributes: str) -> str:
    """An element with a text."""
    return element(name, escaped(value), **attributes)


def bullets(items: Iterable[object], **attributes: str) -> str:
    """A list of texts; empty without items."""
    shown = [text("li", item) for item in items]
    return element("ul", *shown, **attributes) if shown else ""


def table(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; the first column is text, the others are numbers."""
    head = element("tr", *(text("th", header) for header in headers))
    body = [element("tr", text("th", row[0], scope="row"), *(text("td", cell) for cell in row[1:])) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A list of names and values."""
    return element(
        "dl", *(element("div", text("dt", name), text("dd", value)) for name, value in pairs), class_="facts"
    )


def bar_chart(bars: Sequence[Bar], *, title: str) -> str:
    """Medians as bars and p99 as whiskers, from zero. A whisker beyond four times the longest bar ends in an arrow."""
    longest = max(bar.p50_ns for bar in bars)
    limit = min(max(bar.p99_ns for bar in bars), 4 * longest) or 1.0
    scale = (_WIDTH - _LABEL - _VALUE) / limit
    parts = [element("title", escaped(title))]
    for number, bar in enumerate(bars):
        middle = number * _ROW + _ROW / 2
        end, tail = _LABEL + bar.p50_ns * scale, _LABEL + min(bar.p99_ns, limit) * scale
        label = bar.label if len(bar.label) <= MAX_LABEL else f"{bar.label[: MAX_LABEL - 1]}…"
        parts.append(
            f'<text class="label" x="{_LABEL - 8}" y="{middle + 4:g}" text-anchor="end">{escaped(label)}</text>'
        )
        parts.append(
            f'<rect class="bar" x="{_LABEL}" y="{middle - 9:g}" width="{end - _LABEL:.1f}" height="18" rx="2"/>'
            f'<path class="whisker" d="M{end:.1f} {middle:g}H{tail:.1f}'
            + ("m-5 -5l5 5l-5 5" if bar.p99_ns > limit else "m0 -5v10")
            + '"/>'
        )
        shown = f"{duration(bar.p50_ns)} (p99 {duration(bar.p99_ns)})"
        parts.append(f'<text class="value" x="{tail + 8:.1f}" y="{middle + 4:g}">{escaped(shown)}</text>')
    return element(
        "svg", *parts, class_="chart", viewBox=f"0 0 {_WIDTH} {len(bars) * _ROW}", role="img", aria_label=title
    ).replace("aria_label=", "aria-label=", 1)
