"""Energy counters of NVIDIA GPUs since Volta, from NVML. A Jetson's NVML opens and refuses them: its rails are in `ina3221`.

Source: nvml.h, nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from edgefuse_benchmarks.energy.source import Counter, Source


def find_nvml(dev: Path) -> Source | str:
    """The GPUs' counters, or why there are none."""
    if not (dev / "nvidia0").exists():
        return "NVIDIA GPU: none (no /dev/nvidia0)"
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return "NVIDIA GPU: the package nvidia-ml-py is not installed: pip install 'edgefuse[bench]'"
    try:
        nvml.nvmlInit()
        rails = [_rail(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        return f"NVIDIA GPU: NVML has no energy counter here ({error}); GPUs before Volta and Jetsons have none"
    if not rails:
        return "NVIDIA GPU: NVML finds none"
    return Source(name="NVML", covers="the GPU board", rails=tuple(rails), total=tuple(rail.name for rail in rails))


def _rail(nvml: Any, index: int) -> Counter:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    text = name.decode() if isinstance(name, bytes) else str(name)  # bytes in older versions of the package
    counter = Counter(name=f"GPU {index} {text}", read_j=partial(_joules, nvml, handle))
    counter.read_j()
    return counter


def _joules(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
