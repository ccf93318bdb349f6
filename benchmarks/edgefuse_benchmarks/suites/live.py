"""Scope "frame to result": the live loop on a recording or camera, with its stages; and "frame age" if the clocks allow it.

A recording is played alternately at two paces: back to back (each frame as soon as the last one is done) and paced (at its own
rate, like a camera; frames that the loop misses are dropped), each read in a capture process and in a thread. All must give the same
results for the same frames. Between them the same frames are aligned, framed and classified without the loop, to compare with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.errors import UserError, require
from edgefuse.measure import Ratio, Series, ratio
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts, camera_facts
from edgefuse_benchmarks.suites.live_memory import measure_memory
from edgefuse_benchmarks.suites.live_passes import (
    MIN_PASSES,
    PLAN,
    WARMUP_FRAMES,
    LivePlan,
    Source,
    Way,
    by_name,
    check_passes,
    is_camera,
    nanoseconds,
    play,
)
from edgefuse_benchmarks.suites.live_reference import Bare, goals_of
from edgefuse_benchmarks.suites.live_start import first_result_goal, first_results
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.capture.capture import Mode
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frame_times import STAGES
from edgefuse_runtime.results import Result

MODES: tuple[Mode, ...] = ("process", "thread")
MAX_PASS_S = 20.0
"""Longest pass at a rate of choice."""
WHOLE = "frame to result"
WAIT, *PARTS = STAGES
"""The stage before the latency starts, and the stages that add up to the latency."""


def bench_live(  # long: a public function, with documentation for each parameter
    bundle_folder: Path,
    *,
    camera: str,
    roi: str | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
    pace_hz: float | None = None,
    plan: LivePlan = PLAN,
    progress: Progress = no_progress,
) -> Report:
    """Measure the live loop.

    Args:
        camera: see `edgefuse_runtime.cameras.open_camera`. Without `pace_hz`, only a recording can be played in both paces.
        roi: see `edgefuse_runtime.regions.region.parse_region`; None = as live: the region of the training data.
        engine, num_threads: see `edgefuse_runtime.engines.open_engine`.
        pace_hz: the rate of "paced", with frames from memory and without the reference; None = the recording's or camera's own rate.
        plan: how long to measure.
        progress: called with (results so far, maximum number of results).

    Raises:
        UserError: no bundle or camera, or too few frames with a region.
        ParityError: the results of a frame differ between passes, or two passes have no frame in common.
    """
    require("onnxruntime", extra="runtime")
    described = machine.describe()
    bundle = open_bundle(bundle_folder)
    ways = _ways(camera, bundle, pace_hz=pace_hz)
    source = Source(camera=camera, roi=roi, trained_on=bundle.manifest.region)
    is_referenced = pace_hz is None and ways[0].mode is not None and ways[0].pace == "back to back"
    bare = Bare() if is_referenced else None
    start = first_results(
        bundle_folder, camera=camera, roi=roi, engine=engine, num_threads=num_threads, num_starts=plan.num_starts
    )
    with open_engine(bundle, engine=engine, num_threads=num_threads) as opened:
        _play_in_turns(ways, bare, opened, source, plan=plan, progress=progress)
        parity = check_passes(ways)
        memory = measure_memory(opened, source, num_frames=plan.num_memory_frames)
        engine_facts = opened.description
    ratios = {} if bare is None else {way.name: found for way in ways if (found := bare.ratio_of(way)) is not None}
    goals = [*goals_of(list(ratios.values())), *memory.goals(), first_result_goal(start)]
    groups = [_group(way, ratios=tuple(filter(None, [ratios.get(way.name), _paced_ratio(ways, way)]))) for way in ways]
    aged = [age for way in ways if (age := _age_group(way)) is not None]
    return Report(
        benchmark="live",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            "engine": engine_facts,
            "camera": camera_facts(ways[0].summaries[0].camera),
            "pace_hz": pace_hz,
            "roi": roi if roi is None or not roi.endswith(".json") else Path(roi).name,
            "warmup_frames": WARMUP_FRAMES,
            "plan": asdict(plan),
            "memory": asdict(memory),
            "goals": [goal.to_json() for goal in goals],
        },
        parity=tuple(parity),
        groups=(*groups, *(() if bare is None else bare.groups()), *aged, _start_group(start)),
        notes=(*(goal.line() for goal in goals), *_notes(bundle, ways, has_ages=bool(aged))),
    )


def _ways(spec: str, bundle: Bundle, *, pace_hz: float | None) -> list[Way]:
    kind = open_camera(spec, align=bundle.manifest.contract.align).description["kind"]
    if kind == "realsense" and pace_hz is not None:
        raise UserError(
            f"--pace {pace_hz:g} with a camera, which has a rate of its own: use a recording, a folder or synthetic"
        )
    if kind == "realsense":
        return [Way(pace="paced", mode=mode) for mode in MODES]
    if kind != "recording" and pace_hz is None:
        return [Way(pace="back to back")]
    return [
        way
        for mode in MODES
        for way in (Way(pace="back to back", mode=mode), Way(pace="paced", mode=mode, pace_hz=pace_hz))
    ]


def _play_in_turns(
    ways: Sequence[Way],
    bare: Bare | None,
    engine: Engine,
    source: Source,
    *,
    plan: LivePlan,
    progress: Progress,
) -> None:
    wanted = plan.num_results * len(ways)
    end_s = time.perf_counter() + plan.measure_s
    while not _enough(ways, plan, is_late=time.perf_counter() > end_s):
        for way in ways:
            play(way, engine, source, num_frames=_frames_of_pass(way, plan))
        if bare is not None:
            bare.play(engine, source, num_frames=plan.frames_of_pass)
        progress(min(sum(len(way.results) for way in ways), wanted), wanted, stage="measuring")


def _frames_of_pass(way: Way, plan: LivePlan) -> int:
    """Fewer at a low rate, so that a pass ends."""
    most = plan.frames_of_pass if way.pace_hz is None else max(4 * WARMUP_FRAMES, round(MAX_PASS_S * way.pace_hz))
    return min(plan.frames_of_pass, most)


def _enough(ways: Sequence[Way], plan: LivePlan, *, is_late: bool) -> bool:
    passes_done = all(len(way.passes) >= MIN_PASSES for way in ways)
    return passes_done and (is_late or all(len(way.results) >= plan.num_results for way in ways))


def _start_group(start: Series) -> Group:
    return Group(scope="cold start", name="edgefuse live", series=(start,))


def _group(way: Way, *, ratios: tuple[Ratio, ...]) -> Group:
    stages = [way.series(stage, _stage(stage)) for stage in PARTS]
    return Group(
        scope="frame to result",
        name=way.name,
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
            "received_per_s": _received_per_s(way),
            "processed": [summary.processed for summary in way.summaries],
            "dropped": [summary.dropped for summary in way.summaries],
            "stale": [summary.stale for summary in way.summaries],
            "without_region": [summary.without_region for summary in way.summaries],
        },
    )


def _received_per_s(way: Way) -> list[float]:
    """Frames that arrived in a second of each pass."""
    return [round((one.results_per_s or 0.0) * one.received / max(one.processed, 1), 1) for one in way.summaries]


def _stage(name: str) -> Callable[[Result], float]:
    return lambda result: result.stages.by_stage()[name]


def _age_group(way: Way) -> Group | None:
    ages = [result.age_ms for result in way.results if result.age_ms is not None]
    if not ages:
        return None
    return Group(scope="frame age", name=way.name, series=(Series(name="frame age", turns_ns=nanoseconds(ages)),))


def _paced_ratio(ways: Sequence[Way], way: Way) -> Ratio | None:
    """Engine time paced over back to back, over the frames that every pass of the mode has; None for other ways."""
    if way.pace != "paced":
        return None
    other = next((one for one in ways if one.mode == way.mode and one.pace == "back to back"), None)
    if other is None:
        return None
    milliseconds = _stage("infer")
    by_frame = [
        [{frame: milliseconds(result) for frame, result in by_name(one).items()} for one in each.passes]
        for each in (other, way)
    ]
    shared = sorted(set.intersection(*(set(one) for passes in by_frame for one in passes)))
    if len(shared) < 2:
        return None
    back_to_back, paced = (
        Series(
            name=f"{each.name}, infer",
            turns_ns=np.array([[round(one[frame] * 1e6) for one in passes] for frame in shared], np.int64),
        )
        for each, passes in zip((other, way), by_frame, strict=True)
    )
    return ratio(paced, back_to_back)


def _notes(bundle: Bundle, ways: Sequence[Way], *, has_ages: bool) -> tuple[str, ...]:
    notes = []
    if not has_ages:
        notes.append("no frame age: the source has no timestamps on this machine's clock")
    if len({way.pace for way in ways}) == 1:
        notes.append(f"{ways[0].pace} only, because the source is not a recording")
    else:
        notes.append(
            "back to back, the next frame is read and framed while one is classified, and waits: that is in its latency (queue)"
        )
    if is_camera(ways):
        notes.append("a camera never repeats a frame: the results of the passes were not compared")
    if not bundle.manifest.parity:
        notes.append("the bundle's manifest has no comparison with the PyTorch model")
    counts = {
        way.name: [sum(getattr(one, of) for one in way.summaries) for of in ("dropped", "received")] for way in ways
    }
    if dropped := [f"{name}: {lost} of {received}" for name, (lost, received) in counts.items() if lost]:
        notes.append(f"frames DROPPED ({'; '.join(dropped)}); the times are of the processed frames")
    slow = [way for way in ways if way.pace_hz is not None and max(_received_per_s(way)) < 0.95 * way.pace_hz]
    notes += [
        f"{way.name}: only {max(_received_per_s(way)):g} frames arrived in a second, MISSED by the machine, not by the engine"
        for way in slow
    ]
    return tuple(notes)
