"""The Triton kernel of the fusion core in Triton's interpreter, against float64. The interpreter needs its own process: Triton decides at
import time whether it compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton comes with PyTorch's CUDA builds for Linux only"
)

COMPARE = """
import copy, json
import torch
from edgefuse_benchmarks.suites.core_triton import FusedCore, read_kernel
from edgefuse_benchmarks.suites.core_variants import build_core, with_softmax

found = {}
for kind in ("gated", "naive", "joint", "spatial"):
    for precision in ("float32", "float16"):
        for d, batch, rows in ((24, 1, 8), (32, 3, 4)):
            core = build_core(kind, width=d, num_hidden=20, num_classes=7, seed=1)
            core.load_state_dict({name: 3 * value for name, value in core.state_dict().items()})
            fused = FusedCore(core, batch=batch, weights=getattr(torch, precision), rows=rows)
            off = []
            for seed in (0, 1):  # the second run needs the sums and the counter of the first to be zero again
                torch.manual_seed(seed)
                inputs = [torch.rand(batch, d), torch.rand(batch, d), torch.rand(batch, 1)][: 3 if kind == "spatial" else 2]
                with torch.no_grad():
                    expected = with_softmax(copy.deepcopy(core).double())(*(one.double() for one in inputs))
                    off += [float((a - b).abs().max()) for a, b in zip(fused(*inputs), expected, strict=True)]
            found[f"{kind} {precision} {d} {batch}"] = max(off)
values, sums = torch.arange(2 * 2 * 16.0), torch.empty(2)
read_kernel[2,](values, sums, 2, BLOCK=16, BLOCKS=2)
print(json.dumps({"off": found, "read": sums.tolist(), "expected": [2 * float(values.sum()) / 2] * 2}))
"""


@pytest.fixture(scope="module")
def compared() -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_kernel_computes_every_fusion_in_both_precisions(compared: Any) -> None:
    assert len(compared["off"]) == 4 * 2 * 2
    for name, off in compared["off"].items():
        assert off <= (2e-3 if "float16" in name else 1e-6), name


@pytest.mark.slow
def test_the_kernel_of_the_bandwidth_reads_every_part_in_every_pass(compared: Any) -> None:
    assert compared["read"] == pytest.approx(compared["expected"])  # with two programs, pass 2 reads the other half


def test_block_sizes_are_powers_of_two_that_fit_into_registers() -> None:
    from edgefuse_benchmarks.gpu_core import block_sizes
    from edgefuse_benchmarks.suites.core_triton import default_rows, num_warps

    for width in (128, 256, 512, 1024, 2048):
        for rows in (default_rows(width), *block_sizes(width)):
            assert rows & (rows - 1) == 0 and 1 <= rows <= 16
            warps = num_warps(rows=rows, width=width)
            assert warps & (warps - 1) == 0
            assert (
                rows * width <= 64 * 32 * warps
            )  # at most 64 of the 255 registers of a thread hold weights of the gate


@pytest.mark.parametrize(("width", "batch"), [(16, 9), (16, 0), (8192, 1)])
def test_larger_batches_and_widths_are_refused(width: int, batch: int) -> None:
    from edgefuse_benchmarks.suites.core_triton import FusedCore
    from edgefuse_benchmarks.suites.core_variants import build_core

    with pytest.raises(ValueError, match="was expected"):
        FusedCore(build_core("spatial", width=width, num_hidden=4, num_classes=3, seed=0), batch=batch)
