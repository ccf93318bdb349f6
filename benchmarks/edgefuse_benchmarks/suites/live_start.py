"""Time from the start of `edgefuse live` in a process of its own to its first result, imports included."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgefuse.errors import UserError
from edgefuse.measure import Series
from edgefuse_benchmarks.suites.live_goals import Goal

MAX_START_S = 2.0


def first_results(
    bundle_folder: Path, *, camera: str, roi: str | None, engine: str, num_threads: int | None, num_starts: int
) -> Series:
    """One sample for each start, one after the other; after the first, files come from the page cache.

    Raises:
        UserError: there was no result.
    """
    command = [sys.executable, "-m", "edgefuse", "live", str(bundle_folder), "--camera", camera, "--jsonl", "-"]
    command += ["--engine", engine, *(["--roi", roi] if roi else [])]
    command += ["--threads", str(num_threads)] if num_threads is not None else []
    times_ns = [_first_result_ns(command) for _ in range(num_starts)]
    return Series(name="start to first result", turns_ns=np.array(times_ns, np.int64)[:, np.newaxis])


def first_result_goal(series: Series) -> Goal:
    """The goal for the median."""
    median_s = series.summary().p50_ns / 1e9
    return Goal(
        what="start of the process to the first result,", measured=median_s, limit=MAX_START_S, is_most=True, unit=" s"
    )


def _first_result_ns(command: Sequence[str]) -> int:
    start_ns = time.perf_counter_ns()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in process.stdout:
                if line.startswith(b'{"kind": "result"'):
                    return time.perf_counter_ns() - start_ns
        finally:
            process.kill()
        last_line = (process.stderr.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    raise UserError(f"edgefuse live has no result in a process of its own: {last_line}")
