"""The process whose cold start is measured; `cold_start` runs it. Imports packages only after its clock has started.

python -m edgefuse_benchmarks.suites.cold_process BUNDLE SAMPLE.npz ENGINE     prints its stages in nanoseconds, and its
peak memory, as JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

STAGES = ("import packages", "open engine", "first decision")
PEAK = "peak_bytes"


def main(arguments: Sequence[str]) -> None:
    """Open a bundle and decide once. Opening includes the engine's own first run."""
    bundle, sample, engine = arguments
    start_ns = time.perf_counter_ns()
    import_module("onnxruntime" if engine == "cpu" else "openvino")  # otherwise opening the engine would include it

    from edgefuse.io.arrays import read_arrays
    from edgefuse_runtime.classifier import Classifier

    imported_ns = time.perf_counter_ns()
    with Classifier(bundle, engine=engine) as classifier:
        opened_ns = time.perf_counter_ns()
        arrays = read_arrays(Path(sample), ("rgb", "depth"))
        rgb, depth = arrays["rgb"], arrays["depth"]
        loaded_ns = time.perf_counter_ns()
        classifier.predict_framed(rgb, depth)
        decided_ns = time.perf_counter_ns()
    stages = (imported_ns - start_ns, opened_ns - imported_ns, decided_ns - loaded_ns)
    print(json.dumps({**dict(zip(STAGES, stages, strict=True)), PEAK: _peak_bytes()}))


def _peak_bytes() -> int | None:
    """Most memory that this process had; None if the system does not say. Not `getrusage`, whose maximum includes the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    main(sys.argv[1:])
