"""Measures a new INT8 engine against the FP16 engine of the same GPU: INT8 may be slower (TensorRT #4554), and it costs accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgefuse.bundle import Samples
from edgefuse.measure import Plan, Variant, measure, ratio
from edgefuse_runtime.engines.engine import Engine

PLAN = Plan(warmup_s=0.5, min_warmup_calls=50, measure_s=5.0, min_rounds=100, max_rounds=5000)
CALLS_PER_TURN = 5


@dataclass(frozen=True, kw_only=True)
class Int8Timing:
    """Times of one run of each engine on real frames, with its copies; the engines took turns.

    Attributes:
        int8_ms, fp16_ms: medians.
        ratio: INT8 / FP16, median over all rounds.
        low, high: 95 % interval of `ratio`.
        fp16_plan: name of the FP16 engine in the bundle.
    """

    int8_ms: float
    fp16_ms: float
    ratio: float
    low: float
    high: float
    num_rounds: int
    fp16_plan: str

    @property
    def is_faster(self) -> bool:
        """Whether INT8 is faster, by more than the spread of the measurement."""
        return self.high < 1

    @property
    def description(self) -> str:
        """In words, such as "INT8 takes 0.71 times as long as FP16 (95 % interval 0.70 to 0.72; 0.412 and 0.580 ms)"."""
        return (
            f"INT8 takes {self.ratio:.2f} times as long as FP16 (95 % interval {self.low:.2f} to {self.high:.2f}; "
            f"{self.int8_ms:.3f} and {self.fp16_ms:.3f} ms)"
        )

    def to_json(self) -> dict[str, Any]:
        """For the record of the INT8 engine; `auto` reads `faster`."""
        return {"faster": self.is_faster, **asdict(self)}


class SlowerError(Exception):
    """The INT8 engine is not faster than the FP16 engine, so it was discarded."""

    def __init__(self, timing: Int8Timing) -> None:
        super().__init__(timing.description)
        self.timing = timing


def time_int8(int8: Engine, fp16: Engine, *, samples: Samples, fp16_plan: str) -> Int8Timing:
    """Measure two open engines whose outputs were already compared."""
    variants = [
        Variant(name=name, call=_calls(engine, samples), calls_per_turn=CALLS_PER_TURN, settle_calls=1)
        for name, engine in (("int8", int8), ("fp16", fp16))
    ]
    int8_series, fp16_series = measure(variants, plan=PLAN, check=lambda: ())
    found = ratio(int8_series, fp16_series)
    return Int8Timing(
        int8_ms=int8_series.summary().p50_ns / 1e6,
        fp16_ms=fp16_series.summary().p50_ns / 1e6,
        ratio=found.median,
        low=found.low,
        high=found.high,
        num_rounds=found.num_rounds,
        fp16_plan=fp16_plan,
    )


def _calls(engine: Engine, samples: Samples) -> Callable[[], object]:
    """A function that runs the engine on the next frame each time."""
    pairs = itertools.cycle([(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))])
    return lambda: engine.run(*next(pairs))
