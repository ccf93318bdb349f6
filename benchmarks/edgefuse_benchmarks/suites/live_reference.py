"""What the live loop is compared with: alignment, framing and the bare engine on the same frames, without loop, slots and outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.errors import UserError
from edgefuse.framing import Framed
from edgefuse.measure import Ratio, Series, ratio
from edgefuse_benchmarks.report import Group
from edgefuse_benchmarks.suites.live_goals import Goal
from edgefuse_benchmarks.suites.live_passes import WARMUP_FRAMES, Source, Way, by_name
from edgefuse_runtime.camera import frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines.engine import Engine

REFERENCE, ENGINE = "align + framing + engine", "engine"
MAX_LATENCY, MIN_RATE = 1.10, 0.95
FEW_PAIRS = 30


@dataclass(kw_only=True)
class Bare:
    """The reference passes.

    Attributes:
        passes_ns: of each pass, frame name -> time for alignment and copy, region, framing, and one engine run.
        engine_ns: of each pass, the mean time of an engine run, back to back.
    """

    passes_ns: list[dict[str, int]] = field(default_factory=list)
    engine_ns: list[float] = field(default_factory=list)

    def play(self, engine: Engine, source: Source, *, num_frames: int) -> None:
        """Add a pass of a recording at its own rate, then as many engine runs back to back."""
        times_ns: dict[str, int] = {}
        framed: list[Framed] = []
        buffers = framing.Buffers(engine.contract.size)
        with open_camera(source.camera, align=engine.contract.align, real_time=True) as camera:
            find = source.region(camera)
            for frame in frames(camera, num_frames=num_frames):
                regions, start_ns = 0, time.perf_counter_ns()
                for region in find(frame) or ():
                    one = framing.fit(
                        frame.rgb,
                        frame.depth,
                        size=engine.contract.size,
                        roi=region.roi,
                        depth_unit_m=frame.depth_unit_m,
                        out=buffers,
                    )
                    engine.run(one.rgb[np.newaxis], one.depth[np.newaxis])
                    regions += 1
                end_ns = time.perf_counter_ns()
                if not regions:
                    continue
                times_ns[frame.name] = frame.ready_ns - frame.arrival_ns + end_ns - start_ns
                if len(framed) < FEW_PAIRS:
                    framed.append(Framed(one.rgb.copy(), one.depth.copy()))
        if not framed:
            raise UserError(f"--camera {source.camera}: no frame has a region")
        self.passes_ns.append(dict(list(times_ns.items())[WARMUP_FRAMES:]))
        self.engine_ns.append(_back_to_back(engine, framed, num_runs=max(num_frames, 2 * FEW_PAIRS)))

    def groups(self) -> tuple[Group, Group]:
        """The times of the reference, and of the engine."""
        times_ns = [value for one in self.passes_ns for value in one.values()]
        return (
            Group(
                scope="frame to result",
                name="reference, paced",
                series=(Series(name=REFERENCE, turns_ns=_column(times_ns)),),
            ),
            Group(
                scope="engine",
                name="reference, back to back",
                series=(Series(name="mean of a pass", turns_ns=_column(self.engine_ns)),),
            ),
        )

    def ratio_of(self, way: Way) -> Ratio | None:
        """Latency over the reference for a paced way, by frames; rate over that of the engine for one back to back, by passes."""
        if way.pace == "back to back":
            periods_ns = [_period_ns(one) for one in way.passes]
            pairs = list(zip(periods_ns, self.engine_ns, strict=False))
            live_ns, bare_ns = (_column([pair[place] for pair in pairs]) for place in (0, 1))
            # A ratio of rates is the inverse one of times.
            rate = Series(name=f"{way.name}, rate", turns_ns=bare_ns)
            return ratio(rate, Series(name=f"{ENGINE}, rate", turns_ns=live_ns)) if len(pairs) > 1 else None
        mine = _medians([{n: r.latency_ms * 1e6 for n, r in by_name(one).items()} for one in way.passes])
        reference = _medians(self.passes_ns)
        shared = sorted(set(mine) & set(reference))
        if len(shared) < 2:
            return None
        live = Series(name=way.name, turns_ns=_column([mine[name] for name in shared]))
        return ratio(live, Series(name=REFERENCE, turns_ns=_column([reference[name] for name in shared])))


def goals_of(ratios: Sequence[Ratio]) -> Iterator[Goal]:
    """The goals for ratios to the reference."""
    for found in ratios:
        if found.denominator == REFERENCE:
            yield Goal(
                what=f"{found.numerator}, latency / ({REFERENCE})",
                measured=found.median,
                limit=MAX_LATENCY,
                is_most=True,
            )
        elif found.denominator.startswith(ENGINE):
            yield Goal(
                what=f"{found.numerator} / {found.denominator}", measured=found.median, limit=MIN_RATE, is_most=False
            )


def _back_to_back(engine: Engine, framed: Sequence[Framed], *, num_runs: int) -> float:
    batches = [(one.rgb[np.newaxis], one.depth[np.newaxis]) for one in framed]
    for batch in batches[:WARMUP_FRAMES]:
        engine.run(*batch)
    start_ns = time.perf_counter_ns()
    for number in range(num_runs):
        engine.run(*batches[number % len(batches)])
    return (time.perf_counter_ns() - start_ns) / num_runs


def _period_ns(results: Sequence[Any]) -> float:
    """Mean time between two results."""
    return float((results[-1].times.published_ns - results[0].times.published_ns) / (len(results) - 1))


def _medians(passes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Frame name -> median over the passes that have the frame."""
    names = {name for one in passes for name in one}
    return {name: float(np.median([one[name] for one in passes if name in one])) for name in names}


def _column(values_ns: Sequence[float]) -> NDArray[np.int64]:
    return np.rint(np.array(values_ns, np.float64)).astype(np.int64)[:, np.newaxis]
