"""Scope "core": gate, fusion and the two fully connected layers only, compared with the time to read their weights.

Every kind of fusion in PyTorch eager, ONNX Runtime and, if installed, OpenVINO; all variants of one feature width d and batch are
interleaved. Reading the weights once is the minimum for any implementation at batch 1, where each weight is used once. On a GPU, further
groups have the implementations of `core_gpu`. Every output is compared with float64 before anything is timed.

"flushed" = before each call, outside the timing, another buffer is read, so that the caches hold other data, as they do after the
backbones of a live loop. Otherwise a variant has just run, and its weights are in the cache that they fit into.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse.measure import Plan, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites import core_variants
from edgefuse_benchmarks.suites.core_variants import Implementation

if TYPE_CHECKING:
    from edgefuse.model.choices import FusionKind

KINDS: tuple[FusionKind, ...] = ("gated", "naive", "joint", "spatial")
FLUSHED_KINDS: tuple[FusionKind, ...] = ("gated", "naive")
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
MAX_BATCH = 1024
MIN_FLUSH_BYTES, MAX_FLUSH_BYTES = 32 << 20, 128 << 20

READ = "read weights"
FLUSHED = ", flushed"

FIXED_PARAMETERS: dict[str, Any] = {
    "num_hidden": NUM_HIDDEN,
    "num_classes": NUM_CLASSES,
    "precision": "fp32",
    "torch_threads": 1,
    "onnxruntime_spinning": False,
    "calls_per_turn": CALLS_PER_TURN,
    "settle_calls": SETTLE_CALLS,
}
"""Parameters that all results of this benchmark have in common."""


def bench_core(  # long: a public function, with documentation for each parameter
    *,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = (1,),
    kinds: Sequence[FusionKind] = KINDS,
    plan: Plan = PLAN,
    seed: int = 0,
    flush_bytes: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure the core at each feature width.

    Args:
        widths, batches: values of d, and numbers of pairs of a call; every width is measured with every batch.
        plan: how long to measure each width and batch, on the CPU.
        seed: of weights and features.
        flush_bytes: bytes that are read before each flushed call; None = twice the largest cache, 32 to 128 MiB.

    Raises:
        UserError: a width outside 1..16384, or a batch outside 1..1024.
        MissingPackageError: a package is not installed.
        ParityError: the outputs of an implementation differ; nothing was measured.
    """
    _check_request(widths, batches)
    described = machine.describe()
    caches_bytes = described["cpu"]["caches_bytes"]
    flush_bytes = _flush_bytes(caches_bytes) if flush_bytes is None else flush_bytes
    threads, sizes = sorted({1, described["cpu"]["cores_usable"]}), list(itertools.product(widths, batches))
    requests = [
        [_Request(kind=kind, width=d, batch=n, threads=tuple(threads), seed=seed) for kind in kinds] for d, n in sizes
    ]
    on_cpu, parity = _bench_cpu(requests, plan=plan, flush_bytes=flush_bytes, progress=progress)
    on_gpu, compared = _bench_gpu(sizes, kinds, seed=seed)
    return Report(
        benchmark="core",
        machine=described,
        parameters={
            **FIXED_PARAMETERS,
            "widths": list(widths),
            "batches": list(batches),
            "kinds": list(kinds),
            "onnxruntime_threads": threads,
            "seed": seed,
            "flush_bytes": flush_bytes,
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=(*parity, *compared),
        groups=(*on_cpu, *on_gpu),
        notes=_cache_notes(caches_bytes, flush_bytes),
    )


def _flush_bytes(caches_bytes: Mapping[str, int]) -> int:
    return min(max(2 * max(caches_bytes.values(), default=0), MIN_FLUSH_BYTES), MAX_FLUSH_BYTES)


def _bench_cpu(
    requests: Sequence[Sequence[_Request]], *, plan: Plan, flush_bytes: int, progress: Progress
) -> tuple[list[Group], list[dict[str, Any]]]:
    """One group for each width and batch."""
    groups, parity = list[Group](), list[dict[str, Any]]()
    for done, of_one_size in enumerate(requests):
        group, compared = _bench_width(of_one_size, plan=plan, flush_bytes=flush_bytes)
        groups.append(group)
        parity += compared
        progress(done + 1, len(requests), stage="measuring")
    return groups, parity


def _bench_gpu(
    sizes: Sequence[tuple[int, int]], kinds: Sequence[FusionKind], *, seed: int
) -> tuple[list[Group], list[dict[str, Any]]]:
    """The groups of a GPU with Triton, else none."""
    from edgefuse_benchmarks.suites import core_gpu

    groups, parity = list[Group](), list[dict[str, Any]]()
    if not core_gpu.is_available():
        return groups, parity
    limits = core_gpu.measure_limits()
    for (width, batch), kind in itertools.product(sizes, kinds):
        case = core_gpu.Case(kind=kind, width=width, batch=batch, compiled=kind == "gated", seed=seed)
        group, compared = core_gpu.bench_case(case, limits)
        groups.append(group)
        parity += compared
    return groups, parity


def _check_request(widths: Sequence[int], batches: Sequence[int]) -> None:
    bad = [width for width in widths if not 1 <= width <= MAX_WIDTH]
    if bad or not widths:
        found = ", ".join(map(str, bad)) or "missing"
        raise UserError(f"d is {found}: feature widths of 1 to {MAX_WIDTH} were expected")
    if not batches or not all(1 <= batch <= MAX_BATCH for batch in batches):
        found = ", ".join(map(str, batches)) or "missing"
        raise UserError(f"the batch is {found}: 1 to {MAX_BATCH} was expected")
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(package, extra="runtime" if package == "onnxruntime" else "export")


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One fusion kind at one width and batch, and the thread counts of ONNX Runtime."""

    kind: FusionKind
    width: int
    batch: int
    threads: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is compared, and what is timed. Variants are named "<kind>, <implementation>"."""

    request: _Request
    weights_bytes: int
    reference: Implementation
    implementations: tuple[Implementation, ...]
    variants: tuple[Variant, ...]


def _bench_width(requests: Sequence[_Request], *, plan: Plan, flush_bytes: int) -> tuple[Group, list[dict[str, Any]]]:
    import torch

    flush = np.ones(flush_bytes, np.uint8).max
    compared: list[dict[str, Any]] = []
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_case(request, flush=flush) for request in requests]

        def check() -> list[str]:
            compared.extend(found for case in cases for found in _compare(case))
            return [text for found in compared for text in core_variants.problems(found)]

        series = measure([variant for case in cases for variant in case.variants], plan=plan, check=check)
    finally:
        torch.set_num_threads(torch_threads)
    width, batch = requests[0].width, requests[0].batch
    weights = {case.request.kind: case.weights_bytes for case in cases}
    group = Group(
        scope="core",
        name=f"d={width}" + (f", batch {batch}" if batch > 1 else ""),
        series=series,
        ratios=tuple(ratio(above, below) for above, below in _pairings(series)),
        bytes_read={variant.name: case.weights_bytes for case in cases for variant in case.variants},
        facts={"device": "cpu", "d": width, "batch": batch, "weights_bytes": weights},
    )
    return group, compared


def _case(request: _Request, *, flush: Callable[[], object]) -> _Case:
    kind, seed = request.kind, request.seed
    inputs = core_variants.features(kind, width=request.width, batch=request.batch, count=NUM_PAIRS, seed=seed)
    core = core_variants.build_core(
        kind, width=request.width, num_hidden=NUM_HIDDEN, num_classes=NUM_CLASSES, seed=seed
    )
    weights_bytes = core_variants.weights_bytes(core)
    onnx_bytes = core_variants.onnx_from_core(core, inputs[0])
    in_onnxruntime = [
        core_variants.in_onnxruntime(onnx_bytes, inputs, name=f"{kind}, {_onnxruntime(n)}", num_threads=n)
        for n in request.threads
    ]
    implementations = [core_variants.in_torch(core, inputs, name=f"{kind}, torch, 1 thread"), *in_onnxruntime]
    if find_spec("openvino") is not None:
        name = f"{kind}, OpenVINO, 1 thread"
        implementations.append(core_variants.in_openvino(onnx_bytes, inputs, name=name, num_threads=1))
    hot = partial(Variant, calls_per_turn=CALLS_PER_TURN, settle_calls=SETTLE_CALLS)
    read = np.random.default_rng(seed).integers(0, 256, weights_bytes, dtype=np.uint8).max  # NumPy's fastest plain read
    variants = [
        *(hot(name=one.name, call=_next_input(one)) for one in implementations),
        hot(name=f"{kind}, {READ}", call=read),
    ]
    if kind in FLUSHED_KINDS:
        name = f"{kind}, {_onnxruntime(1)}{FLUSHED}"
        variants.append(Variant(name=name, call=_next_input(in_onnxruntime[0]), prepare=flush))
        variants.append(Variant(name=f"{kind}, {READ}{FLUSHED}", call=read, prepare=flush))
    return _Case(
        request=request,
        weights_bytes=weights_bytes,
        reference=core_variants.in_torch(core, inputs, name=f"{kind}, float64", precision="float64"),
        implementations=tuple(implementations),
        variants=tuple(variants),
    )


def _onnxruntime(num_threads: int) -> str:
    return f"ONNX Runtime, {num_threads} thread{'' if num_threads == 1 else 's'}"


def _next_input(implementation: Implementation) -> Callable[[], object]:
    """A call that runs the next input each time."""
    numbers = itertools.cycle(range(NUM_PAIRS))
    run = implementation.run
    return lambda: run(next(numbers))


def _compare(case: _Case) -> list[dict[str, Any]]:
    facts = {"d": case.request.width, "batch": case.request.batch}
    return [
        core_variants.differences(case.reference, one, count=NUM_PAIRS, tolerance=TOLERANCE, **facts)
        for one in case.implementations
    ]


def _pairings(series: Sequence[Series]) -> list[tuple[Series, Series]]:
    """The pairs to report ratios of: gated over naive in every implementation, and every kind in ONNX Runtime over its limit."""
    by_name = {one.name: one for one in series}
    kinds = dict.fromkeys(name.partition(", ")[0] for name in by_name)
    wanted = [
        (name, f"naive, {name.removeprefix('gated, ')}")
        for name in by_name
        if name.startswith("gated, ") and READ not in name
    ]
    wanted += [(f"{kind}, {_onnxruntime(1)}{how}", f"{kind}, {READ}{how}") for kind in kinds for how in ("", FLUSHED)]
    return [(by_name[above], by_name[below]) for above, below in wanted if {above, below} <= by_name.keys()]


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
