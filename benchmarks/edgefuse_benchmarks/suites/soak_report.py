"""The soak and its control run as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgefuse.bundle import open_bundle
from edgefuse.io.files import file_replaced
from edgefuse.io.text import write_text
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import bundle_facts, save_json
from edgefuse_benchmarks.suites.soak import MAX_GROWTH_MB, SoakPlan, SoakRun, run_soak

CONTROL_S = 30.0


@dataclass(frozen=True, kw_only=True)
class SoakReport:
    """The run, and the control with a planted leak."""

    machine: dict[str, Any]
    bundle: dict[str, Any]
    run: SoakRun
    control: SoakRun

    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line each."""
        missed = [
            f"the control's leak of {name} was not found" for name, is_found in _found(self.control) if not is_found
        ]
        return (*self.run.problems(), *missed)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "benchmark": "soak",
            "machine": self.machine,
            "bundle": self.bundle,
            "run": self.run.to_json(),
            "control": self.control.to_json(),
            "problems": list(self.problems()),
        }

    def to_markdown(self) -> str:
        """The closing tables."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        run, cpu = self.run, self.machine["cpu"]
        yield f"# Soak: {run.plan.seconds / 60:g} minutes, seed {run.plan.seed}"
        yield ""
        yield f"{cpu['model']}, {cpu['cores_usable']} core(s), {self.machine['date_utc']}, bundle {self.bundle['bundle']}"
        yield ""
        yield from _table(("frames", "run", "control (leaks)"), _frames(run.summary, self.control.summary))
        yield from _table(("fault", "survived", "longest recovery, s"), _faults(run))
        yield from _table(("at the end", "run", "control (leaks)", "allowed"), _resources(run, self.control))
        yield from _table(("output", "written", "dropped", "errors", "restarts"), _sinks(run))
        for name, is_found in _found(self.control):
            yield f"- control: leak of {name}: {'found' if is_found else 'NOT FOUND'}"
        problems = self.problems()
        yield f"- result: {'nothing wrong' if not problems else f'{len(problems)} problem(s)'}"
        yield from (f"  - {problem}" for problem in problems)


def bench_soak(
    bundle_folder: Path, *, minutes: float = 10.0, seed: int = 0, progress: Progress = no_progress
) -> SoakReport:
    """Run the soak, then the control.

    Raises:
        UserError: the bundle is missing or does not run.
    """
    described = machine.describe()
    bundle = open_bundle(bundle_folder)
    plan = SoakPlan(seconds=60 * minutes, seed=seed)
    run = run_soak(bundle, plan, progress=progress)
    control = SoakPlan(seconds=min(CONTROL_S, plan.seconds / 2), seed=seed, leaks=True)
    return SoakReport(
        machine=described,
        bundle=bundle_facts(bundle),
        run=run,
        control=run_soak(bundle, control, progress=progress),
    )


def save_soak(report: SoakReport, folder: Path) -> Path:
    """Write the JSON, and the tables as a .md file of the same name; returns the path of the JSON."""
    path = save_json(report.to_json(), folder, benchmark="soak")
    with file_replaced(path.with_suffix(".md")) as temporary:
        write_text(temporary, report.to_markdown())
    return path


def _found(control: SoakRun) -> list[tuple[str, bool]]:
    """The planted leaks, and whether the checks found them."""
    problems = control.problems()
    starts = {"memory": "memory grew", "a file": "files:", "a segment of shared memory": "segments:"}
    return [(name, any(line.startswith(start) for line in problems)) for name, start in starts.items()]


def _frames(run: Any, control: Any) -> Iterator[tuple[str, ...]]:
    for name in ("received", "processed", "dropped", "stale", "without_region", "unfinished", "not_finite"):
        yield name, f"{getattr(run, name):,}", f"{getattr(control, name):,}"
    yield "results per second", f"{run.results_per_s:.0f}", f"{control.results_per_s:.0f}"
    for name in ("p50", "p99"):
        times = [f"{one.latency_ms[name]:.2f}" if one.latency_ms else "-" for one in (run, control)]
        yield f"latency {name}, ms", *times


def _faults(run: SoakRun) -> Iterator[tuple[str, ...]]:
    begun = [fault.kind for fault in run.faults]
    survived = run.survived()
    for kind in sorted(set(begun)):
        times = survived.get(kind, [])
        yield kind, f"{len(times)} of {begun.count(kind)}", f"{max(times):.1f}" if times else "-"


def _resources(run: SoakRun, control: SoakRun) -> Iterator[tuple[str, ...]]:
    for name, place in (("this process", 0), ("capture process", 1)):
        cells = [_from_to(one.first_mb[place], one.last_mb[place]) for one in (run, control)]
        yield f"memory of {name}, first -> last minute, MB", *cells, ""
    yield "growth, MB", f"{run.growth_mb:.1f}", f"{control.growth_mb:.1f}", f"< {MAX_GROWTH_MB:g}"
    yield "most shared memory, MB", f"{run.shared_mb:.1f}", f"{control.shared_mb:.1f}", ""
    for name, allowed in asdict(run.before).items():
        cells = [str(getattr(one.after, name)) for one in (run, control)]
        yield f"{'segments of shared memory' if name == 'segments' else name} left", *cells, str(allowed)


def _from_to(first: float | None, last: float | None) -> str:
    return " -> ".join("-" if value is None else f"{value:.1f}" for value in (first, last))


def _sinks(run: SoakRun) -> Iterator[tuple[str, ...]]:
    for sink in run.summary.sinks:
        counts = (sink.written, sink.dropped, sink.errors, sink.restarts)
        yield Path(sink.name).name, *(f"{count:,}" for count in counts)


def _table(headers: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    cells = [headers, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for number, row in enumerate(cells):
        texts = [
            text.ljust(width) if not place else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"| {' | '.join(texts)} |"
        if not number:
            yield f"|{'|'.join('-' * (width + 1) + ('-' if not place else ':') for place, width in enumerate(widths))}|"
    yield ""
