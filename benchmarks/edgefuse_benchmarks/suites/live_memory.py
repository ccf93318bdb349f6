"""Memory of the live loop: what it allocates for each frame in the steady state, and whether its memory grows."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from edgefuse.contract import Align
from edgefuse_benchmarks.suites.live_goals import Goal
from edgefuse_benchmarks.suites.live_passes import ALWAYS_PREDICT, Source
from edgefuse_benchmarks.suites.soak_memory import memory_of
from edgefuse_runtime.camera import Counters, EndOfStream, Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.loop import run_live

TRACED_FRAMES = 1000
MAX_PEAK_BYTES = 16_000
"""No image fits: the smallest, of 96x96 pixels of depth, has 18 kB."""
MAX_GROWTH_MB = 1.0
NUM_SHOWN = 20
SETTLED = 0.25
"""The part of a run after which memory is compared with the end."""
NUM_SAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class LoopMemory:
    """What was measured.

    Attributes:
        peak_bytes: most memory that Python and NumPy allocate and free again while a frame is processed, median over the frames.
        growth_mb: growth of the private memory of the process over `num_frames` frames, without the first quarter.
    """

    peak_bytes: int
    growth_mb: float
    num_frames: int

    def goals(self) -> tuple[Goal, ...]:
        """The goals for them."""
        return (
            Goal(
                what="allocated and freed again for each frame,",
                measured=self.peak_bytes / 1000,
                limit=MAX_PEAK_BYTES / 1000,
                is_most=True,
                unit=" kB",
            ),
            Goal(
                what=f"growth of the process over {self.num_frames} frames,",
                measured=self.growth_mb,
                limit=MAX_GROWTH_MB,
                is_most=True,
                unit=" MB",
            ),
        )


class _Replay:
    """A camera that returns a few frames from memory again and again, and measures the memory at each read."""

    def __init__(self, shown: Sequence[Frame], *, num_frames: int, traces: bool) -> None:
        self._shown, self._num_frames, self._traces = shown, num_frames, traces
        self.align: Align = shown[0].align
        self.counters = Counters()
        self.description: dict[str, Any] = {"kind": "recording"}  # the loop reads and frames ahead
        num_reads = num_frames + 1 if traces else NUM_SAMPLES
        self.levels, self.peaks = np.zeros(num_reads, np.int64), np.zeros(num_reads, np.int64)

    def __enter__(self) -> _Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        number = self.counters.delivered + 1
        if self._traces:
            self.levels[number - 1], self.peaks[number - 1] = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
        elif number % (self._num_frames // NUM_SAMPLES) == 0 and number <= self._num_frames:
            self.levels[number * NUM_SAMPLES // self._num_frames - 1] = memory_of(os.getpid())[0]
        if number > self._num_frames:
            raise EndOfStream
        self.counters.received = self.counters.delivered = number
        frame = self._shown[number % len(self._shown)]
        return replace(frame, color_number=number, depth_number=number, name=str(number))


def measure_memory(engine: Engine, source: Source, *, num_frames: int) -> LoopMemory:
    """Run the live loop on the first frames of a source, in memory: `TRACED_FRAMES` times, traced; then `num_frames` times."""
    with open_camera(source.camera, align=engine.contract.align) as camera:
        shown = list(frames(camera, num_frames=NUM_SHOWN))
    traced = _Replay(shown, num_frames=TRACED_FRAMES, traces=True)
    tracemalloc.start()
    try:
        _run(engine, source, traced)
    finally:
        tracemalloc.stop()
    first = round(SETTLED * TRACED_FRAMES)
    used = traced.peaks[first + 1 :] - traced.levels[first:-1]
    plain = _Replay(shown, num_frames=num_frames, traces=False)
    _run(engine, source, plain)
    few, settled = NUM_SAMPLES // 10, round(SETTLED * NUM_SAMPLES)
    return LoopMemory(
        peak_bytes=int(np.median(used)),
        growth_mb=float(np.median(plain.levels[-few:]) - np.median(plain.levels[settled : settled + few])) / 1e6,
        num_frames=num_frames,
    )


def _run(engine: Engine, source: Source, camera: _Replay) -> None:
    run_live(engine=engine, camera=camera, region=source.region(camera), degraded_mode=ALWAYS_PREDICT)
