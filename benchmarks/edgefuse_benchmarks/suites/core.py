"""Scope "core": gate, fusion and the two fully connected layers only, compared with the time to read their weights.

`gated` and `naive`, in PyTorch eager and in ONNX Runtime, at batch 1; all variants of one feature width d are interleaved.
Reading the weights once is the minimum for any implementation at batch 1, where each weight is used once.

"flushed" = before each call, outside the timing, another buffer is read, so that the caches hold other data, as they do after the
backbones of a live loop. Otherwise a variant has just run, and its weights are in the cache that they fit into.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse.measure import Plan, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites import core_variants
from edgefuse_benchmarks.suites.core_variants import FeaturePair, Implementation

if TYPE_CHECKING:
    from edgefuse.model.choices import FusionKind

KINDS: tuple[FusionKind, ...] = ("gated", "naive")
WIDTHS = (128, 256, 512, 1024, 2048)
QUICK_WIDTHS = (128, 512, 2048)
PLAN = Plan(warmup_s=0.2, min_warmup_calls=20, measure_s=12.0, min_rounds=50, max_rounds=150)
QUICK_PLAN = Plan(warmup_s=0.05, min_warmup_calls=10, measure_s=3.0, min_rounds=20, max_rounds=100)

NUM_HIDDEN = 256
NUM_CLASSES = 51  # of the RGB-D Object Dataset, on which the paper reports
NUM_PAIRS = 8
TOLERANCE = 1e-4  # two FP32 implementations differ only by the order of their sums
CALLS_PER_TURN = 5
SETTLE_CALLS = 3
MAX_WIDTH = 16_384
MIN_FLUSH_BYTES, MAX_FLUSH_BYTES = 32 << 20, 128 << 20

READ = "read weights"
FLUSHED = ", flushed"

FIXED_PARAMETERS: dict[str, Any] = {
    "num_hidden": NUM_HIDDEN,
    "num_classes": NUM_CLASSES,
    "batch_size": 1,
    "precision": "fp32",
    "torch_threads": 1,
    "onnxruntime_spinning": False,
    "calls_per_turn": CALLS_PER_TURN,
    "settle_calls": SETTLE_CALLS,
}
"""Parameters that all results of this benchmark have in common."""


def bench_core(
    *,
    widths: Sequence[int] = WIDTHS,
    plan: Plan = PLAN,
    seed: int = 0,
    flush_bytes: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure the core at each feature width.

    Args:
        widths: values of d.
        plan: how long to measure each width.
        seed: of weights and features.
        flush_bytes: bytes that are read before each flushed call; None = twice the largest cache, 32 to 128 MiB.
        progress: called with (widths done, widths in total).

    Raises:
        UserError: a width outside 1..16384.
        MissingPackageError: a package is not installed.
        ParityError: the outputs of PyTorch and ONNX Runtime differ; nothing was measured.
    """
    _check_request(widths)
    described = machine.describe()
    caches_bytes = described["cpu"]["caches_bytes"]
    flush_bytes = _flush_bytes(caches_bytes) if flush_bytes is None else flush_bytes
    threads = sorted({1, described["cpu"]["cores_usable"]})
    groups, parity = [], []
    for done, width in enumerate(widths):
        group, compared = _bench_width(width, plan=plan, threads=threads, seed=seed, flush_bytes=flush_bytes)
        groups.append(group)
        parity += compared
        progress(done + 1, len(widths), stage="measuring")
    return Report(
        benchmark="core",
        machine=described,
        parameters={
            **FIXED_PARAMETERS,
            "widths": list(widths),
            "onnxruntime_threads": threads,
            "seed": seed,
            "flush_bytes": flush_bytes,
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=tuple(parity),
        groups=tuple(groups),
        notes=_cache_notes(caches_bytes, flush_bytes),
    )


def _flush_bytes(caches_bytes: Mapping[str, int]) -> int:
    return min(max(2 * max(caches_bytes.values(), default=0), MIN_FLUSH_BYTES), MAX_FLUSH_BYTES)


def _check_request(widths: Sequence[int]) -> None:
    bad = [width for width in widths if not 1 <= width <= MAX_WIDTH]
    if bad or not widths:
        found = ", ".join(map(str, bad)) or "missing"
        raise UserError(f"d is {found}: feature widths of 1 to {MAX_WIDTH} were expected")
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(package, extra="runtime" if package == "onnxruntime" else "export")


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One fusion kind at one width: what is compared, and what is timed. Variants are named "<kind>, <implementation>"."""

    kind: FusionKind
    weights_bytes: int
    implementations: tuple[Implementation, ...]
    variants: tuple[Variant, ...]


def _bench_width(
    width: int, *, plan: Plan, threads: Sequence[int], seed: int, flush_bytes: int
) -> tuple[Group, list[dict[str, Any]]]:
    import torch

    pairs = core_variants.feature_pairs(width, num_pairs=NUM_PAIRS, seed=seed)
    flush = np.ones(flush_bytes, np.uint8).max
    compared: list[dict[str, Any]] = []
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_case(kind, width, pairs, threads=threads, seed=seed, flush=flush) for kind in KINDS]

        def check() -> list[str]:
            compared.extend(found for case in cases for found in _compare(case, width))
            return [_difference(found) for found in compared if not _passes(found)]

        series = measure([variant for case in cases for variant in case.variants], plan=plan, check=check)
    finally:
        torch.set_num_threads(torch_threads)
    group = Group(
        scope="core",
        name=f"d={width}",
        series=series,
        ratios=tuple(ratio(above, below) for above, below in _pairings(series)),
        bytes_read={variant.name: case.weights_bytes for case in cases for variant in case.variants},
        facts={"d": width, "weights_bytes": {case.kind: case.weights_bytes for case in cases}},
    )
    return group, compared


def _case(
    kind: FusionKind,
    width: int,
    pairs: Sequence[FeaturePair],
    *,
    threads: Sequence[int],
    seed: int,
    flush: Callable[[], object],
) -> _Case:
    import torch

    core = core_variants.build_core(kind, width=width, num_hidden=NUM_HIDDEN, num_classes=NUM_CLASSES, seed=seed)
    weights_bytes = core_variants.weights_bytes(core)
    onnx_bytes = core_variants.onnx_from_core(core, width=width)
    in_torch = [core_variants.in_torch(core, pairs, name=f"{kind}, torch, 1 thread")]
    if torch.cuda.is_available():
        in_torch.append(core_variants.in_torch(core, pairs, name=f"{kind}, torch, CUDA", device="cuda"))
    in_onnxruntime = [
        core_variants.in_onnxruntime(onnx_bytes, pairs, name=f"{kind}, {_onnxruntime(n)}", num_threads=n)
        for n in threads
    ]
    hot = partial(Variant, calls_per_turn=CALLS_PER_TURN, settle_calls=SETTLE_CALLS)
    read = np.random.default_rng(seed).integers(0, 256, weights_bytes, dtype=np.uint8).max  # NumPy's fastest plain read
    implementations = (*in_torch, *in_onnxruntime)
    variants = [
        *(hot(name=one.name, call=_next_pair(one), wait=one.wait) for one in implementations),
        hot(name=f"{kind}, {READ}", call=read),
        Variant(name=f"{kind}, {_onnxruntime(1)}{FLUSHED}", call=_next_pair(in_onnxruntime[0]), prepare=flush),
        Variant(name=f"{kind}, {READ}{FLUSHED}", call=read, prepare=flush),
    ]
    return _Case(kind=kind, weights_bytes=weights_bytes, implementations=implementations, variants=tuple(variants))


def _onnxruntime(num_threads: int) -> str:
    return f"ONNX Runtime, {num_threads} thread{'' if num_threads == 1 else 's'}"


def _next_pair(implementation: Implementation) -> Callable[[], object]:
    """A call that runs the next pair each time."""
    numbers = itertools.cycle(range(NUM_PAIRS))
    run = implementation.run
    return lambda: run(next(numbers))


def _compare(case: _Case, width: int) -> list[dict[str, Any]]:
    """Largest differences of each implementation from the first one, over all pairs."""
    reference, *others = case.implementations
    expected = [reference.outputs(i) for i in range(NUM_PAIRS)]
    found = []
    for candidate in others:
        outputs = [candidate.outputs(i) for i in range(NUM_PAIRS)]
        p_difference, g_difference = (
            float(np.abs(np.stack([o[k] for o in outputs]) - np.stack([e[k] for e in expected])).max()) for k in (0, 1)
        )
        found.append(
            {
                "d": width,
                "reference": reference.name,
                "candidate": candidate.name,
                "num_samples": NUM_PAIRS,
                "max_probability_difference": p_difference,
                "max_gate_difference": g_difference,
                "tolerance": TOLERANCE,
            }
        )
    return found


def _passes(found: Mapping[str, Any]) -> bool:
    p_difference: float = found["max_probability_difference"]
    g_difference: float = found["max_gate_difference"]
    return p_difference <= TOLERANCE and g_difference <= TOLERANCE  # False for a NaN


def _difference(found: Mapping[str, Any]) -> str:
    return (
        f"d={found['d']}: {found['candidate']} differs from {found['reference']} by {found['max_probability_difference']:.3g} "
        f"in probability and {found['max_gate_difference']:.3g} in the gate, at most {TOLERANCE:g} is allowed"
    )


def _pairings(series: Sequence[Series]) -> list[tuple[Series, Series]]:
    """The pairs to report ratios of: gated over naive in every implementation, and ONNX Runtime over reading the weights."""
    by_name = {one.name: one for one in series}
    names = [name.removeprefix("gated, ") for name in by_name if name.startswith("gated, ") and READ not in name]
    against_naive = [(by_name[f"gated, {name}"], by_name[f"naive, {name}"]) for name in names]
    against_reading = [
        (by_name[f"gated, {_onnxruntime(1)}{how}"], by_name[f"gated, {READ}{how}"]) for how in ("", FLUSHED)
    ]
    return against_naive + against_reading


def _cache_notes(caches_bytes: Mapping[str, int], flush_bytes: int) -> tuple[str, ...]:
    if not caches_bytes:
        return ("the cache sizes cannot be read: it is unknown whether a flushed call reads from memory",)
    level = max(caches_bytes, key=lambda name: caches_bytes[name])
    if flush_bytes < caches_bytes[level]:
        return (
            f"{flush_bytes >> 20} MiB are read before a flushed call, less than the {level} cache "
            f"({caches_bytes[level] >> 20} MiB, possibly shared): flushed weights may come from the cache, not from memory",
        )
    return ()
