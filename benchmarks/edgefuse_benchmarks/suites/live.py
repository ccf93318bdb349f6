"""Scope "frame to result": the live loop on a recording or camera, with its stages; and "frame age" if the clocks allow it.

A recording is played alternately at two paces: back to back (each frame as soon as the last one is done) and paced (at its own
rate, like a camera; frames that the loop misses are dropped). Both must give the same results for the same frames.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError, require
from edgefuse.measure import ParityError, Ratio, Series, ratio
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts, camera_facts
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frame_times import STAGES
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.regions.default_region import choose_region
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

Pace = Literal["back to back", "paced"]

MIN_PASSES = 2
WARMUP_FRAMES = 5
TOLERANCE = 1e-4
WHOLE = "frame to result"
WAIT, *PARTS = STAGES
"""The stage before the latency starts, and the stages that add up to the latency."""
ALWAYS_PREDICT = DegradedMode(no_rgb="predict", no_depth="predict")
"""Replaces the bundle's degraded mode: abstained frames have no label to compare. The engine runs in any case: same times."""


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """How long to measure: passes from the start of the stream, alternating paces, until a limit is reached.

    Attributes:
        num_results: at each pace.
        measure_s: of all passes together, after two passes at each pace.
        frames_of_pass: a pass ends after this many frames, or at the end of the stream. The first five are warm-up.
    """

    num_results: int = 1000
    measure_s: float = 120.0
    frames_of_pass: int = 300


PLAN = LivePlan()
QUICK_PLAN = LivePlan(num_results=200, measure_s=25.0, frames_of_pass=50)


@dataclass(kw_only=True)
class _Way:
    """All passes at one pace: the results after each pass's warm-up, and the counts of the loop."""

    pace: Pace
    passes: list[list[Result]] = field(default_factory=list)
    first_results: list[Result] = field(default_factory=list)
    summaries: list[LiveSummary] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        return [result for one in self.passes for result in one]

    def series(self, name: str, milliseconds: Callable[[Result], float]) -> Series:
        """One stage over all results; the first call is the first pass's first frame."""
        return Series(
            name=name,
            turns_ns=_nanoseconds([milliseconds(result) for result in self.results]),
            first_call_ns=round(milliseconds(self.first_results[0]) * 1e6),
        )


class _Collect:
    """A sink that keeps results in memory."""

    info = SinkInfo(name="benchmark", queue_size=1000)

    def __init__(self) -> None:
        self.results: list[Result] = []

    def result(self, result: Result, frame: Frame | None) -> None:
        self.results.append(result)

    def event(self, event: Event) -> None:
        pass

    def summary(self, summary: LiveSummary) -> None:
        pass

    def __enter__(self) -> _Collect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def bench_live(
    bundle_folder: Path,
    *,
    camera: str,
    roi: str | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
    plan: LivePlan = PLAN,
    progress: Progress = no_progress,
) -> Report:
    """Measure the live loop.

    Args:
        camera: see `edgefuse_runtime.cameras.open_camera`. Only a recording can be played in both paces.
        roi: see `edgefuse_runtime.regions.region.parse_region`; None = as live: the region of the training data.
        engine, num_threads: see `edgefuse_runtime.engines.open_engine`.
        plan: how long to measure.
        progress: called with (results so far, maximum number of results).

    Raises:
        UserError: no bundle or camera, or too few frames with a region.
        ParityError: the results of a frame differ between passes, or two passes have no frame in common.
    """
    require("onnxruntime", extra="runtime")
    described = machine.describe()
    bundle = open_bundle(bundle_folder)
    ways = [_Way(pace=pace) for pace in _paces(camera, bundle)]
    with open_engine(bundle, engine=engine, num_threads=num_threads) as opened:
        _play_in_turns(
            ways, opened, camera=camera, roi=roi, trained_on=bundle.manifest.region, plan=plan, progress=progress
        )
        engine_facts = opened.description
    parity = _check(ways)
    groups = [_group(way, ratios=_ratios(ways) if way is ways[-1] else ()) for way in ways]
    aged = [age for way in ways if (age := _age_group(way)) is not None]
    return Report(
        benchmark="live",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            "engine": engine_facts,
            "camera": camera_facts(ways[0].summaries[0].camera),
            "roi": roi if roi is None or not roi.endswith(".json") else Path(roi).name,
            "warmup_frames": WARMUP_FRAMES,
            "plan": asdict(plan),
        },
        parity=tuple(parity),
        groups=(*groups, *aged),
        notes=_notes(bundle, ways, has_ages=bool(aged)),
    )


def _paces(spec: str, bundle: Bundle) -> tuple[Pace, ...]:
    kind = open_camera(spec, align=bundle.manifest.contract.align).description["kind"]
    by_kind: dict[str, tuple[Pace, ...]] = {"recording": ("back to back", "paced"), "realsense": ("paced",)}
    return by_kind.get(kind, ("back to back",))


def _play_in_turns(
    ways: Sequence[_Way],
    engine: Engine,
    *,
    camera: str,
    roi: str | None,
    trained_on: str | None,
    plan: LivePlan,
    progress: Progress,
) -> None:
    wanted = plan.num_results * len(ways)
    end_s = time.perf_counter() + plan.measure_s
    while not _enough(ways, plan, is_late=time.perf_counter() > end_s):
        for way in ways:
            _play(way, engine, camera=camera, roi=roi, trained_on=trained_on, num_frames=plan.frames_of_pass)
        progress(min(sum(len(way.results) for way in ways), wanted), wanted, stage="measuring")


def _enough(ways: Sequence[_Way], plan: LivePlan, *, is_late: bool) -> bool:
    passes_done = all(len(way.passes) >= MIN_PASSES for way in ways)
    return passes_done and (is_late or all(len(way.results) >= plan.num_results for way in ways))


def _play(way: _Way, engine: Engine, *, camera: str, roi: str | None, trained_on: str | None, num_frames: int) -> None:
    collected, given = _Collect(), None if roi is None else parse_region(roi)
    with open_camera(camera, align=engine.contract.align, real_time=way.pace == "paced") as source:
        summary = run_live(
            engine=engine,
            camera=source,
            region=choose_region(given, trained_on=trained_on, camera=source),
            degraded_mode=ALWAYS_PREDICT,
            sinks=[collected],
            num_frames=num_frames,
        )
    if summary.was_interrupted:
        raise KeyboardInterrupt
    if len(collected.results) < 2 * WARMUP_FRAMES:
        raise UserError(
            f"--camera {camera} gave {len(collected.results)} results ({summary.without_region} frames had no region): "
            f"at least {2 * WARMUP_FRAMES} are needed, {WARMUP_FRAMES} of them for warm-up"
        )
    if summary.not_finite:
        raise UserError(
            f"{summary.not_finite} of {summary.processed} outputs have NaN or infinite values: the engine was not measured"
        )
    way.first_results.append(collected.results[0])
    way.passes.append(collected.results[WARMUP_FRAMES:])
    way.summaries.append(summary)


def _check(ways: Sequence[_Way]) -> list[dict[str, Any]]:
    """The comparisons of `_compare`; none for a camera, which never repeats a frame.

    Raises:
        ParityError: the results of a frame differ, or two passes have no frame in common.
    """
    if _is_camera(ways):
        return []
    figures, problems = _compare(ways)
    if problems:
        raise ParityError("the results of the passes differ, so no times are reported:\n  " + "\n  ".join(problems))
    return figures


def _is_camera(ways: Sequence[_Way]) -> bool:
    return bool(ways[0].summaries[0].camera["kind"] == "realsense")


def _compare(ways: Sequence[_Way]) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the results of every pass with the first one, frame by frame; returns figures, and problems as text."""
    reference, *others = [(f"{way.pace}, pass {i}", results) for way in ways for i, results in enumerate(way.passes, 1)]
    expected = _by_name(reference[1])
    figures, problems = [], []
    for name, results in others:
        shared = [(expected[frame], result) for frame, result in _by_name(results).items() if frame in expected]
        worst = float(np.max([0.0, *(abs((a.probability or 0.0) - (b.probability or 0.0)) for a, b in shared)]))
        flips = sum(a.label != b.label for a, b in shared)
        figures.append(
            {
                "reference": reference[0],
                "candidate": name,
                "num_samples": len(shared),
                "max_probability_difference": worst,
                "top1_flips": flips,
                "tolerance": TOLERANCE,
            }
        )
        if not shared:
            problems.append(f"{name} has no frame in common with {reference[0]}, so nothing could be compared")
        if not worst <= TOLERANCE or flips:
            problems.append(f"{name} against {reference[0]}: probabilities differ by {worst:.3g}, {flips} labels flip")
    return figures, problems


def _by_name(results: Sequence[Result]) -> dict[str, Result]:
    """Results by frame name, without names that occur twice: if frame numbers do not change, frames cannot be paired."""
    counts = Counter(result.name for result in results)
    return {result.name: result for result in results if counts[result.name] == 1}


def _group(way: _Way, *, ratios: tuple[Ratio, ...]) -> Group:
    stages = [way.series(stage, _stage(stage)) for stage in PARTS]
    return Group(
        scope="frame to result",
        name=way.pace,
        series=(
            way.series(WHOLE, lambda result: result.latency_ms),
            *stages,
            way.series(WAIT, _stage(WAIT)),
        ),
        ratios=ratios,
        facts={
            "passes": [len(one) for one in way.passes],
            "results_per_s": [summary.results_per_s for summary in way.summaries],
            "received": [summary.received for summary in way.summaries],
            "processed": [summary.processed for summary in way.summaries],
            "dropped": [summary.dropped for summary in way.summaries],
            "stale": [summary.stale for summary in way.summaries],
            "without_region": [summary.without_region for summary in way.summaries],
        },
    )


def _stage(name: str) -> Callable[[Result], float]:
    return lambda result: result.stages.by_stage()[name]


def _age_group(way: _Way) -> Group | None:
    ages = [result.age_ms for result in way.results if result.age_ms is not None]
    if not ages:
        return None
    return Group(scope="frame age", name=way.pace, series=(Series(name="frame age", turns_ns=_nanoseconds(ages)),))


def _ratios(ways: Sequence[_Way]) -> tuple[Ratio, ...]:
    """Ratios of paced over back to back; none if there is only one pace."""
    if len(ways) == 1:
        return ()
    stages: dict[str, Callable[[Result], float]] = {
        WHOLE: lambda result: result.latency_ms,
        "infer": _stage("infer"),
    }
    return tuple(found for name, get in stages.items() if (found := _ratio(ways, name, get)) is not None)


def _ratio(ways: Sequence[_Way], name: str, milliseconds: Callable[[Result], float]) -> Ratio | None:
    """The ratio over the frames that every pass has; None if there are fewer than two."""
    by_frame = [
        [{frame: milliseconds(result) for frame, result in _by_name(one).items()} for one in way.passes] for way in ways
    ]
    shared = sorted(set.intersection(*(set(one) for passes in by_frame for one in passes)))
    if len(shared) < 2:
        return None
    back_to_back, paced = (
        Series(
            name=f"{way.pace}, {name}",
            turns_ns=np.array([[round(one[frame] * 1e6) for one in passes] for frame in shared], np.int64),
        )
        for way, passes in zip(ways, by_frame, strict=True)
    )
    return ratio(paced, back_to_back)


def _notes(bundle: Bundle, ways: Sequence[_Way], *, has_ages: bool) -> tuple[str, ...]:
    notes = []
    if not has_ages:
        notes.append("no frame age: the source has no timestamps on this machine's clock")
    if len(ways) == 1:
        notes.append(f"{ways[0].pace} only, because the source is not a recording")
    if _is_camera(ways):
        notes.append("a camera never repeats a frame: the results of the passes were not compared")
    if not bundle.manifest.parity:
        notes.append("the bundle's manifest has no comparison with the PyTorch model")
    dropped = sum(summary.dropped for way in ways for summary in way.summaries)
    if dropped:
        notes.append(f"frames dropped in all passes: {dropped}; the figures are of the processed frames")
    return tuple(notes)


def _nanoseconds(milliseconds: Sequence[float]) -> NDArray[np.int64]:
    """Milliseconds [n] -> nanoseconds [n, 1]: turns of one call each."""
    return np.rint(np.array(milliseconds) * 1e6).astype(np.int64)[:, np.newaxis]
