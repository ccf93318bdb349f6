"""Energy counters of x86 processors: RAPL as the kernel's powercap interface shows it, on Intel and AMD.

energy_uj restarts at 0 after max_energy_range_uj. Since Linux 5.10 only root may read it (CVE-2020-8694).
Source: Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgefuse_benchmarks.energy.source import Counter, Source, first_line

ALLOW = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


def find_rapl(sys: Path) -> Source | str:
    """The processor's zones, or why they cannot be read."""
    zones = [
        path for path in (sys / "class/powercap").glob("intel-rapl:*") if re.fullmatch(r"intel-rapl[:\d]+", path.name)
    ]
    if not zones:
        return "RAPL: no intel-rapl in /sys/class/powercap: not an x86 processor, a virtual machine, or the module intel_rapl_common is not loaded"
    rails: list[Counter] = []
    names = {zone.name: _name(zone) for zone in zones}
    for zone in sorted(zones):
        package = names.get(zone.name.rpartition(":")[0], "")
        name = f"{package} {names[zone.name]}".strip()
        counter = Counter(name=name, read_j=partial(_joules, zone), wraps_at_j=_wraps_at_j(zone))
        try:
            counter.read_j()
        except PermissionError:
            return f"RAPL: no permission to read {zone.name}/energy_uj; to allow it until the next start: {ALLOW}"
        except (OSError, ValueError):
            continue  # a zone without counter
        rails.append(counter)
    packages = [rail.name for rail in rails if rail.name.startswith("package") and " " not in rail.name]
    memory = [rail.name for rail in rails if rail.name.endswith("dram")]
    if not packages:
        return "RAPL: no package in /sys/class/powercap/intel-rapl:* can be read"
    return Source(
        name="RAPL",
        covers="processor and memory" if memory else "the processor, without memory",
        rails=tuple(rails),
        total=(*packages, *memory),  # core and uncore are parts of the package, psys contains it
    )


def _name(zone: Path) -> str:
    try:
        return first_line(zone / "name")
    except OSError:
        return zone.name


def _joules(zone: Path) -> float:
    return int(first_line(zone / "energy_uj")) / 1e6


def _wraps_at_j(zone: Path) -> float | None:
    try:
        return int(first_line(zone / "max_energy_range_uj")) / 1e6
    except (OSError, ValueError):
        return None
