"""Measures a new INT8 engine against the FP16 engine of the same GPU: INT8 may be slower (TensorRT #4554), and it costs accuracy."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgefuse.bundle import Samples
from edgefuse.measure import Plan, Variant, measure, ratio
from edgefuse_export.tensorrt.break_fusion import Attempt
from edgefuse_export.tensorrt.build_log import reported
from edgefuse_export.tensorrt.trial import Trial
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.engine_cache import PlanRecord, read_plan

PLAN = Plan(warmup_s=0.5, min_warmup_calls=50, measure_s=5.0, min_rounds=100, max_rounds=5000)
CALLS_PER_TURN = 5

_log = logging.getLogger(__name__)


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


def time_int8(trial: Trial, int8: Attempt, *, fp16: PlanRecord, keep: bool) -> Int8Timing:
    """Measure a new INT8 engine against the stored FP16 engine; the outputs of both were compared when they were built.

    Args:
        keep: accept an INT8 engine that is not faster.

    Raises:
        SlowerError: it is not faster.
    """
    fp16_path = trial.candidate.with_name("fp16.plan")
    fp16_path.write_bytes(read_plan(trial.bundle, fp16))
    with (
        reported(lambda: "measuring INT8 and FP16"),
        trial.opened(int8.built) as int8_engine,
        trial.open_plan(fp16_path, fp16.extra_outputs) as fp16_engine,
    ):
        timing = _measured(int8_engine, fp16_engine, samples=trial.samples, fp16_plan=fp16.name)
    if timing.is_faster or keep:
        _log.info("%s", timing.description)
        return timing
    _log.warning(
        "%s: not faster, so it was discarded; FP16 is in %s (--force keeps INT8)", timing.description, fp16.name
    )
    raise SlowerError(timing)


def _measured(int8: Engine, fp16: Engine, *, samples: Samples, fp16_plan: str) -> Int8Timing:
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
