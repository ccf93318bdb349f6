"""Energy per result: complete frames in memory to outputs, back to back and at 30 Hz, with the idle machine subtracted and without.

Each round measures the idle machine and then both paces. Energy above idle = energy - idle power x time. The figures are of all
programs on the machine, so nothing else may run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import open_bundle
from edgefuse.errors import UserError, require
from edgefuse.framing import fit
from edgefuse.measure import Series
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.energy.meter import Meter, total_of
from edgefuse_benchmarks.energy.source import Found, Source, find_sources
from edgefuse_benchmarks.report import Group, Report, bundle_facts
from edgefuse_benchmarks.suites.preprocess import read_pairs
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.predict import predict_framed
from edgefuse_runtime.regions.region import DefaultRegion

BACK_TO_BACK = "back to back"
PACES = {BACK_TO_BACK: 0.0, "30 Hz": 1 / 30}
"""Name -> seconds from the start of one result to that of the next; 0 = as fast as possible."""
WARMUP_RESULTS = 10


@dataclass(frozen=True, kw_only=True)
class EnergyPlan:
    """How long to measure: `rounds` of three phases of `phase_s` seconds each. NVML's counter changes about every 0.1 s."""

    rounds: int = 10
    phase_s: float = 10.0


PLAN = EnergyPlan()
QUICK_PLAN = EnergyPlan(rounds=4, phase_s=4.0)


@dataclass(kw_only=True)
class _Phases:
    """The phases at one pace: joules by rail, seconds and results of each, and the idle power by rail of its round."""

    joules: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    idle_w: list[dict[str, float]] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)

    def figures(self, rail: str) -> dict[str, float]:
        """Medians over the rounds, and the smallest and largest energy above idle."""
        joules, seconds, results = (
            np.array(one) for one in ([j[rail] for j in self.joules], self.seconds, self.results)
        )
        idle_w = np.array([one[rail] for one in self.idle_w])
        whole = 1e3 * joules / results
        above = 1e3 * (joules - idle_w * seconds) / results
        return {
            "mj_per_result": round(float(np.median(whole)), 4),
            "mj_per_result_above_idle": round(float(np.median(above)), 4),
            "lowest_above_idle": round(float(above.min()), 4),
            "highest_above_idle": round(float(above.max()), 4),
            "idle_w": round(float(np.median(idle_w)), 4),
            "load_w": round(float(np.median(joules / seconds)), 4),
        }


def bench_energy(
    bundle_folder: Path,
    *,
    camera: str = "synthetic",
    engine: str = "auto",
    num_threads: int | None = None,
    plan: EnergyPlan = PLAN,
    found: Found | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure the energy of a result.

    Args:
        camera: source of the pairs; see `edgefuse_runtime.cameras.open_camera`.
        engine, num_threads: see `edgefuse_runtime.engines.open_engine`.
        found: where to read the energy; None = what this machine has.
        progress: called with (rounds done, number of rounds).

    Raises:
        UserError: the energy cannot be measured here, with the reasons; no bundle or camera.
    """
    sources, reasons = found if found is not None else find_sources()
    if not sources:
        raise UserError("the energy is not measurable here:\n  " + "\n  ".join(reasons))
    require("onnxruntime", extra="runtime")
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    pairs = read_pairs(camera, contract=bundle.manifest.contract)
    phases = {name: _Phases() for name in PACES}
    with open_engine(bundle, engine=engine, num_threads=num_threads) as opened, Meter(sources) as meter:
        for frame in itertools.islice(itertools.cycle(pairs.frames), WARMUP_RESULTS):
            _result(opened, frame)
        for number in range(plan.rounds):
            _round(phases, meter, opened, pairs.frames, phase_s=plan.phase_s)
            progress(number + 1, plan.rounds, stage="measuring")
        engine_facts = opened.description
    return Report(
        benchmark="energy",
        machine=described,
        parameters={**bundle_facts(bundle), "engine": engine_facts, "camera": pairs.description, "plan": asdict(plan)},
        parity=(),
        groups=tuple(_group(name, one, sources) for name, one in phases.items()),
        notes=(*_notes(phases, sources), *reasons),
    )


def _round(
    phases: Mapping[str, _Phases], meter: Meter, engine: Engine, frames: Sequence[Frame], *, phase_s: float
) -> None:
    idle_j, idle_s = _spent(meter, lambda: time.sleep(phase_s))
    idle_w = {rail: joules / idle_s for rail, joules in idle_j.items()}
    for name, one in phases.items():
        times_ns: list[int] = []
        joules, seconds = _spent(
            meter, lambda period_s=PACES[name], to=times_ns: _run(engine, frames, period_s, phase_s, to)
        )
        one.joules.append(joules)
        one.seconds.append(seconds)
        one.results.append(len(times_ns))
        one.idle_w.append(idle_w)
        one.times_ns += times_ns


def _spent(meter: Meter, work: Any) -> tuple[dict[str, float], float]:
    """Joules by rail, and seconds, of a call."""
    before, start_s = meter.joules(), time.monotonic()
    work()
    seconds = time.monotonic() - start_s
    return {rail: joules - before[rail] for rail, joules in meter.joules().items()}, seconds


def _run(engine: Engine, frames: Sequence[Frame], period_s: float, phase_s: float, times_ns: list[int]) -> None:
    """Classify frames for `phase_s` seconds, one each `period_s` seconds, and append the time of each result."""
    begin_s = time.monotonic()
    for number in itertools.count():
        start_ns = time.perf_counter_ns()
        _result(engine, frames[number % len(frames)])
        times_ns.append(time.perf_counter_ns() - start_ns)
        left_s = begin_s + (number + 1) * period_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        if time.monotonic() - begin_s >= phase_s:
            return


def _result(engine: Engine, frame: Frame) -> None:
    roi = DefaultRegion()(frame)[0].roi
    framed = fit(frame.rgb, frame.depth, size=engine.contract.size, roi=roi, depth_unit_m=frame.depth_unit_m)
    predict_framed(engine, framed.rgb[np.newaxis], framed.depth[np.newaxis])


def _group(name: str, one: _Phases, sources: Sequence[Source]) -> Group:
    times: NDArray[np.int64] = np.array(one.times_ns, np.int64)[:, np.newaxis]
    rails = one.joules[0]
    return Group(
        scope="energy",
        name=name,
        series=(Series(name="frame in memory to outputs", turns_ns=times),),
        facts={
            "energy": {rail: one.figures(rail) for rail in rails},
            "totals": {total_of(source): source.covers for source in sources},
            "results": one.results,
        },
    )


def _notes(phases: Mapping[str, _Phases], sources: Sequence[Source]) -> list[str]:
    notes = []
    for source, (name, one) in itertools.product(sources, phases.items()):
        found = one.figures(total_of(source))
        notes.append(
            f"{name}: {found['mj_per_result_above_idle']:.3g} mJ per result above idle ({found['lowest_above_idle']:.3g} to "
            f"{found['highest_above_idle']:.3g} over {len(one.results)} rounds), {found['mj_per_result']:.3g} mJ with idle, "
            f"{found['idle_w']:.3g} W idle; {source.name}: {source.covers}"
        )
    return notes
