"""One section of the HTML report for each result: message, warnings, hardware, plots, tables."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from edgefuse.errors import MissingPackageError, UserError
from edgefuse.io.environment import git_revision_text
from edgefuse.io.json_files import read_json
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.reporting import html
from edgefuse_benchmarks.reporting.messages import duration, message, other_notes, warnings
from edgefuse_benchmarks.reporting.saved import report_of

MAX_BARS = 10
"""Groups with more series have no chart of their own: the plot shows a selection."""

PEOPLE, GPU = "Accuracy on people who were not trained on", "Tests on a GPU"
TITLES = {
    "live": "Live: from the frame to the result",
    "engine": "Engine",
    "preprocess": "Preparation of frames",
    "peers": "edgefuse and other ways to serve the network",
    "energy": "Energy",
    "core": "Fusion core alone",
    "train": "Training",
}
ORDER = (*TITLES.values(), PEOPLE, GPU)
"""Titles in the order of the report: what a user feels comes first."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One result as HTML.

    Attributes:
        message: the main message, as text.
        warnings: what limits the figures, as texts.
        body: HTML.
        machine: the hardware in a few words.
        date: UTC, such as 2026-11-23; empty if unknown.
    """

    title: str
    file: str
    message: str
    warnings: tuple[str, ...]
    body: str
    machine: str
    date: str


def section_of(path: Path) -> Section:
    """The section of a result file.

    Raises:
        UserError: the file cannot be read, or is no result that the report can show.
    """
    value = read_json(path, what="the result")
    if "groups" in value:
        return _timed(report_of(value, path=path), path)
    if value.get("benchmark") == "gpu":
        return _gpu(value, path)
    if "folds" in value and "results" in value:
        return _people(value, path)
    kind = value.get("benchmark")
    raise UserError(
        f"a result of {kind}, which this report does not show" if kind else "not a result of edgefuse bench"
    )


def _timed(report: Report, path: Path) -> Section:
    described = report.machine
    body = [*(_group(group) for group in report.groups)]
    is_long = any(len(group.series) > MAX_BARS for group in report.groups)
    body.insert(0 if is_long else len(body), _plot(report))
    body.insert(0, html.facts(_hardware(described)))
    notes = html.bullets(other_notes(report))
    body += [html.text("h4", "Notes"), notes] if notes else []
    body.append(html.element("details", html.text("summary", "Settings and versions"), html.facts(_settings(report))))
    return Section(
        title=TITLES.get(report.benchmark, report.benchmark),
        file=path.name,
        message=message(report),
        warnings=tuple(warnings(report)),
        body="".join(body),
        machine=_short_machine(described),
        date=str(described.get("date_utc", ""))[:10],
    )


def _group(group: Group) -> str:
    from edgefuse_benchmarks.console import ratio_label

    parts = [html.text("h4", f"{group.scope}: {group.name}")]
    summaries = [(one, one.summary()) for one in group.series]
    if 0 < len(summaries) <= MAX_BARS:
        is_part = [not (group.scope == "frame to result" and one.name.startswith("wait")) for one, _ in summaries]
        bars = [
            html.Bar(one.name, found.p50_ns, found.p99_ns)
            for (one, found), shown in zip(summaries, is_part, strict=True)
            if shown
        ]
        parts.append(html.bar_chart(bars, title=f"{group.scope}: {group.name}"))
    rows = [
        (
            one.name,
            *(duration(value) for value in (found.p50_ns, found.p95_ns, found.p99_ns, found.max_ns)),
            "-" if one.first_call_ns is None else duration(one.first_call_ns),
            f"{found.cv:.0%}",
            found.count,
        )
        for one, found in summaries
    ]
    parts.append(html.table(("", "median", "p95", "p99", "max", "first call", "cv", "samples"), rows))
    parts.append(_not_measured(group))
    if group.ratios:
        ratios = [
            (
                ratio_label(one.numerator, one.denominator),
                f"{one.median:.2f}",
                f"{one.low:.2f} to {one.high:.2f}",
                one.num_rounds,
            )
            for one in group.ratios
        ]
        parts.append(html.table(("ratio of medians", "ratio", "95 % of the median", "rounds"), ratios))
    if energy := group.facts.get("energy"):
        names = (
            "mj_per_result_above_idle",
            "lowest_above_idle",
            "highest_above_idle",
            "mj_per_result",
            "idle_w",
            "load_w",
        )
        headers = ("rail", "mJ above idle", "lowest", "highest", "mJ with idle", "idle W", "load W")
        parts.append(
            html.table(headers, [(rail, *(f"{found[name]:.4g}" for name in names)) for rail, found in energy.items()])
        )
    return "".join(parts)


def _not_measured(group: Group) -> str:
    rows = list(group.facts.get("not_measured", {}).items())
    return html.table(("not measured", "reason"), rows) if rows else ""


def _plot(report: Report) -> str:
    """The plot that the command saved, drawn again, as an inline PNG; a remark if that is not possible."""
    from edgefuse_benchmarks.plots import save_plot

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plot.png"
            save_plot(report, path)
            data = base64.b64encode(path.read_bytes()).decode("ascii")
    except MissingPackageError as error:
        return html.text("p", f"No plot of all samples: {error}", class_="remark")
    except Exception as error:  # a plot of an older or newer version; the tables have the figures
        return html.text("p", f"No plot of all samples: {type(error).__name__}: {error}", class_="remark")
    return html.element(
        "figure", f'<img alt="plot of {html.escaped(report.benchmark)}" src="data:image/png;base64,{data}">'
    )


def _hardware(described: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What a reader must know about the machine, with clocks, power mode, throttling and load."""
    cpu, during = described.get("cpu") or {}, described.get("during") or {}
    found: list[tuple[str, object]] = [("Machine", _short_machine(described)), ("Clocks", _clocks(described))]
    jetson = described.get("jetson") or {}
    mode = jetson.get("nvpmodel") or cpu.get("governor") or cpu.get("platform_profile")
    found.append(("Power mode", str(mode).replace("\n", ", ") if mode else "not readable"))
    found.append(("Throttling", _throttling(described)))
    load = described.get("load_average_1min")
    others = during.get("cores_of_others")
    found.append(
        (
            "Other load",
            f"load average {load} before" + (f", others used {others:g} core(s) during" if others is not None else ""),
        )
    )
    found.append(
        (
            "Measured",
            f"{str(described.get('date_utc', 'unknown'))[:16].replace('T', ' ')} UTC, commit {_commit(described)}",
        )
    )
    return found


def _clocks(described: Mapping[str, Any]) -> str:
    cpu, during = described.get("cpu") or {}, described.get("during") or {}
    parts = [f"{cpu['now_mhz']:.0f} MHz" if cpu.get("now_mhz") else "not readable"]
    if cpu.get("max_mhz"):
        parts.append(f"at most {cpu['max_mhz']:.0f} MHz")
    if cpu.get("governor"):
        parts.append(f"governor {cpu['governor']}")
    parts += [f"{name} {value:.0f} MHz at the end" for name, value in (during.get("mhz") or {}).items()]
    parts += [f"GPU {gpu.get('clocks.sm')} of {gpu.get('clocks.max.sm')}" for gpu in described.get("gpus") or ()]
    return ", ".join(parts)


def _throttling(described: Mapping[str, Any]) -> str:
    if "during" not in described:
        return "not recorded"
    during, before = described["during"], described.get("before") or {}
    reasons = during.get("gpu_throttle") or {}
    found = [f"{name}: {count} events" for name, count in (during.get("throttle_events") or {}).items()]
    found += [f"GPU {gpu}: {', '.join(names)}" for gpu, names in reasons.items() if names]
    if found:
        return "YES: " + "; ".join(found)
    return "none" if before.get("throttle_events") or reasons else "not readable on this machine"


def _short_machine(described: Mapping[str, Any]) -> str:
    cpu, jetson = described.get("cpu") or {}, described.get("jetson") or {}
    names = [str(jetson["board"])] if jetson.get("board") else []
    names.append(f"{cpu.get('model', 'unknown processor')}, {cpu.get('cores_usable', '?')} core(s)")
    names += [str(gpu.get("name")) for gpu in described.get("gpus") or ()]
    return ", ".join(names) + (", virtual machine" if cpu.get("virtual_machine") else "")


def _commit(described: Mapping[str, Any]) -> str:
    return git_revision_text(described.get("commit"))


def _settings(report: Report) -> list[tuple[str, object]]:
    described = report.machine
    system = described.get("system") or {}
    found: list[tuple[str, object]] = [("command", described.get("command", "unknown"))]
    found += [(name, value) for name, value in system.items()]
    found.append(
        ("versions", ", ".join(f"{name} {value}" for name, value in (described.get("versions") or {}).items()))
    )
    return found + [(name, value) for name, value in report.parameters.items() if name != "files"]


def _gpu(value: Mapping[str, Any], path: Path) -> Section:
    counts, described = value.get("counts") or {}, value.get("machine") or {}
    name = (value.get("gpu") or {}).get("name", "an unknown GPU")
    tests = [one for one in value.get("tests") or () if isinstance(one, dict)]
    rows = [
        (str(one.get("test")).partition("::")[2] or one.get("test"), one.get("outcome"), one.get("reason") or "")
        for one in tests
    ]
    return Section(
        title=GPU,
        file=path.name,
        message=f"On {name}: {counts.get('passed', 0)} tests passed, {counts.get('failed', 0)} failed, {counts.get('skipped', 0)} could not run.",
        warnings=(f"{counts['failed']} tests failed",) if counts.get("failed") else (),
        body=html.facts(_hardware(described)) + html.table(("test", "outcome", "reason"), rows),
        machine=_short_machine(described),
        date=str(described.get("date_utc", ""))[:10],
    )


def _people(value: Mapping[str, Any], path: Path) -> Section:
    """A summary of `edgefuse bench people`: mean accuracy of each variant."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for fold in value["results"]:
        by_variant.setdefault(str(fold.get("variant")), []).append(fold)
    names = ("accuracy", "accuracy_no_rgb", "accuracy_no_depth")
    try:
        means = {
            name: [mean(float(fold[one]) for fold in folds) for one in names] for name, folds in by_variant.items()
        }
        best = max(means, key=lambda name: means[name][0])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a summary of bench people without accuracies ({error})") from error
    rows = [
        (name, *(f"{one:.3f}" for one in found), len(by_variant[name]))
        for name, found in sorted(means.items(), key=lambda item: -item[1][0])
    ]
    return Section(
        title=PEOPLE,
        file=path.name,
        message=f"{best} is right on {means[best][0]:.1%} of the pairs ({value.get('title', '')}; mean of {len(by_variant[best])} trainings).",
        warnings=(),
        body=html.table(("variant", "both sensors", "no RGB", "no depth", "trainings"), rows)
        + html.bullets(value.get("notes") or ()),
        machine=str(value.get("machine") or value.get("trained_on") or "unknown machine"),
        date=str(value.get("date", ""))[:10],
    )
