"""Describes the machine of a measurement: hardware, clocks, versions, commit. Unknown values are None.

The description is part of each result; it has no host name, user name or path.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgefuse.io.environment import git_revision, output_of, versions
from edgefuse_benchmarks.machine_state import clocks_mhz, counters

PACKAGES = (
    *("edgefuse", "numpy", "opencv", "torch", "torchvision", "onnx", "onnxscript"),
    *("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "pyrealsense2"),
    *("ultralytics", "litserve"),
)
CPU = Path("/sys/devices/system/cpu")
GPU_FIELDS = (
    "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,compute_cap,pstate,temperature.gpu"
)


def describe() -> dict[str, Any]:
    """Hardware, system and versions, as JSON values. Call it before measuring, for the load average and clocks."""
    return {
        "before": counters(),
        "cpu": describe_cpu(),
        "memory_bytes": memory_bytes(),
        "gpus": describe_gpus(),
        "jetson": describe_jetson(),
        "system": {
            "name": os_name(),
            "kernel": _leading_numbers(platform.release()),
            "architecture": platform.machine(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
        },
        "load_average_1min": load_average(),
        "versions": versions(PACKAGES, only_installed=True),
        "commit": git_revision(),
        "command": command_line(sys.argv),
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def describe_cpu() -> dict[str, Any]:
    """Model, cores that this process may use, clocks, and the sizes of core 0's caches."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    frequency = CPU / "cpu0" / "cpufreq"
    return {
        "model": cpu_model(),
        "cores_usable": len(usable),
        "cores_online": os.cpu_count(),
        "virtual_machine": "hypervisor" in (_read(Path("/proc/cpuinfo")) or ""),
        "governor": _read(frequency / "scaling_governor"),
        "max_mhz": _megahertz(_read(frequency / "scaling_max_freq")),
        "now_mhz": _number(_field(_read(Path("/proc/cpuinfo")), "cpu MHz")) or clocks_mhz().get("cpu_highest"),
        "platform_profile": _read(Path("/sys/firmware/acpi/platform_profile")),
        "caches_bytes": caches_bytes(),
    }


def cpu_model() -> str | None:
    """The name of the processor; on ARM from `lscpu`, because /proc/cpuinfo has none."""
    return (
        _field(_read(Path("/proc/cpuinfo")), "model name")
        or _field(output_of(["lscpu"]), "Model name")
        or platform.processor()
        or None
    )


def caches_bytes() -> dict[str, int]:
    """Sizes of the data caches of core 0, such as {"L1": 49152, "L2": ...}; shared caches in full."""
    found = {}
    for folder in sorted((CPU / "cpu0" / "cache").glob("index*")):
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(folder / "size") or "")
        if size and _read(folder / "type") != "Instruction":
            found[f"L{_read(folder / 'level')}"] = (
                int(size[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[2]]
            )
    return found


def memory_bytes() -> int | None:
    """Main memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def describe_gpus() -> list[dict[str, str]]:
    """The fields of nvidia-smi for each GPU; empty without a GPU. `machine_state.during` has the reasons for a lower clock."""
    table = output_of(["nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader"])
    names = GPU_FIELDS.split(",")
    rows = [[value.strip() for value in line.split(",")] for line in (table or "").splitlines() if line.strip()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def hardware_folder(results: Path) -> Path:
    """The folder for results of this machine's GPU or board, such as `results/nvidia-h100`; `results` itself without one."""
    names = [gpu.get("name", "") for gpu in describe_gpus()] or [str((describe_jetson() or {}).get("board", ""))]
    words = re.findall(r"[a-z0-9]+", names[0].lower())
    slug = "-".join(itertools.takewhile(lambda word: not re.fullmatch(r"\d+gb", word), words))  # not its memory
    return results / slug if slug else results


def describe_jetson() -> dict[str, str] | None:
    """Board, L4T release, power mode and clocks of a Jetson; None elsewhere."""
    release = _read(Path("/etc/nv_tegra_release"))
    if release is None:
        return None
    return {
        "board": (_read(Path("/proc/device-tree/model")) or "").strip("\0"),
        "l4t": release.splitlines()[0],
        "nvpmodel": output_of(["nvpmodel", "-q"]) or "not readable",
        "jetson_clocks": output_of(["jetson_clocks", "--show"]) or "not readable (it needs root)",
    }


def os_name() -> str:
    """Such as "Ubuntu 24.04.1 LTS"."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def load_average() -> float | None:
    """Average number of runnable processes over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def command_line(argv: Sequence[str]) -> str:
    """The command line, with paths outside the working folder shortened to their names, because results are published."""
    words = [Path(argv[0]).name]
    for word in argv[1:]:
        is_setting = word.startswith("-") or re.match(r"[\w.]+=", word)  # --option=value, or NAME=VALUE of --set
        option, equals, value = word.partition("=") if is_setting else ("", "", word)
        path = Path(value)
        words.append(f"{option}{equals}{path.name if path.is_absolute() or '..' in path.parts else value}")
    return " ".join(words)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _field(text: str | None, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text or "", re.MULTILINE)
    return match[1].strip() if match else None


def _leading_numbers(release: str) -> str:
    """ "6.8.0" of "6.8.0-41-generic": the rest may be a custom name."""
    match = re.match(r"[\d.]+", release)
    return match[0] if match else release


def _megahertz(kilohertz: str | None) -> float | None:
    number = _number(kilohertz)
    return None if number is None else number / 1000


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
