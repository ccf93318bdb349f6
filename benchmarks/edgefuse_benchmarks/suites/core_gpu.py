"""The fusion core on a GPU: PyTorch eager, torch.compile, a CUDA graph of eager, ONNX Runtime's CUDA provider and the Triton kernel.

Times are those of CUDA events around many runs, in two ways:

    replay      runs that the host starts one after another, as a program does; the shorter ones wait for the host
    in a chain  runs recorded one after another in one CUDA graph: the time on the GPU alone. "cold": each run has weights of its own, more in
                total than the L2 cache, as if other layers had run between

The limit of either is that of an empty kernel, measured in the same rounds, plus the bytes of the weights over the rate at which this GPU
reads: from its memory, or from the L2 cache where the weights fit into half of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgefuse.errors import UserError
from edgefuse.measure import Plan, Series, Variant, measure, ratio
from edgefuse_benchmarks.report import Group
from edgefuse_benchmarks.suites import core_variants
from edgefuse_benchmarks.suites.core_variants import Implementation

if TYPE_CHECKING:
    from edgefuse.model.choices import FusionKind
    from edgefuse.model.fusion import FusionCore
    from edgefuse_benchmarks.suites.core_triton import FusedCore

EAGER, COMPILED, GRAPH, TRITON, EMPTY = "torch", "torch.compile", "CUDA graph of torch", "Triton", "empty kernel"
ORT_CUDA = "ONNX Runtime, CUDA"
CHAIN, COLD = ", in a chain", ", in a chain, cold"

PLAN = Plan(warmup_s=0.02, min_warmup_calls=2, measure_s=0.4, min_rounds=20, max_rounds=60)
REPLAYS = 50
CHAINED = 20
MAX_COPIES = 160
NUM_INPUTS = 4
MAX_REASON = 500
NUM_HIDDEN, NUM_CLASSES = 256, 51
TOLERANCES = {"float32": 1e-4, "float16": 5e-3}
"""Against float64. FP16 rounds weights and features to 11 bits."""

Run = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What this GPU can do, measured with Triton kernels that only read.

    Attributes:
        memory_gb_per_s: from a buffer much larger than the L2 cache.
        l2_gb_per_s: from a buffer that fits into half of it.
    """

    memory_gb_per_s: float
    l2_gb_per_s: float
    l2_bytes: int

    def read_ns(self, num_bytes: int, *, cold: bool = False) -> float:
        """The time to read the weights."""
        in_l2 = not cold and 2 * num_bytes <= self.l2_bytes
        return num_bytes / (self.l2_gb_per_s if in_l2 else self.memory_gb_per_s)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to measure together.

    Attributes:
        compiled: also with torch.compile, which takes seconds.
        rows: block size of the Triton kernel, values of `core_triton.FusedCore.rows`; the fastest is used. Empty = its default.
    """

    kind: FusionKind
    width: int
    batch: int = 1
    precision: Literal["float32", "float16"] = "float32"
    compiled: bool = False
    rows: tuple[int, ...] = ()
    seed: int = 0


def is_available() -> bool:
    """Whether there is a GPU that PyTorch and Triton can use."""
    import torch

    return torch.cuda.is_available() and find_spec("triton") is not None


def measure_limits() -> Limits:
    """Read a buffer of 1 GiB, and one of a quarter of the L2 cache many times."""
    import torch

    from edgefuse_benchmarks.suites.core_triton import read_kernel

    properties = torch.cuda.get_device_properties(0)
    programs, block = 8 * properties.multi_processor_count, 2048

    def gb_per_s(num_bytes: int, *, num_passes: int, blocks: int) -> float:
        count = max(1, num_bytes // (4 * programs * block * blocks)) * programs
        values, sums = torch.ones(count * block * blocks, device="cuda"), torch.empty(count, device="cuda")

        def read() -> None:
            read_kernel[count,](values, sums, num_passes, BLOCK=block, BLOCKS=blocks, num_warps=8)

        read()
        found_ns = min(events_ns(read, count=3) for _ in range(5))
        if not bool((sums == num_passes * block * blocks).all()):
            raise RuntimeError("the kernel that measures the bandwidth did not read everything")
        return 4 * values.numel() * num_passes / found_ns

    l2_bytes = int(properties.L2_cache_size)
    return Limits(
        memory_gb_per_s=gb_per_s(1 << 30, num_passes=1, blocks=4),
        l2_gb_per_s=gb_per_s(l2_bytes // 4, num_passes=200, blocks=1),
        l2_bytes=l2_bytes,
    )


def events_ns(run: Run, *, count: int) -> float:
    """The time of a run on the GPU, from CUDA events around `count` of them."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return 1e6 * float(start.elapsed_time(end)) / count


def captured(runs: Sequence[Run]) -> Run:
    """Runs as one CUDA graph: the function replays it and returns the outputs of the last run, in the same tensors each time.

    Each runs twice before the capture, because the first call of a kernel compiles it.
    """
    import torch

    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for run in dict.fromkeys(runs):
            run()
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [run() for run in runs]

    def replay() -> Any:
        graph.replay()
        return kept[-1]

    return replay


def replayed(name: str, run: Run, *, count: int = REPLAYS, runs: int = 1) -> Variant:
    """A variant whose sample is the mean of `count` calls of `run`, each of which is `runs` runs of the core."""
    return Variant(name=name, call=lambda: round(events_ns(run, count=count) / runs), returns_ns=True)


def bench_case(case: Case, limits: Limits, *, plan: Plan = PLAN) -> tuple[Group, list[dict[str, Any]]]:
    """Measure one kind, width, batch and precision.

    Raises:
        ParityError: outputs differ from float64; nothing was measured.
    """
    import torch

    with torch.no_grad():
        device = _Device(case)
        timed, notes = _timed(device)
        compared: list[dict[str, Any]] = []

        def check() -> list[str]:
            compared.extend(_compare(device, timed))
            return [text for found in compared for text in core_variants.problems(found)]

        variants = [
            replayed(name, run, count=REPLAYS // 5 if name in {EAGER, ORT_CUDA} else REPLAYS)
            for name, run in timed.items()
        ]
        variants += [replayed(EMPTY, captured([device.nothing])), *_chains(device, timed, limits)]
        series = measure(variants, plan=plan, check=check)
    facts = {
        "rows": None if device.fused is None else device.fused.rows,
        "rows_ns": device.rows_ns,
        "not_measured": notes,
    }
    return _group(device, series, limits, facts), compared


class _Device:
    """A core on the GPU with one place for its inputs, which every implementation reads.

    Attributes:
        weights_bytes: of all weights in the precision of the case.
        fused: the Triton kernel, None if it does not take this batch or width; its block size is the fastest of the case's.
        rows_ns: block size -> time in a chain, if several were measured.
    """

    def __init__(self, case: Case) -> None:
        import torch

        self.case = case
        self.core = core_variants.build_core(
            case.kind, width=case.width, num_hidden=NUM_HIDDEN, num_classes=NUM_CLASSES, seed=case.seed
        )
        self.all_inputs = core_variants.features(
            case.kind, width=case.width, batch=case.batch, count=NUM_INPUTS, seed=case.seed
        )
        self.dtype = getattr(torch, case.precision)
        self.placed = copy.deepcopy(self.core).to("cuda", self.dtype)
        self.weights_bytes = core_variants.weights_bytes(self.placed)
        self.inputs = [torch.tensor(one, dtype=self.dtype, device="cuda") for one in self.all_inputs[0]]
        self.anything = torch.zeros(1, device="cuda")
        self.rows_ns: dict[int, int] = {}
        self.fused = self._fastest_fused()

    def outputs(self, run: Run, i: int) -> Any:
        """Probabilities and gate of input i as arrays."""
        import torch

        for place, value in zip(self.inputs, self.all_inputs[i], strict=True):
            place.copy_(torch.from_numpy(value))
        return tuple(one.float().cpu().numpy().copy() for one in run())

    def on_inputs(self, answer: Callable[..., Any]) -> Run:
        """A run of `answer` on the place of the inputs."""
        return lambda: answer(*self.inputs)

    def compiled(self) -> Run:
        """torch.compile as its documentation advises for small batches; a call copies its inputs into its own CUDA graph."""
        import torch

        torch._dynamo.reset()  # each case is a model of its own, not a new shape of the last
        run = self.on_inputs(
            torch.compile(core_variants.with_softmax(self.placed), mode="reduce-overhead", dynamic=False)
        )
        for _ in range(3):  # compile, record, replay
            run()
        return run

    def nothing(self) -> None:
        """One launch of an empty kernel."""
        from edgefuse_benchmarks.suites.core_triton import nothing_kernel

        nothing_kernel[1,](self.anything)

    def fused_core(self, core: FusionCore, *, rows: int | None) -> FusedCore:
        """The Triton kernel with the weights of `core`."""
        from edgefuse_benchmarks.suites.core_triton import FusedCore

        return FusedCore(core, batch=self.case.batch, weights=self.dtype, rows=rows)

    def _fastest_fused(self) -> FusedCore | None:
        from edgefuse_benchmarks.suites.core_triton import MAX_BATCH, MAX_WIDTH

        if self.case.batch > MAX_BATCH or self.case.width > MAX_WIDTH:
            return None
        core = copy.deepcopy(self.core).to("cuda")
        candidates = [self.fused_core(core, rows=rows) for rows in self.case.rows or (None,)]
        if len(candidates) > 1:
            for one in candidates:
                replay = captured([self.on_inputs(one)] * CHAINED)
                self.rows_ns[one.rows] = round(min(events_ns(replay, count=5) for _ in range(5)) / CHAINED)
        return min(candidates, key=lambda one: self.rows_ns.get(one.rows, 0))


def _timed(device: _Device) -> tuple[dict[str, Run], dict[str, str]]:
    """The implementations that are present, as functions to call one after another; and why the others are not."""
    case, notes = device.case, dict[str, str]()
    eager = device.on_inputs(core_variants.with_softmax(device.placed))
    timed: dict[str, Run] = {EAGER: eager, GRAPH: captured([eager])}
    if device.fused is None:
        notes[TRITON] = "it is for small batches and widths"
    else:
        timed[TRITON] = captured([device.on_inputs(device.fused)])
    try:
        if case.compiled:
            timed[COMPILED] = device.compiled()
    except Exception as error:  # a compiler fails in many ways, and the others can be measured
        notes[COMPILED] = reason(error)
    if case.kind == "gated" and case.precision == "float32":
        try:
            timed[ORT_CUDA] = _in_onnxruntime(device)
        except Exception as error:
            notes[ORT_CUDA] = reason(error)
    return timed, notes


def reason(error: Exception) -> str:
    """Why something was not measured, in one line, without the folders of user and checkout."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text.replace(str(Path.cwd()), ".").replace(str(Path.home()), "~")[:MAX_REASON]


def _in_onnxruntime(device: _Device) -> Run:
    """ONNX Runtime on CUDA, with the copies of a few kilobytes. Runs once, so that one that does not work is left out.

    Raises:
        UserError: this ONNX Runtime has no CUDA; nothing was exported.
    """
    import onnxruntime as ort

    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise UserError("this ONNX Runtime has no CUDA provider")
    onnx_bytes = core_variants.onnx_from_core(device.core, device.all_inputs[0])
    implementation = core_variants.in_onnxruntime(
        onnx_bytes, device.all_inputs, name=ORT_CUDA, num_threads=1, provider=provider
    )
    run = partial(implementation.outputs, 0)
    run()
    return run


def _chains(device: _Device, timed: Mapping[str, Run], limits: Limits) -> list[Variant]:
    """The time on the GPU alone of the graph of eager, of the kernel and of an empty one, with weights in the L2 cache and not."""
    eager = device.on_inputs(core_variants.with_softmax(device.placed))
    runs: dict[str, Run] = {GRAPH: eager, EMPTY: device.nothing}
    if device.fused is not None:
        runs[TRITON] = device.on_inputs(device.fused)
    variants = [replayed(name + CHAIN, captured([run] * CHAINED), count=5, runs=CHAINED) for name, run in runs.items()]
    copies = min(MAX_COPIES, -(-2 * limits.l2_bytes // device.weights_bytes))
    if device.case.kind != "gated" or copies * device.weights_bytes < 1.5 * limits.l2_bytes:
        return variants
    cores = [copy.deepcopy(device.placed) for _ in range(copies)]
    cold = {GRAPH: [device.on_inputs(core_variants.with_softmax(core)) for core in cores]}
    if device.fused is not None:
        rows = device.fused.rows
        cold[TRITON] = [device.on_inputs(device.fused_core(core, rows=rows)) for core in cores]
    return variants + [replayed(name + COLD, captured(runs), count=2, runs=copies) for name, runs in cold.items()]


def _compare(device: _Device, timed: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Differences of everything that is timed from float64, over all inputs."""
    case = device.case
    reference = core_variants.in_torch(
        device.core, device.all_inputs, name=f"{case.kind}, float64", precision="float64"
    )
    found = []
    for name, run in timed.items():
        if name == ORT_CUDA:  # its inputs are arrays: tests/gpu/test_onnxruntime_cuda.py compares it
            continue
        candidate = Implementation(
            name=f"{case.kind}, {name}", run=partial(device.outputs, run), outputs=partial(device.outputs, run)
        )
        found.append(
            core_variants.differences(
                reference,
                candidate,
                count=NUM_INPUTS,
                tolerance=TOLERANCES[case.precision],
                d=case.width,
                batch=case.batch,
                precision=case.precision,
            )
        )
    return found


def _group(device: _Device, series: Sequence[Series], limits: Limits, facts: Mapping[str, Any]) -> Group:
    """The series with their limits, and the ratios of the kernel to everything else."""
    case, num_bytes = device.case, device.weights_bytes
    by_name = {one.name: one for one in series}
    empty_ns = {how: by_name[EMPTY + how].summary().p50_ns for how in ("", CHAIN)}
    limits_ns = {
        "replay": empty_ns[""] + limits.read_ns(num_bytes),
        "chain": empty_ns[CHAIN] + limits.read_ns(num_bytes),
        "cold": empty_ns[CHAIN] + limits.read_ns(num_bytes, cold=True),
    }
    pairs = [(TRITON + how, other + how) for how in ("", CHAIN, COLD) for other in (EAGER, COMPILED, GRAPH, EMPTY)]
    return Group(
        scope="core",
        name=f"{case.kind}, d={case.width}, batch {case.batch}, {case.precision}, GPU",
        series=tuple(series),
        ratios=tuple(ratio(by_name[a], by_name[b]) for a, b in pairs if {a, b} <= by_name.keys()),
        facts={
            "device": "cuda",
            "kind": case.kind,
            "d": case.width,
            "batch": case.batch,
            "precision": case.precision,
            "weights_bytes": num_bytes,
            "limits": asdict(limits),
            "limits_ns": {name: round(value) for name, value in limits_ns.items()},
            **facts,
        },
    )
