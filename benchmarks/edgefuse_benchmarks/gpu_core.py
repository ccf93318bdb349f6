"""Measures the fusion core and the two-stream graph on this GPU within a time limit, and compares the ratios with their goals.

python -m edgefuse_benchmarks.gpu_core --out FOLDER [--limit-s 65]      in a checkout; `make gpu-report` calls it

Writes JSON and PNG. A part that fails, or for which no time is left, does not stop the others: the reason is in the JSON.
Exit codes: 0 every part was measured, 1 a part failed, 2 there is no GPU with Triton, and nothing was written.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgefuse_benchmarks import machine
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.report import Group, Report, save
from edgefuse_benchmarks.suites import core_gpu
from edgefuse_benchmarks.suites.core_gpu import CHAIN, COLD, COMPILED, EAGER, GRAPH, TRITON, Case

WIDTHS = (512, 2048, 256, 1024)
BATCHES = (8, 4, 2, 32)
BACKBONES = ("mobilenet_v2", "resnet18")
LIMIT_S = 65.0
NO_GPU = 2

Found = tuple[Group, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One group to measure.

    Attributes:
        expected_s: it starts only if this much time is left.
    """

    name: str
    bench: Callable[[], Found]
    expected_s: float


@dataclass(kw_only=True)
class Results:
    """What was measured so far, and why the rest was not."""

    groups: list[Group] = field(default_factory=list)
    parity: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Measure, write, and print one table."""
    parser = argparse.ArgumentParser(prog="edgefuse_benchmarks.gpu_core", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="no part starts that would end later")
    options = parser.parse_args(arguments)
    start_s = time.perf_counter()
    if not core_gpu.is_available():
        print("no GPU that PyTorch and Triton can use: nothing was measured or written.", file=sys.stderr)
        return NO_GPU
    described, results = machine.describe(), Results()
    limits = None
    try:
        limits = core_gpu.measure_limits()
        print(f"memory {limits.memory_gb_per_s:.0f} GB/s, L2 cache {limits.l2_gb_per_s:.0f} GB/s", flush=True)
    except Exception as error:  # Triton needs a C compiler on this machine; the two streams do not
        results.failures["limits"] = _failure(error)
    measure_parts(parts(limits), results, end_s=start_s + options.limit_s)
    report = Report(
        benchmark="core",
        machine=described,
        parameters={
            "num_hidden": core_gpu.NUM_HIDDEN,
            "num_classes": core_gpu.NUM_CLASSES,
            "replays": core_gpu.REPLAYS,
            "chained": core_gpu.CHAINED,
            "limit_s": options.limit_s,
            "seconds": results.seconds,
            "failures": results.failures,
        },
        parity=tuple(results.parity),
        groups=tuple(results.groups),
    )
    path = save(report, options.out)
    print(table(results.groups))
    print(f"result: {path}")
    for name, reason in results.failures.items():
        print(f"{name}: {reason}", file=sys.stderr)
    try:
        save_plot(report, path.with_suffix(".png"))
    except Exception:
        traceback.print_exc()
    return int(bool(results.failures))


def parts(limits: core_gpu.Limits | None) -> list[Part]:
    """The most important first; without limits, only those without the Triton kernel."""
    streams = [Part(name=f"two streams, {name}", bench=partial(_streams, name), expected_s=6.0) for name in BACKBONES]
    if limits is None:
        return streams

    def core(expected_s: float, **values: Any) -> Part:
        case = Case(**values)
        name = f"{case.kind}, d={case.width}, batch {case.batch}, {case.precision}"
        return Part(name=name, bench=partial(core_gpu.bench_case, case, limits), expected_s=expected_s)

    gated = [core(8.0, kind="gated", width=d, compiled=True, rows=block_sizes(d)) for d in WIDTHS]
    return [
        *gated[:2],
        *streams[:1],
        *gated[2:],
        *streams[1:],
        *(core(2.5, kind="gated", width=d, precision="float16") for d in WIDTHS),
        *(core(2.0, kind=kind, width=d) for d in WIDTHS for kind in ("naive", "joint", "spatial")),
        *(core(3.0, kind="gated", width=512, batch=batch) for batch in BATCHES),
    ]


def block_sizes(width: int) -> tuple[int, ...]:
    """Rows of W of a program: about 64, 128, 256 and 512 programs."""
    return tuple(dict.fromkeys(max(1, min(16, width // count)) for count in (128, 64, 256, 512)))


def measure_parts(parts: Sequence[Part], results: Results, *, end_s: float) -> None:
    """Measure one part after another until the time is used up."""
    for part in parts:
        start_s = time.perf_counter()
        if start_s + part.expected_s > end_s:
            results.failures[part.name] = f"no time left for about {part.expected_s:g} s"
            continue
        try:
            group, parity = part.bench()
        except Exception as error:
            results.failures[part.name] = _failure(error)
        else:
            results.groups.append(group)
            results.parity += parity
        results.seconds[part.name] = round(time.perf_counter() - start_s, 2)
        print(f"{results.seconds[part.name]:6.2f} s  {part.name}", flush=True)


def _failure(error: Exception) -> str:
    """The error in one line; prints its traceback."""
    traceback.print_exception(error)
    return core_gpu.reason(error)


def _streams(backbone: str) -> Found:
    from edgefuse_benchmarks.suites.streams import bench_streams

    return bench_streams(backbone)


def table(groups: Sequence[Group]) -> str:
    """Medians in µs, the kernel as a multiple of everything else, and the goals, as lines of text."""
    lines = [
        "medians in us; T = the Triton kernel, one launch; chain = time on the GPU alone; cold = weights not in the L2 cache",
        f"{'':38}{'torch':>8}{'compile':>8}{'graph':>7}{'T':>7}{'limit':>7}{'T/limit':>8}{'T/comp.':>8}{'T/torch':>8}"
        f"{'chain: graph':>14}{'T':>7}{'limit':>7}{'T/limit':>8}{'cold: graph':>13}{'T':>7}{'limit':>7}{'T/limit':>8}",
    ]
    lines += [_core_line(group) for group in groups if group.scope == "core"]
    for group in groups:
        if group.scope == "two streams":
            lines.append(group.name)
            lines += [f"  {one.name:14}{one.summary().p50_ns / 1e3:10.1f} us" for one in group.series]
            lines += [
                f"  {one.numerator} / {one.denominator}: {one.median:.3f} ({one.low:.3f} to {one.high:.3f})"
                for one in group.ratios
            ]
    lines += ["goals: T/limit <= 1.5, T/compile <= 0.5, T/torch <= 0.2; two streams / longer side <= 1.05"]
    return "\n".join(lines)


def _core_line(group: Group) -> str:
    p50_us = {one.name: one.summary().p50_ns / 1e3 for one in group.series}
    limits_us = {name: value / 1e3 for name, value in group.facts["limits_ns"].items()}

    def number(value: float | None, width: int, digits: int = 1) -> str:
        return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"

    def over(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a / b

    fused = {how: p50_us.get(TRITON + how) for how in ("", CHAIN, COLD)}
    cells = [number(p50_us.get(name), width) for name, width in ((EAGER, 8), (COMPILED, 8), (GRAPH, 7), (TRITON, 7))]
    cells += [number(limits_us["replay"], 7), number(over(fused[""], limits_us["replay"]), 8, 2)]
    cells += [number(over(fused[""], p50_us.get(name)), 8, 2) for name in (COMPILED, EAGER)]
    for how, limit, width in ((CHAIN, "chain", 14), (COLD, "cold", 13)):
        cells += [number(p50_us.get(GRAPH + how), width), number(fused[how], 7), number(limits_us[limit], 7)]
        cells.append(number(over(fused[how], limits_us[limit]), 8, 2))
    rows = f" rows={group.facts['rows']}"
    return f"{group.name.removesuffix(', GPU') + rows:38}" + "".join(cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
