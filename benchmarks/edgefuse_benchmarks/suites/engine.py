"""Scope "engine": a bundle's engine on framed pairs of a camera, a recording or a folder, and PyTorch if the run is given.

All thread counts, and PyTorch, are interleaved in one process. Their outputs are compared before anything is timed.
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
from edgefuse.evaluation.compare_outputs import FP32_TOLERANCE, check_parity
from edgefuse.evaluation.metrics import Predictor
from edgefuse.framing import fit
from edgefuse.measure import Plan, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts, camera_facts
from edgefuse_benchmarks.suites.cold_start import measure_cold_start
from edgefuse_runtime.camera import frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.predict import predict_framed
from edgefuse_runtime.regions.region import DefaultRegion

PLAN = Plan(warmup_s=1.0, min_warmup_calls=20, measure_s=20.0, min_rounds=200, max_rounds=2000)
QUICK_PLAN = Plan(warmup_s=0.3, min_warmup_calls=10, measure_s=5.0, min_rounds=30, max_rounds=500)
NUM_STARTS, QUICK_NUM_STARTS = 10, 3
NUM_PAIRS = 32


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Framed pairs, rgb uint8 [n, S, S, 3] and depth uint8 [n, S, S, 2], and the description of their camera."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    camera: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """The source of the pairs, as JSON values."""
        return {"camera": self.camera, "num_pairs": len(self.rgb)}

    def calls(self, run: Callable[[NDArray[np.uint8], NDArray[np.uint8]], object]) -> Callable[[], object]:
        """A function that calls `run` with the next pair each time."""
        numbers = itertools.cycle(range(len(self.rgb)))
        pairs = [(self.rgb[i : i + 1], self.depth[i : i + 1]) for i in range(len(self.rgb))]
        return lambda: run(*pairs[next(numbers)])


@dataclass(kw_only=True)
class _Candidates:
    """What is compared and timed, in the same order; the first one is the reference."""

    predictors: dict[str, Predictor] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)


def bench_engine(
    bundle_folder: Path,
    *,
    camera: str = "synthetic",
    threads: Sequence[int] = (),
    run_folder: Path | None = None,
    plan: Plan = PLAN,
    num_starts: int = NUM_STARTS,
) -> Report:
    """Measure a bundle's engine.

    Args:
        camera: source of the pairs; see `edgefuse_runtime.cameras.open_camera`.
        threads: thread counts to compare; empty = 1 and all cores.
        run_folder: the run that the bundle was exported from, to measure PyTorch eager too.
        num_starts: processes for the cold start; 0 = no cold start.

    Raises:
        UserError: no bundle or camera, or a camera without frames.
        ParityError: the outputs differ; nothing was measured.
    """
    require("onnxruntime", extra="runtime")
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    counts = tuple(threads) or tuple(sorted({1, described["cpu"]["cores_usable"]}))
    pairs = _read_pairs(bundle, camera)
    cold = (
        measure_cold_start(bundle_folder, pairs.rgb[:1], pairs.depth[:1], num_starts=num_starts) if num_starts else ()
    )
    candidates, parity = _Candidates(), list[dict[str, Any]]()
    with ExitStack() as stack:
        for count in counts:
            _add_engine(candidates, stack, bundle, pairs, num_threads=count)
        if run_folder is not None:
            for count in counts:
                _add_torch(candidates, stack, run_folder, pairs, num_threads=count)
        series = measure(candidates.variants, plan=plan, check=lambda: _compare(candidates, bundle, pairs, parity))
    return Report(
        benchmark="engine",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            **pairs.facts(),
            "threads": list(counts),
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=tuple(parity),
        groups=_groups(series, cold),
        notes=_notes(candidates, bundle),
    )


def _groups(series: Sequence[Series], cold: Sequence[Series]) -> tuple[Group, ...]:
    reference, *others = series
    ratios = tuple(ratio(other, reference) for other in others)
    groups = [Group(scope="engine", name="one pair", series=tuple(series), ratios=ratios)]
    if cold:
        groups.append(Group(scope="cold start", name="one process each", series=tuple(cold)))
    return tuple(groups)


def _read_pairs(bundle: Bundle, spec: str) -> _Pairs:
    contract, known = bundle.manifest.contract, DefaultRegion()
    with open_camera(spec, align=contract.align) as camera:
        framed = [
            fit(frame.rgb, frame.depth, size=contract.size, roi=known(frame).roi, depth_unit_m=frame.depth_unit_m)
            for frame in frames(camera, num_frames=NUM_PAIRS)
        ]
        described = camera_facts(camera.description)
    if not framed:
        raise UserError(f"--camera {spec} returned no frame: use another one, such as --camera synthetic")
    return _Pairs(
        rgb=np.stack([pair.rgb for pair in framed]), depth=np.stack([pair.depth for pair in framed]), camera=described
    )


def _add_engine(candidates: _Candidates, stack: ExitStack, bundle: Bundle, pairs: _Pairs, *, num_threads: int) -> None:
    engine = stack.enter_context(open_engine(bundle, engine="cpu", num_threads=num_threads))
    name = f"{engine.description['engine']}, {_threads(num_threads)}"
    candidates.predictors[name] = partial(predict_framed, engine)
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
    (reference_name, reference), *others = candidates.predictors.items()
    problems = []
    for name, candidate in others:
        report = check_parity(
            reference=reference,
            candidate=candidate,
            reference_name=reference_name,
            candidate_name=name,
            rgb=pairs.rgb,
            depth=pairs.depth,
            contract=bundle.manifest.contract,
            tolerance=FP32_TOLERANCE,
        )
        parity.append(report.to_json())
        problems += [f"{name} against {reference_name}, {failure}" for failure in report.failures()]
    return problems


def _notes(candidates: _Candidates, bundle: Bundle) -> tuple[str, ...]:
    notes = []
    if len(candidates.predictors) == 1:
        notes.append("only one variant was measured: no comparison of outputs, and no ratio")
    if not bundle.manifest.parity:
        notes.append("the bundle's manifest has no comparison with the PyTorch model")
    return tuple(notes)


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
