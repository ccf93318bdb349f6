"""Passes of the live benchmark: a source is played through the live loop, alternately in each way; then the results are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Align
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Series
from edgefuse_benchmarks.suites import live_replay
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.capture import open_capture
from edgefuse_runtime.capture.capture import Capture, Mode
from edgefuse_runtime.capture.source import Source as CaptureSource
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.regions.default_region import choose_region
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

Pace = Literal["back to back", "paced"]

MIN_PASSES = 2
WARMUP_FRAMES = 5
TOLERANCE = 1e-4
ALWAYS_PREDICT = DegradedMode(no_rgb="predict", no_depth="predict")
"""Replaces the bundle's degraded mode: abstained frames have no label to compare. The engine runs in any case: same times."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is played.

    Attributes:
        camera: see `edgefuse_runtime.cameras.open_camera`.
        roi: see `edgefuse_runtime.regions.region.parse_region`; None = as live: the region of the training data.
        trained_on: the region of the training data.
    """

    camera: str
    roi: str | None
    trained_on: str | None

    def region(self, camera: Any) -> Any:
        """The region source for an open camera."""
        given = None if self.roi is None else parse_region(self.roi)
        return choose_region(given, trained_on=self.trained_on, camera=camera)


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """How long to measure: passes from the start of the stream, alternating paces, until a limit is reached.

    Attributes:
        num_results: at each pace.
        measure_s: of all passes together, after two passes at each pace.
        frames_of_pass: a pass ends after this many frames, or at the end of the stream. The first five are warm-up.
        num_starts: processes for the time to the first result.
        num_memory_frames: frames over which memory must not grow.
    """

    num_results: int = 500
    measure_s: float = 75.0
    frames_of_pass: int = 300
    num_starts: int = 5
    num_memory_frames: int = 20_000


PLAN = LivePlan()
QUICK_PLAN = LivePlan(num_results=200, measure_s=25.0, frames_of_pass=50, num_starts=1, num_memory_frames=500)


@dataclass(kw_only=True)
class Way:
    """All passes at one pace and in one capture mode: the results after each pass's warm-up, and the counts of the loop.

    Attributes:
        mode: None for sources that are read by the loop itself.
        pace_hz: frames a second of "paced"; None = the source's own rate.
    """

    pace: Pace
    mode: Mode | None = None
    pace_hz: float | None = None
    passes: list[list[Result]] = field(default_factory=list)
    first_results: list[Result] = field(default_factory=list)
    summaries: list[LiveSummary] = field(default_factory=list)

    @property
    def name(self) -> str:
        pace = self.pace if self.pace_hz is None else f"paced at {self.pace_hz:g} Hz"
        return pace if self.mode is None else f"{pace}, {self.mode}"

    @property
    def results(self) -> list[Result]:
        return [result for one in self.passes for result in one]

    def series(self, name: str, milliseconds: Callable[[Result], float]) -> Series:
        """One stage over all results; the first call is the first pass's first frame."""
        return Series(
            name=name,
            turns_ns=nanoseconds([milliseconds(result) for result in self.results]),
            first_call_ns=round(milliseconds(self.first_results[0]) * 1e6),
        )


class Collect:
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

    def __enter__(self) -> Collect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _camera(way: Way, source: Source, *, align: Align) -> Camera:
    if way.mode is None or (way.pace == "paced" and way.pace_hz is None):
        return open_capture(source.camera, align=align, real_time=way.pace == "paced", mode=way.mode or "process")
    replayed = CaptureSource(
        factory=f"{live_replay.__name__}:Replay",
        arguments={"spec": source.camera, "align": align, "pace_hz": way.pace_hz},
        is_live=False,
        waits=way.pace_hz is None,
    )
    return Capture(replayed, align=align, mode=way.mode)


def play(way: Way, engine: Engine, source: Source, *, num_frames: int) -> None:
    """Add a pass.

    Raises:
        UserError: too few frames with a region, or outputs that are not finite.
    """
    collected = Collect()
    with _camera(way, source, align=engine.contract.align) as opened:
        summary = run_live(
            engine=engine,
            camera=opened,
            region=source.region(opened),
            degraded_mode=ALWAYS_PREDICT,
            sinks=[collected],
            num_frames=num_frames,
        )
    if summary.was_interrupted:
        raise KeyboardInterrupt
    if len(collected.results) < 2 * WARMUP_FRAMES:
        raise UserError(
            f"--camera {source.camera} gave {len(collected.results)} results ({summary.without_region} frames had no region): "
            f"at least {2 * WARMUP_FRAMES} are needed, {WARMUP_FRAMES} of them for warm-up"
        )
    if summary.not_finite:
        raise UserError(
            f"{summary.not_finite} of {summary.processed} outputs have NaN or infinite values: the engine was not measured"
        )
    way.first_results.append(collected.results[0])
    way.passes.append(collected.results[WARMUP_FRAMES:])
    way.summaries.append(summary)


def check_passes(ways: Sequence[Way]) -> list[dict[str, Any]]:
    """The comparisons of `_compare`; none for a camera, which never repeats a frame.

    Raises:
        ParityError: the results of a frame differ, or two passes have no frame in common.
    """
    if is_camera(ways):
        return []
    figures, problems = compare(ways)
    if problems:
        raise ParityError("the results of the passes differ, so no times are reported:\n  " + "\n  ".join(problems))
    return figures


def is_camera(ways: Sequence[Way]) -> bool:
    return bool(ways[0].summaries[0].camera["kind"] == "realsense")


def compare(ways: Sequence[Way]) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the results of every pass with the first one, frame by frame; returns figures, and problems as text."""
    reference, *others = [(f"{way.name}, pass {i}", results) for way in ways for i, results in enumerate(way.passes, 1)]
    expected = {live_replay.shown_frame(name): result for name, result in by_name(reference[1]).items()}
    figures, problems = [], []
    for name, results in others:
        shared = [
            (expected[frame], result)
            for name, result in by_name(results).items()
            if (frame := live_replay.shown_frame(name)) in expected
        ]
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


def by_name(results: Sequence[Result]) -> dict[str, Result]:
    """Results by frame name, without names that occur twice: if frame numbers do not change, frames cannot be paired."""
    counts = Counter(result.name for result in results)
    return {result.name: result for result in results if counts[result.name] == 1}


def nanoseconds(milliseconds: Sequence[float]) -> NDArray[np.int64]:
    """Milliseconds [n] -> nanoseconds [n, 1]: turns of one call each."""
    return np.rint(np.array(milliseconds) * 1e6).astype(np.int64)[:, np.newaxis]
