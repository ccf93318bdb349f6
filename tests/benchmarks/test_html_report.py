"""The HTML report: complete, self-contained, escaped, and not stopped by files of other kinds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_bench_report import REPORTS, report, series

from edgefuse.errors import UserError
from edgefuse.measure import Ratio
from edgefuse_benchmarks.report import Group, save
from edgefuse_benchmarks.reporting.html import Bar, bar_chart
from edgefuse_benchmarks.reporting.messages import duration, key_figures, message, warnings
from edgefuse_benchmarks.reporting.page import write_page

VOID = {"meta", "img", "rect", "path"}
EVIL = "<script>alert(1)</script>\"'&\x1b[2J"


class Checked(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "srcset", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(path: Path) -> Checked:
    checked = Checked()
    checked.feed(path.read_text(encoding="utf-8"))
    assert checked.open == []
    return checked


def test_the_page_has_every_result_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    for one in REPORTS.values():
        save(one, tmp_path / "results" / "a_machine")
    num_results, left_out = write_page(tmp_path / "results", tmp_path / "report.html")
    assert (num_results, left_out) == (4, [])
    page = parsed(tmp_path / "report.html")
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links) and len(page.links) == 4 + 4
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    source = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in source and "url(" not in source and "@import" not in source
    assert "prefers-color-scheme:dark" in source and "@media print" in source
    short = page.text.partition("In short")[2]
    assert short.index("Live: from") < short.index("Engine") < short.index("Fusion core alone")
    for one in REPORTS.values():
        assert message(one) in page.text
        for group in one.groups:
            assert f"{group.scope}: {group.name}" in page.text
            assert all(each.name in page.text and duration(each.summary().p99_ns) in page.text for each in group.series)


def test_names_in_results_do_not_become_markup(tmp_path: Path) -> None:
    group = Group(scope="engine", name=EVIL, series=(series(EVIL, around_ns=1e6),), facts={})
    ratio = Ratio(numerator=EVIL, denominator="b", median=1, low=1, high=1, p5=1, p95=1, num_rounds=3)
    one = replace(
        report("engine", replace(group, ratios=(ratio,))),
        notes=(EVIL, f"busy {EVIL}"),
        machine={
            **REPORTS["core"].machine,
            "cpu": {"model": EVIL, "cores_usable": 2, "governor": EVIL},
            "command": EVIL,
        },
        parameters={"threads": EVIL, EVIL: 1},
    )
    save(one, tmp_path)
    people = {"folds": [], "title": EVIL, "machine": EVIL, "notes": [EVIL]}
    folds = [{"variant": EVIL, "accuracy": 0.5, "accuracy_no_rgb": 0.1, "accuracy_no_depth": 0.2}]
    (tmp_path / "people.json").write_text(json.dumps({**people, "results": folds}))
    gpu = {
        "benchmark": "gpu",
        "gpu": {"name": EVIL},
        "tests": [{"test": f"a::{EVIL}", "outcome": EVIL, "reason": EVIL}],
    }
    (tmp_path / "gpu.json").write_text(json.dumps({**gpu, "counts": {"passed": 1, "failed": 2, "skipped": 0}}))
    (tmp_path / "<img src=x>.json").write_text("{")
    assert write_page(tmp_path, tmp_path / "page.html")[0] == 3
    page = parsed(tmp_path / "page.html")
    assert "script" not in page.tags and page.text.count("<script>alert(1)</script>") >= 12
    assert page.tags.count("img") == 1 and "<img src=x>.json" in page.text and "\x1b" not in page.text


def test_other_files_are_listed_and_stop_nothing(tmp_path: Path) -> None:
    path = save(REPORTS["engine"], tmp_path)
    value = json.loads(path.read_text())
    others = {
        "broken.json": "{",
        "list.json": "[1]",
        "foreign.json": '{"name": "package"}',
        "newer.json": json.dumps({**value, "schema": 99}),
        "learning.json": '{"benchmark": "learning"}',
        "folds.json": '{"folds": [], "results": []}',
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "unreadable.json").mkdir()
    num_results, left_out = write_page(tmp_path, tmp_path / "page.html")
    assert num_results == 1
    assert sorted(line.partition(":")[0] for line in left_out) == sorted([*others, "unreadable.json"])
    text = parsed(tmp_path / "page.html").text
    assert "Files that are not shown" in text and all(name in text for name in others)
    assert "schema version 99" in text and "a result of learning" in text
    assert str(tmp_path) not in text


def test_a_folder_without_results_makes_no_page(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"no result of edgefuse bench \(1 other"):
        write_page(tmp_path, tmp_path / "page.html")
    with pytest.raises(UserError, match="is not a folder"):
        write_page(tmp_path / "none", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_an_older_or_newer_result_without_plot_keeps_its_tables(tmp_path: Path) -> None:
    group = Group(scope="engine", name="g", series=(series("a", around_ns=1e6),))
    save(report("something_new", group), tmp_path)
    assert write_page(tmp_path, tmp_path / "page.html")[0] == 1
    page = parsed(tmp_path / "page.html")
    assert "No plot of all samples" in page.text and "something_new" in page.text and "img" not in page.tags


def test_the_messages_have_the_figures() -> None:
    core, engine, live = (message(REPORTS[name]) for name in ("core", "engine", "live"))
    assert "Gated fusion takes 2.00 to 2.00 times as long as concatenation (d=128 to d=512" in core
    assert "onnxruntime, 1 threads classifies" in engine or "onnxruntime, 2 threads classifies" in engine
    peers = message(REPORTS["peers"])
    assert "edgefuse, OpenVINO fp32, which --engine auto runs here, classifies a complete frame in 3.9" in peers
    faster, slower = (one.median for one in REPORTS["peers"].groups[0].ratios)
    assert peers.endswith(f"Faster: OpenCV + ONNX Runtime ({faster:.2f}). Slower: LitServe, HTTP ({slower:.2f}).")
    assert "(paced; 99 % within 1.0" in live and "less than the 33 ms" in live
    assert [one.what for one in key_figures(REPORTS["live"])] == [
        "live, frame to result, back to back",
        "live, frame to result, paced",
    ]
    dropped = replace(REPORTS["live"].groups[1], facts={"processed": [40, 50], "received": [50, 50]})
    assert "90 of 100 frames were classified" in message(replace(REPORTS["live"], groups=(dropped,)))


def test_warnings_are_apart_from_notes_and_are_made_for_older_results_too() -> None:
    busy = report("engine", Group(scope="engine", name="", series=(series("a", around_ns=1e6),)), load=1.9)
    assert [one.partition(":")[0] for one in warnings(busy)] == ["the machine was busy before the start"]


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(13_106, "13.1 µs"), (999_400, "999 µs"), (4_637_000, "4.64 ms"), (1.2e9, "1.20 s"), (0, "0.00 µs")],
)
def test_times_have_three_digits(time_ns: float, text: str) -> None:
    assert duration(time_ns) == text


def test_bars_start_at_zero_and_are_in_proportion() -> None:
    chart = bar_chart([Bar("a", 1e6, 2e6), Bar("b", 2e6, 3e6), Bar("c", 1e6, 1e9)], title="t")
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', chart)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2) and widths[2] == pytest.approx(widths[0])
    assert chart.count("m-5 -5l5 5l-5 5") == 1  # the p99 beyond the chart
