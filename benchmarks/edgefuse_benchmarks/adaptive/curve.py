"""Accuracy and mean latency of a pair for each threshold of `--adaptive`, against the complete model, on labelled pairs.

Scope "engine": one framed pair in, one decision out. All thresholds and the complete model take turns on the same pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.adaptive import MAX_LOSS, THRESHOLDS, CurvePoint, curve_of, is_confident
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.data.dataset import Dataset, RgbdDataset, load, scan
from edgefuse.data.splits import matching
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import class_numbers, expected_calibration_error, framed_batches, refuse_unfit
from edgefuse.io.files import real_path
from edgefuse.measure import Plan, Series, Variant, measure
from edgefuse.progress import Progress, no_progress, step
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import bundle_facts
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.adaptive import AdaptiveEngine
from edgefuse_runtime.engines.engine import Decision, Engine

SCHEMA = 1
PLAN = Plan(warmup_s=0.3, min_warmup_calls=20, measure_s=60.0, min_rounds=10, max_rounds=30)
QUICK_PLAN = Plan(warmup_s=0.1, min_warmup_calls=5, measure_s=5.0, min_rounds=3, max_rounds=20)
NUM_TIMED = 150
"""Pairs that are timed, evenly spaced: a pass over all would take minutes."""
FULL, ALWAYS = "complete model", "depth alone, always"
GOAL_RATIO = 0.5
MAX_DIFFERENCE = 1e-4
"""Of a probability, between the complete model in one file and in two."""

Run = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Decision]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant.

    Attributes:
        threshold: None = the complete model; 0 = depth alone, always.
        from_depth, accuracy: fraction of all pairs that depth alone answers, and accuracy over all pairs, 0 to 1.
        accuracy_of_depth: on the pairs that depth alone answers; None without any.
        from_depth_timed: as `from_depth`, of the timed pairs.
        mean_ms, p50_ms, p99_ms: time of a pair.
        ratio, low, high: mean time over that of the complete model: median of the rounds, 5th and 95th percentile.
    """

    threshold: float | None
    from_depth: float
    accuracy: float
    accuracy_of_depth: float | None
    from_depth_timed: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    ratio: float
    low: float
    high: float

    @property
    def name(self) -> str:
        """The row's name in tables."""
        return FULL if self.threshold is None else ALWAYS if self.threshold == 0 else f"T = {self.threshold:g}"


@dataclass(frozen=True, kw_only=True)
class AdaptiveReport:
    """The result, `rows` in the order complete model, thresholds from high to low, depth alone.

    Attributes:
        num_equal: timed pairs, of all that the complete model answers, with the same bits in one file and in two.
        num_compared: the number of these comparisons.
        calibration_error: of the depth head on all pairs, with 15 bins.
        samples_ns: name of the row -> times in chronological order.
    """

    machine: dict[str, Any]
    parameters: dict[str, Any]
    rows: tuple[Row, ...]
    num_equal: int
    num_compared: int
    calibration_error: float
    samples_ns: Mapping[str, list[int]]
    notes: tuple[str, ...] = ()

    @property
    def full(self) -> Row:
        """The complete model."""
        return self.rows[0]

    @property
    def fastest(self) -> Row:
        """The fastest row that loses at most `MAX_LOSS` on these pairs; choosing it on them is optimistic."""
        allowed = [row for row in self.rows if row.accuracy >= self.full.accuracy - MAX_LOSS - 1e-9]
        return min(allowed, key=lambda row: row.ratio)

    @property
    def meets_goal(self) -> bool:
        """Whether half the mean time is reached at a loss of at most `MAX_LOSS`."""
        return self.fastest.ratio <= GOAL_RATIO

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        goal = {"ratio": GOAL_RATIO, "loss": MAX_LOSS, "is_met": self.meets_goal, "fastest": self.fastest.name}
        return {"schema": SCHEMA, "benchmark": "adaptive", **asdict(self), "goal": goal}

    def to_markdown(self) -> str:
        """The table, and whether the goal is met."""
        lines = [
            "| | from depth alone | accuracy | points | accuracy of these answers | mean ms | p50 | p99 | mean, against the complete model |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in self.rows:
            of_depth = "-" if row.accuracy_of_depth is None else f"{row.accuracy_of_depth:.1%}"
            lines.append(
                f"| {row.name} | {row.from_depth:.1%} | {row.accuracy:.1%} | {100 * (row.accuracy - self.full.accuracy):+.1f} | {of_depth} "
                f"| {row.mean_ms:.3f} | {row.p50_ms:.3f} | {row.p99_ms:.3f} | {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}) |"
            )
        best = self.fastest
        lines += [
            "",
            f"Goal (mean time at most {GOAL_RATIO:g}, at most {100 * MAX_LOSS:g} points lost): {'met' if self.meets_goal else 'missed'}. Fastest "
            f"with at most {100 * MAX_LOSS:g} points lost on these pairs: {best.name}, {best.ratio:.2f}.",
            f"Calibration error of the depth head: {self.calibration_error:.3f}. The complete model in two files has the bits of "
            f"{self.parameters['engine']['file']} in {self.num_equal} of {self.num_compared} comparisons.",
            *self.notes,
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Framed pairs and their classes."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    truth: NDArray[np.int64]

    def probabilities(self, run: Run) -> NDArray[np.float32]:
        """[n, C], one pair at a time."""
        singles = (slice(i, i + 1) for i in range(len(self.truth)))
        return np.concatenate([run(self.rgb[one], self.depth[one]).probabilities for one in singles])


def bench_adaptive(  # long: its parameters, and the parts of the report
    bundle_folder: Path,
    data: Sequence[Path],
    *,
    only: Sequence[str] = (),
    engine: str = "auto",
    num_threads: int | None = 1,
    plan: Plan = PLAN,
    num_timed: int = NUM_TIMED,
    progress: Progress = no_progress,
) -> AdaptiveReport:
    """Score and time every threshold.

    Args:
        only: sequences, as glob patterns; empty = the run's test sequences.
        engine, num_threads: see `edgefuse_runtime.engines.open_engine`; an engine of the CPU in FP32 or bfloat16.

    Raises:
        UserError: a bundle without the files, no test pairs, or data that does not fit.
        ParityError: the model in two files answers otherwise than in one; nothing was measured.
    """
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    rgbd, notes = _test_pairs(bundle, data, only=only)
    pairs = _framed(bundle, rgbd)
    with open_engine(bundle, engine=engine, num_threads=num_threads, adaptive=THRESHOLDS[0]) as chosen:
        facts = chosen.description
    word = "cpu" if facts["engine"] == "onnxruntime" else f"openvino:{facts['precision']}"
    with (
        open_engine(bundle, engine=word, num_threads=num_threads) as full,
        AdaptiveEngine(bundle, threshold=THRESHOLDS[0], word=word, num_threads=num_threads) as adaptive,
    ):
        with step(progress, "scoring"):
            probabilities = {
                FULL: pairs.probabilities(full.run),
                ALWAYS: pairs.probabilities(lambda rgb, depth: adaptive.depth_alone(depth)),
            }
        timing = _Timing(full, adaptive, pairs, num_timed=num_timed)
        with step(progress, "timing"):
            series = timing.measure(plan)
        engine_facts = full.description
    return AdaptiveReport(
        machine=described,
        parameters={
            **_facts(bundle, rgbd),
            "engine": engine_facts,
            "num_threads": num_threads,
            "num_timed": len(timing.places),
            "plan": asdict(plan),
        },
        rows=tuple(_rows(probabilities, pairs.truth, series, timing.places)),
        num_equal=timing.num_equal,
        num_compared=timing.num_compared,
        calibration_error=expected_calibration_error(probabilities[ALWAYS], pairs.truth),
        samples_ns={name: one.samples_ns.tolist() for name, one in series.items()},
        notes=notes,
    )


def _facts(bundle: Bundle, rgbd: RgbdDataset) -> dict[str, Any]:
    """The model and the pairs, as JSON values."""
    adaptive = bundle.manifest.adaptive
    return {
        **bundle_facts(bundle),
        "validation": None if adaptive is None else adaptive.to_json(),
        "data": sorted(root.name or real_path(root).name for root in rgbd.dataset.roots),
        "data_digest": rgbd.dataset.digest,
        "sequences": sorted(set(rgbd.dataset.groups())),
        "num_pairs": len(rgbd.rgb),
    }


class _Timing:
    """The complete model, every threshold, and depth alone, on the same pairs in turn."""

    def __init__(self, full: Engine, adaptive: AdaptiveEngine, pairs: _Pairs, *, num_timed: int) -> None:
        self.places = np.unique(np.linspace(0, len(pairs.truth) - 1, min(num_timed, len(pairs.truth))).astype(int))
        self.num_equal = self.num_compared = 0
        self._full, self._adaptive, self._pairs = full, adaptive, pairs
        self._runs: dict[str, Run] = {FULL: full.run}
        for threshold in reversed(THRESHOLDS):
            self._runs[f"T = {threshold:g}"] = self._at(threshold)
        self._runs[ALWAYS] = lambda rgb, depth: adaptive.depth_alone(depth)

    def measure(self, plan: Plan) -> dict[str, Series]:
        """Times of each variant; a turn is one pass over the pairs."""
        variants = [
            Variant(name=name, call=self._next(run), calls_per_turn=len(self.places))
            for name, run in self._runs.items()
        ]
        return {one.name: one for one in measure(variants, plan=plan, check=self._differences)}

    def _at(self, threshold: float) -> Run:
        return lambda rgb, depth: self._adaptive.run_at(rgb, depth, threshold=threshold)

    def _next(self, run: Run) -> Callable[[], object]:
        places, pairs = itertools.cycle(self.places), self._pairs

        def call() -> object:
            i = next(places)
            return run(pairs.rgb[i : i + 1], pairs.depth[i : i + 1])

        return call

    def _differences(self) -> list[str]:
        """Where an answer is neither that of the depth file nor that of the complete model, as text."""
        problems = []
        for i in self.places:
            one = slice(i, i + 1)
            rgb, depth = self._pairs.rgb[one], self._pairs.depth[one]
            complete, alone = self._full.run(rgb, depth), self._adaptive.depth_alone(depth)
            for threshold in THRESHOLDS:
                found = self._adaptive.run_at(rgb, depth, threshold=threshold)
                assert found.from_depth is not None
                expected = alone if found.from_depth[0] else complete
                difference = float(np.abs(found.probabilities - expected.probabilities).max())
                if not difference <= MAX_DIFFERENCE:
                    problems.append(f"pair {i}, T = {threshold:g}: probabilities differ by {difference:.3g}")
                if not found.from_depth[0]:
                    self.num_compared += 1
                    self.num_equal += difference == 0
        return problems


def _rows(
    probabilities: Mapping[str, NDArray[np.float32]],
    truth: NDArray[np.int64],
    series: Mapping[str, Series],
    places: NDArray[np.int64],
) -> list[Row]:
    depth, full = probabilities[ALWAYS], probabilities[FULL]
    nothing = CurvePoint(threshold=2.0, from_depth=0.0, accuracy=float((full.argmax(axis=1) == truth).mean()))
    points = {f"T = {point.threshold:g}": point for point in curve_of(depth, full, truth)}
    points |= {FULL: nothing, ALWAYS: curve_of(depth, full, truth, thresholds=(0.0,))[0]}
    means = {name: one.turns_ns.mean(axis=1) for name, one in series.items()}
    rows = []
    for name, one in series.items():
        point, summary, ratios = points[name], one.summary(), means[name] / means[FULL]
        chosen = is_confident(depth, point.threshold)
        rows.append(
            Row(
                threshold=None if name == FULL else point.threshold,
                from_depth=point.from_depth,
                accuracy=point.accuracy,
                accuracy_of_depth=float((depth.argmax(axis=1) == truth)[chosen].mean()) if chosen.any() else None,
                from_depth_timed=float(chosen[places].mean()),
                mean_ms=summary.mean_ns / 1e6,
                p50_ms=summary.p50_ns / 1e6,
                p99_ms=summary.p99_ns / 1e6,
                ratio=float(np.median(ratios)),
                low=float(np.percentile(ratios, 5)),
                high=float(np.percentile(ratios, 95)),
            )
        )
    return rows


def _test_pairs(bundle: Bundle, data: Sequence[Path], *, only: Sequence[str]) -> tuple[RgbdDataset, tuple[str, ...]]:
    """The pairs to score, and a note if the model was trained on some of them."""
    described = bundle.manifest.training.get("data") or {}
    dataset = scan(list(data))
    dataset = dataset.subset(matching(dataset, only) if only else _tested(dataset, described))
    rgbd = load(dataset)
    refuse_unfit(rgbd, contract=bundle.manifest.contract, labels=bundle.manifest.labels)
    seen = set((described.get("train_instances") or {}).values())
    trained_on = [name for name, digest in rgbd.dataset.sequence_digests().items() if digest in seen]
    if not trained_on:
        return rgbd, ()
    return rgbd, (f"The model was trained on {len(trained_on)} of these sequences, such as {trained_on[0]}.",)


def _tested(dataset: Dataset, described: Mapping[str, Any]) -> list[int]:
    """The pairs of the run's test sequences."""
    groups = set(described.get("test_groups") or ())
    found = [i for i, group in enumerate(dataset.groups()) if group in groups]
    if not found:
        raise UserError("the data has none of the test sequences of the bundle's run: choose sequences with --only")
    return found


def _framed(bundle: Bundle, rgbd: RgbdDataset) -> _Pairs:
    truth_of = class_numbers(rgbd.dataset.labels, bundle.manifest.labels)
    parts = list(framed_batches(rgbd, contract=bundle.manifest.contract, batch_size=64))
    rgb, depth, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _Pairs(rgb=rgb, depth=depth, truth=truth_of[numbers])
