"""Identifies the CPU, for what was compared, compiled or measured on it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path

_NAMES = ("model name", "Model", "Hardware")
_FEATURES = ("flags", "Features")


def cpu_id(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Such as "AMD_EPYC_9B45-1f3c9a2b": the model and a digest of its instruction sets, as a part of a file name.

    The digest is needed because virtual machines hide the model.
    """
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in reversed(lines)}  # of the first core
    name = next((fields[key] for key in _NAMES if fields.get(key)), platform.machine())
    features = " ".join(sorted(word for key in _FEATURES for word in fields.get(key, "").split()))
    digest = hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)[:60]}-{digest}"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
