"""Writes the performance table of README from the newest committed result of each machine and benchmark.

python -m edgefuse_benchmarks.readme_table      in a checkout, after a result was added to benchmarks/results
"""

from __future__ import annotations

import re
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced
from edgefuse.io.text import markdown_cell, write_text
from edgefuse_benchmarks.report import Report
from edgefuse_benchmarks.reporting.messages import KeyFigure, duration, key_figures
from edgefuse_benchmarks.reporting.saved import read_report

ROOT = Path(__file__).resolve().parents[2]
README, RESULTS = Path("README.md"), Path("benchmarks/results")
BEGIN = "<!-- performance table: python -m edgefuse_benchmarks.readme_table -->"
END = "<!-- end of the performance table -->"
NAMES = {"live": "live, frame to result", "engine": "raw frame", "train": "training", "core": "fusion core, d=512"}
"""The benchmarks that README shows, in this order, and its names of their figures."""


def main(root: Path = ROOT) -> None:
    """Write the table into README."""
    path = root / README
    text = with_table(path.read_text(encoding="utf-8"), table(root))
    with file_replaced(path) as temporary:
        write_text(temporary, text)


def with_table(readme: str, found: str) -> str:
    """`readme` with `found` between the two comments.

    Raises:
        UserError: the comments are missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md lacks the lines {BEGIN} and {END}: the table belongs between them")
    return f"{before}{BEGIN}\n{found}\n{END}{after}"


def table(root: Path = ROOT) -> str:
    """The table as Markdown: the figures of the newest result of each folder, benchmark and kind of model, the most complete scope first."""
    newest: dict[tuple[Path, str, str], tuple[str, Path, Report]] = {}
    for path in (*sorted((root / RESULTS).glob("*.json")), *sorted((root / RESULTS).glob("*/*.json"))):
        try:
            report = read_report(path)
        except UserError:  # another kind of result
            continue
        model = report.parameters.get("model") or {}
        kind = [model.get(part) for part in ("fusion", "rgb", "depth")] + [report.parameters.get("input_size")]
        key = (path.parent, report.benchmark, str(kind))
        date = str(report.machine.get("date_utc", ""))
        if key not in newest or newest[key][0] < date:
            newest[key] = (date, path, report)
    found = [(path, report) for _, path, report in newest.values() if report.benchmark in NAMES]
    found.sort(key=lambda one: (list(NAMES).index(one[1].benchmark), one[0]))
    lines = ["| | median | p99 | note | machine |", "|---|--:|--:|---|---|"]
    lines += [_row(figure, report, path.relative_to(root)) for path, report in found for figure in _shown(report)]
    return "\n".join(lines)


def _shown(report: Report) -> list[KeyFigure]:
    """The paced frames of `live`, the complete frames of an engine, a training step as `train` does it, the core with d=512."""
    figures = key_figures(report)
    if report.benchmark == "core":
        gated = [figure for figure in figures if "gated" in figure.what and "d=512" in figure.what]
        return [figure for figure in gated if "float16" not in figure.what][:1]
    if report.benchmark == "train":
        group = report.groups[0]
        one, rates = group.series[0], group.facts.get("pairs_per_s", {})
        return [KeyFigure(f"{one.name}, {group.name}", one, f"{rates[one.name]:.0f} pairs/s" if rates else "")]
    if report.benchmark == "live":
        return ([figure for figure in figures if "paced" in figure.what] or figures)[:1]
    return ([figure for figure in figures if figure.what.startswith("raw frame")] or figures)[-1:]


def _row(figure: KeyFigure, report: Report, path: Path) -> str:
    found, name = figure.series.summary(), NAMES[report.benchmark]
    details = figure.series.name if report.benchmark in ("engine", "core") else figure.what.removeprefix(f"{name}, ")
    if model := report.parameters.get("model"):
        backbones = f"{model['rgb']} + {model['depth']}" if model["rgb"] != model["depth"] else f"two {model['rgb']}"
        details += f"; {model['fusion']}, {backbones}, {report.parameters['input_size']} px"
    busy = "busy machine" if any("other processes used" in note for note in report.notes) else ""
    note = "; ".join(filter(None, (figure.more, busy)))
    cells = (details, duration(found.p50_ns), duration(found.p99_ns), note, _machine(report))
    first, *others = (markdown_cell(cell) for cell in cells)
    return f"| [{name}]({path.as_posix()}): {' | '.join((first, *others))} |"


def _machine(report: Report) -> str:
    """Processor and GPU in a few words: "Intel Xeon, 2 cores", "NVIDIA H100 80GB HBM3"."""
    cpu, gpus = report.machine.get("cpu") or {}, report.machine.get("gpus") or ()
    processor = re.sub(r"\(R\)|\(TM\)| Processor", "", str(cpu.get("model")))
    return ", ".join((f"{processor}, {cpu.get('cores_usable')} cores", *(str(gpu.get("name")) for gpu in gpus)))


if __name__ == "__main__":
    main()
