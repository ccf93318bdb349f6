"""Scope "engine": a bundle's CPU engines on framed pairs of a camera, a recording or a folder, and PyTorch if the run is given.
Scope "raw frame": the same engines from a complete frame, against the loop that users write by hand. Scopes "cold start", "after a pause" and
"each minute": what fresh processes, pauses and minutes of work do to them.

All engines, thread counts, and PyTorch, are interleaved in one process. Their outputs are compared before anything is timed; an
engine of a lower precision whose outputs differ is left out, with a note.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.errors import UserError, require
from edgefuse.evaluation.compare_outputs import FP32_TOLERANCE, ParityReport, Tolerance, check_parity
from edgefuse.evaluation.metrics import Predictor
from edgefuse.framing import Buffers, centre_square, fit
from edgefuse.measure import Plan, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts, camera_facts
from edgefuse_benchmarks.suites.cold_start import measure_cold_start
from edgefuse_benchmarks.suites.core_share import CoreShare
from edgefuse_benchmarks.suites.engine_over_time import by_minute, first_calls_after_pauses
from edgefuse_benchmarks.suites.usual_loop import NAME as USUAL
from edgefuse_benchmarks.suites.usual_loop import usual_loop
from edgefuse_runtime.camera import Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.measured_times import EXACT, MEASURED, remember_times
from edgefuse_runtime.engines.openvino_parity import OPENVINO_TOLERANCES
from edgefuse_runtime.predict import predict_framed
from edgefuse_runtime.regions.region import DefaultRegion

PLAN = Plan(warmup_s=1.0, min_warmup_calls=20, measure_s=20.0, min_rounds=200, max_rounds=2000)
QUICK_PLAN = Plan(warmup_s=0.3, min_warmup_calls=10, measure_s=5.0, min_rounds=30, max_rounds=500)
NUM_STARTS, QUICK_NUM_STARTS = 10, 3
NUM_PAUSES = 3
NUM_PAIRS = 32


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Framed pairs, rgb uint8 [n, S, S, 3] and depth uint8 [n, S, S, 2], their frames, and the description of their camera."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    frames: tuple[Frame, ...]
    camera: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """The source of the pairs, as JSON values."""
        return {"camera": self.camera, "num_pairs": len(self.rgb)}

    def calls(self, run: Callable[[NDArray[np.uint8], NDArray[np.uint8]], object]) -> Callable[[], object]:
        """A function that calls `run` with the next pair each time."""
        pairs = itertools.cycle([(self.rgb[i : i + 1], self.depth[i : i + 1]) for i in range(len(self.rgb))])
        return lambda: run(*next(pairs))

    def frame_calls(self, run: Callable[[Frame], object]) -> Callable[[], object]:
        """A function that calls `run` with the next complete frame each time."""
        numbers = itertools.cycle(self.frames)
        return lambda: run(next(numbers))


@dataclass(kw_only=True)
class _Candidates:
    """What is compared and timed; the first one is the reference.

    Attributes:
        engines: (number of threads, value of `--engine`) -> the open engine.
        notes: what was left out, and why.
    """

    predictors: dict[str, Predictor] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    engines: dict[tuple[int, str], Engine] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bench_engine(  # long: the options, and the report
    bundle_folder: Path,
    *,
    camera: str = "synthetic",
    threads: Sequence[int] = (),
    run_folder: Path | None = None,
    plan: Plan = PLAN,
    num_starts: int = NUM_STARTS,
    num_pauses: int = 0,
    minutes: int = 0,
    remember: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Measure a bundle's engines on the CPU.

    Args:
        camera: source of the pairs; see `edgefuse_runtime.cameras.open_camera`.
        threads: thread counts to compare; empty = 1 and all cores.
        run_folder: the run that the bundle was exported from, to measure PyTorch eager too.
        num_starts: processes for the cold start; 0 = no cold start.
        num_pauses: pauses of 10 s for each engine with the first number of threads, to time the first call after them.
        minutes: minutes of work, to keep the median, clocks and temperatures of each; 0 = none.
        remember: keep the times beside the bundle's engines, for `--engine auto` on this machine.

    Raises:
        UserError: no bundle or camera, or a camera without frames.
        ParityError: the outputs differ; nothing was measured.
    """
    require("onnxruntime", extra="runtime")
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    counts = tuple(threads) or tuple(sorted({1, described["cpu"]["cores_usable"]}))
    pairs = _read_pairs(bundle, camera)
    candidates, parity = _Candidates(), list[dict[str, Any]]()
    with ExitStack() as stack:
        for count in counts:
            _add_engines(candidates, stack, bundle, pairs, parity, num_threads=count)
        if run_folder is not None:
            for count in counts:
                _add_torch(candidates, stack, run_folder, pairs, num_threads=count)
        core = CoreShare(bundle, num_threads=counts[0])
        parity += core.parity
        measured = measure(
            [*candidates.variants, *core.variants],
            plan=plan,
            check=lambda: [*_compare(candidates, bundle, pairs, parity), *core.problems()],
        )
        series, core_series = measured[: len(candidates.variants)], measured[len(candidates.variants) :]
        frames_group = _measure_frames(candidates, bundle, pairs, parity, plan=plan, num_threads=counts[0])
        over_time = _measure_over_time(
            candidates, plan=plan, num_threads=counts[0], num_pauses=num_pauses, minutes=minutes, progress=progress
        )
    cold_groups = _measure_cold_starts(candidates, bundle_folder, pairs, num_starts=num_starts)
    if remember:
        _remember(bundle, candidates, series, date=described["date_utc"])
    return Report(
        benchmark="engine",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            **pairs.facts(),
            "threads": list(counts),
            "engines": {_name(*key): engine.description for key, engine in candidates.engines.items()},
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=tuple(parity),
        groups=(_group(series), *frames_group, *core.groups(core_series, whole=series[0]), *over_time, *cold_groups),
        notes=(*_notes(candidates, bundle), *_peak_notes(cold_groups), *filter(None, [core.note])),
    )


def _group(series: Sequence[Series]) -> Group:
    reference, *others = series
    ratios = tuple(ratio(other, reference) for other in others)
    return Group(scope="engine", name="one pair", series=tuple(series), ratios=ratios)


def _measure_cold_starts(
    candidates: _Candidates, bundle_folder: Path, pairs: _Pairs, *, num_starts: int
) -> tuple[Group, ...]:
    """Of the engines that were measured in FP32: the other precisions of OpenVINO start in the same way, with the model in its cache."""
    pair, groups = (pairs.rgb[:1], pairs.depth[:1]), list[Group]()
    for name, word in (_fp32_engines(candidates) if num_starts else {}).items():
        series, peak_bytes = measure_cold_start(bundle_folder, *pair, engine=word, num_starts=num_starts)
        facts = {"peak_bytes": peak_bytes}
        groups.append(Group(scope="cold start", name=f"{name}, one process each", series=series, facts=facts))
    return tuple(groups)


def _peak_notes(cold_groups: Sequence[Group]) -> tuple[str, ...]:
    known = [group for group in cold_groups if group.facts["peak_bytes"]]
    peaks = [f"{group.name.partition(',')[0]} {group.facts['peak_bytes'] / 1e6:.0f} MB" for group in known]
    return (f"peak memory of a process with one engine: {', '.join(peaks)}",) if peaks else ()


def _measure_over_time(
    candidates: _Candidates, *, plan: Plan, num_threads: int, num_pauses: int, minutes: int, progress: Progress
) -> list[Group]:
    """The engines with this number of threads after pauses, and over minutes."""
    names = {_name(count, word) for count, word in candidates.engines if count == num_threads}
    variants = [variant for variant in candidates.variants if variant.name in names]
    groups = [first_calls_after_pauses(variants, num_calls=num_pauses, progress=progress)] if num_pauses else []
    if minutes:
        group, notes = by_minute(variants, minutes=minutes, plan=plan, progress=progress)
        groups.append(group)
        candidates.notes += notes
    return groups


def _fp32_engines(candidates: _Candidates) -> dict[str, str]:
    """Name -> value of `--engine`."""
    words = {word for _, word in candidates.engines}
    return {_engine_name(word): word for word in reversed(EXACT) if word in words}


def _read_pairs(bundle: Bundle, spec: str) -> _Pairs:
    contract, known = bundle.manifest.contract, DefaultRegion()
    with open_camera(spec, align=contract.align) as camera:
        kept = tuple(frames(camera, num_frames=NUM_PAIRS))
        framed = [
            fit(frame.rgb, frame.depth, size=contract.size, roi=known(frame)[0].roi, depth_unit_m=frame.depth_unit_m)
            for frame in kept
        ]
        described = camera_facts(camera.description)
    if not framed:
        raise UserError(f"--camera {spec} returned no frame: use another one, such as --camera synthetic")
    return _Pairs(
        rgb=np.stack([pair.rgb for pair in framed]),
        depth=np.stack([pair.depth for pair in framed]),
        frames=kept,
        camera=described,
    )


def _add_engines(
    candidates: _Candidates,
    stack: ExitStack,
    bundle: Bundle,
    pairs: _Pairs,
    parity: list[dict[str, Any]],
    *,
    num_threads: int,
) -> None:
    """Add ONNX Runtime, which is the reference, and each precision of OpenVINO that opens and has the right outputs."""
    for word in ("cpu", *(word for word in MEASURED if word != "cpu")):
        name = _name(num_threads, word)
        try:
            engine = stack.enter_context(open_engine(bundle, engine=word, num_threads=num_threads))
        except UserError as error:
            if word == "cpu":
                raise
            candidates.notes.append(f"{word} was not measured: {error}")
            continue
        predictor = partial(predict_framed, engine)
        if word not in EXACT:
            reference_name, reference = next(iter(candidates.predictors.items()))
            tolerance = OPENVINO_TOLERANCES[word.partition(":")[2]]
            report = _report((reference_name, reference), (name, predictor), bundle, pairs, tolerance)
            if failures := report.failures():
                candidates.notes.append(f"{word} was not measured, its outputs differ: {'; '.join(failures)}")
                continue
            parity.append(report.to_json())
        else:
            candidates.predictors[name] = predictor
        candidates.engines[num_threads, word] = engine
        candidates.variants.append(Variant(name=name, call=pairs.calls(engine.run)))


def _add_torch(candidates: _Candidates, stack: ExitStack, run_folder: Path, pairs: _Pairs, *, num_threads: int) -> None:
    """The number of torch threads is a setting of the process: each call sets it first, outside the timing."""
    require("torch", extra="train")
    import torch

    from edgefuse.training.loop import torch_predictor
    from edgefuse.training.run import open_run

    predictor = torch_predictor(open_run(run_folder).build_model())
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    name = f"torch, {_threads(num_threads)}"
    candidates.predictors[name] = predictor
    candidates.variants.append(
        Variant(name=name, call=pairs.calls(predictor), prepare=partial(torch.set_num_threads, num_threads))
    )


def _compare(candidates: _Candidates, bundle: Bundle, pairs: _Pairs, parity: list[dict[str, Any]]) -> list[str]:
    """Differences from the first predictor, on the real pairs and the edge cases, as text."""
    reference, *others = candidates.predictors.items()
    problems = []
    for name, candidate in others:
        report = _report(reference, (name, candidate), bundle, pairs, FP32_TOLERANCE)
        parity.append(report.to_json())
        problems += [f"{name} against {reference[0]}, {failure}" for failure in report.failures()]
    return problems


def _report(
    reference: tuple[str, Predictor],
    candidate: tuple[str, Predictor],
    bundle: Bundle,
    pairs: _Pairs,
    tolerance: Tolerance,
) -> ParityReport:
    return check_parity(
        reference=reference[1],
        candidate=candidate[1],
        reference_name=reference[0],
        candidate_name=candidate[0],
        rgb=pairs.rgb,
        depth=pairs.depth,
        contract=bundle.manifest.contract,
        tolerance=tolerance,
    )


def _measure_frames(
    candidates: _Candidates,
    bundle: Bundle,
    pairs: _Pairs,
    parity: list[dict[str, Any]],
    *,
    plan: Plan,
    num_threads: int,
) -> tuple[Group, ...]:
    """From the centre of a complete frame to the outputs, against the usual loop; empty, with a note, where that is not possible."""
    try:
        usual = usual_loop(bundle, num_threads=num_threads)
    except UserError as error:
        candidates.notes.append(f"no comparison with the usual loop: {error}")
        return ()
    buffers = Buffers(bundle.manifest.contract.size)  # as live does

    def run(engine: Engine, frame: Frame) -> object:
        region = centre_square(*frame.depth.shape)
        framed = fit(
            frame.rgb,
            frame.depth,
            size=bundle.manifest.contract.size,
            roi=region,
            depth_unit_m=frame.depth_unit_m,
            out=buffers,
        )
        return engine.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])

    def compare() -> list[str]:
        reference = next(iter(candidates.predictors.items()))
        report = _report(reference, (USUAL, usual.framed), bundle, pairs, FP32_TOLERANCE)
        parity.append(report.to_json())
        return [f"{USUAL} against {reference[0]}, {failure}" for failure in report.failures()]

    variants = [Variant(name=USUAL, call=pairs.frame_calls(lambda frame: usual.frame(frame.rgb, frame.depth)))]
    for (count, word), engine in candidates.engines.items():
        if count == num_threads:
            variants.append(Variant(name=_name(count, word), call=pairs.frame_calls(partial(run, engine))))
    reference, *others = series = measure(variants, plan=plan, check=compare)
    ratios = tuple(ratio(other, reference) for other in others)
    height, width = pairs.frames[0].depth.shape
    return (Group(scope="raw frame", name=f"{width}x{height}", series=series, ratios=ratios),)


def _remember(bundle: Bundle, candidates: _Candidates, series: Sequence[Series], *, date: str) -> None:
    """Keep the median times of the engines, by number of threads."""
    p50_ms = {one.name: one.summary().p50_ns / 1e6 for one in series}
    by_threads: dict[int, dict[str, float]] = {}
    for count, word in candidates.engines:
        by_threads.setdefault(count, {})[word] = round(p50_ms[_name(count, word)], 4)
    path = remember_times(bundle, by_threads, date=date)
    candidates.notes.append(f"--engine auto uses these times on this machine: {path.name}")


def _notes(candidates: _Candidates, bundle: Bundle) -> tuple[str, ...]:
    notes = list(dict.fromkeys(candidates.notes))
    if len(candidates.variants) == 1:
        notes.append("only one variant was measured: no comparison of outputs, and no ratio")
    if not bundle.manifest.parity:
        notes.append("the bundle's manifest has no comparison with the PyTorch model")
    return tuple(notes)


def _name(num_threads: int, word: str) -> str:
    return f"{_engine_name(word)}, {_threads(num_threads)}"


def _engine_name(word: str) -> str:
    library, _, precision = word.partition(":")
    return "onnxruntime" if library == "cpu" else f"{library} {precision}"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
