"""What changed on the machine during a measurement: load of other processes, stolen time, throttling, clocks.

`machine.describe` keeps the counters at the start, `during` compares them with those at the end. Values that cannot be read are None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefuse.io.environment import output_of

SYS, PROC_STAT = Path("/sys"), Path("/proc/stat")
GPU_REASONS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's clock event reasons that mean a lower clock than the hardware could run. Idle and user settings are not among them.

Source: nvml.h, nvmlClocksEventReason*.
"""
REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The second is its name in drivers before 535."""


def counters(*, sys: Path = SYS, proc_stat: Path = PROC_STAT) -> dict[str, Any]:
    """Counters to compare later, as JSON values."""
    own = os.times()
    return {
        "seconds": round(time.monotonic(), 2),
        "own_cpu_seconds": round(own.user + own.system + own.children_user + own.children_system, 2),
        "cpu_seconds": _cpu_seconds(proc_stat),
        "throttle_events": throttle_events(sys),
    }


def during(before: Mapping[str, Any], *, sys: Path = SYS, proc_stat: Path = PROC_STAT) -> dict[str, Any]:
    """What happened since `before`, the value of `counters`.

    Returns:
        cores_of_others: cores that other processes used on average, of those that this process may use; cores_stolen: cores that the
        host of a virtual machine took away; throttle_events: new ones by name; gpu_throttle: reasons for a lower clock by GPU, now.
    """
    now = counters(sys=sys, proc_stat=proc_stat)
    # Before nvidia-smi runs, while the clocks are those of the work.
    mhz, temperatures = clocks_mhz(sys), temperatures_c(sys)
    seconds = max(now["seconds"] - before["seconds"], 0.01)
    others = stolen = None
    if now["cpu_seconds"] and before["cpu_seconds"]:
        busy = now["cpu_seconds"]["busy"] - before["cpu_seconds"]["busy"]
        own = now["own_cpu_seconds"] - before["own_cpu_seconds"]
        others = round(max(busy - own, 0.0) / seconds, 2)
        stolen = round((now["cpu_seconds"]["stolen"] - before["cpu_seconds"]["stolen"]) / seconds, 2)
    return {
        "seconds": round(seconds, 1),
        "cores_of_others": others,
        "cores_stolen": stolen,
        "throttle_events": {
            name: count - before["throttle_events"].get(name, 0)
            for name, count in now["throttle_events"].items()
            if count > before["throttle_events"].get(name, 0)
        },
        "gpu_throttle": gpu_throttle(),
        "mhz": mhz,
        "temperatures_c": temperatures,
    }


def throttle_events(sys: Path = SYS) -> dict[str, int]:
    """Counts since the start of the system: thermal events of each x86 package and core, over-current events of a Jetson."""
    found = {}
    for path in sorted((sys / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")):
        found[f"{path.parents[1].name} {path.name.removesuffix('_throttle_count')}"] = _integer(path)
    for path in sorted((sys / "class/hwmon").glob("hwmon*/oc*_event_cnt")):
        found[f"over-current {path.name.removesuffix('_event_cnt')}"] = _integer(path)
    return {name: count for name, count in found.items() if count is not None}


def gpu_throttle() -> dict[str, list[str]]:
    """NVIDIA GPU -> reasons why its clock is lower at this moment; empty without a GPU, or if the driver does not say."""
    for field in REASON_FIELDS:
        table = output_of(["nvidia-smi", f"--query-gpu=index,name,{field}", "--format=csv,noheader"])
        if not table:
            continue
        rows = [line.split(", ") for line in table.splitlines()]
        try:
            return {f"{index} {name}": _reasons(int(mask, 16)) for index, name, mask in rows}
        except ValueError:  # an unknown field, or "[N/A]"
            continue
    return {}


def clocks_mhz(sys: Path = SYS) -> dict[str, float]:
    """Lowest and highest present clock of the CPU cores, and that of a Jetson's GPU, in MHz."""
    cores = [_integer(path) for path in (sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [value / 1000 for value in cores if value]
    found = {"cpu_lowest": min(known), "cpu_highest": max(known)} if known else {}
    for path in sorted((sys / "class/devfreq").glob("*g*/cur_freq")):  # 17000000.gpu, 17000000.ga10b, gpu-gpc-0
        if "gpu" in path.parent.name or "ga10b" in path.parent.name or "gv11b" in path.parent.name:
            found[path.parent.name] = (_integer(path) or 0) / 1e6
    return found


def temperatures_c(sys: Path = SYS) -> dict[str, float]:
    """Thermal zone -> degrees Celsius."""
    found = {}
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        value, name = _integer(zone / "temp"), _text(zone / "type")
        if value is not None and name:
            found[name] = value / 1000
    return found


def state_notes(machine: Mapping[str, Any]) -> list[str]:
    """Warnings about the time of the measurement; empty for a result without `during`."""
    found, cores = machine.get("during") or {}, machine.get("cpu", {}).get("cores_usable") or 1
    notes = []
    if (others := found.get("cores_of_others")) is not None and others > 0.2 * cores:
        notes.append(f"the machine was busy: other processes used {others:g} of {cores} core(s) during the measurement")
    if (stolen := found.get("cores_stolen")) is not None and stolen > 0.05 * cores:
        notes.append(f"the host took {stolen:g} of {cores} core(s) away from this virtual machine")
    if events := found.get("throttle_events"):
        notes.append(f"the processor was throttled: {sum(events.values())} events ({', '.join(list(events)[:4])})")
    for gpu, reasons in (found.get("gpu_throttle") or {}).items():
        if reasons:
            notes.append(f"GPU {gpu} was throttled at the end: {', '.join(reasons)}")
    return notes


def _reasons(mask: int) -> list[str]:
    return [name for bit, name in GPU_REASONS.items() if mask & bit]


def _cpu_seconds(proc_stat: Path) -> dict[str, float] | None:
    """Seconds since the start of the system that the cores of this process were busy, and that the host took away."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    rows = [line.split() for line in (_text(proc_stat) or "").splitlines()]
    ticks = [[int(value) for value in row[1:]] for row in rows if row and row[0] in {f"cpu{core}" for core in usable}]
    if not ticks or any(len(row) < 8 for row in ticks):
        return None
    user, nice, system, _, _, irq, softirq, stolen, *_ = (sum(column) for column in zip(*ticks, strict=True))
    per_second = os.sysconf("SC_CLK_TCK")
    return {"busy": (user + nice + system + irq + softirq) / per_second, "stolen": stolen / per_second}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None
