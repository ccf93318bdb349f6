"""Scope "cold start": a fresh process until a bundle's first decision.

Each start is a separate process, because a second engine in one process finds its libraries loaded. After the first start, files
come from the page cache of the system. The engine benchmark imports this module.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.arrays import write_arrays
from edgefuse.measure import Series
from edgefuse_benchmarks.suites import cold_process
from edgefuse_benchmarks.suites.cold_process import PEAK, STAGES

WHOLE = "process, start to end"
TIMEOUT_S = 300.0


class ColdStart(NamedTuple):
    """Fresh processes with one engine.

    Attributes:
        series: the stages and the complete process, one sample per start. Opening includes the engine's own first run.
        peak_bytes: most memory that a process had, median over the starts; None if the system does not say.
    """

    series: tuple[Series, ...]
    peak_bytes: int | None


def measure_cold_start(
    bundle_folder: Path, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], *, engine: str = "cpu", num_starts: int
) -> ColdStart:
    """Start `num_starts` processes, one after the other.

    Args:
        rgb, depth: one framed pair, uint8 [1, S, S, 3] and [1, S, S, 2].
        engine: a value of `--engine` for the CPU.

    Raises:
        UserError: a process failed.
    """
    starts: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.npz"
        write_arrays(sample, rgb=rgb, depth=depth)
        for _ in range(num_starts):
            start_ns = time.perf_counter_ns()
            stages = _start(bundle_folder, sample, engine)
            starts.append({**stages, WHOLE: time.perf_counter_ns() - start_ns})
    series = tuple(
        Series(name=name, turns_ns=np.array([[start[name]] for start in starts], np.int64)) for name in (*STAGES, WHOLE)
    )
    peaks = [start[PEAK] for start in starts if start[PEAK] is not None]
    return ColdStart(series, int(median(peaks)) if peaks else None)


def _start(bundle_folder: Path, sample: Path, engine: str) -> dict[str, int]:
    command = [sys.executable, "-m", cold_process.__name__, str(bundle_folder), str(sample), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the bundle does not start in a separate process: {last_line}")
    stages: dict[str, int] = json.loads(done.stdout)
    return stages
