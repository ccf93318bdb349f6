"""Power rails of Jetson boards: the INA3221 monitor as the kernel's hwmon driver shows it (JetPack 5 and newer).

inN_label is the rail's name, inN_input its voltage in mV, currN_input its current in mA; channel 7 is a sum of shunt voltages.
Sources: Documentation/hwmon/ina3221.rst; NVIDIA's Jetson Linux guide, "Power and Performance".
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgefuse_benchmarks.energy.source import Power, Source, first_line

WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that supply the complete module: Orin Nano, Orin NX and Xavier NX; Nano; Thor."""
INCLUDED = ("VDDQ_VDD2_1V8AO",)
"""On AGX Orin this rail is part of VIN_SYS_5V0."""
MAX_CHANNEL = 3


def find_ina3221(sys: Path) -> Source | str:
    """The rails of all INA3221 monitors, or why there are none."""
    rails: list[Power] = []
    problems: list[str] = []
    for folder in sorted((sys / "class/hwmon").glob("hwmon*")):
        try:
            if first_line(folder / "name") == "ina3221":
                rails += _rails(folder)
        except (OSError, ValueError) as error:
            problems.append(f"{folder.name}: {error}")
    if not rails:
        return f"Jetson rails: {'; '.join(problems) or 'no ina3221 in /sys/class/hwmon, which Jetson boards have'}"
    names = [rail.name for rail in rails]
    whole = [name for name in names if name in WHOLE]
    return Source(
        name="INA3221",
        covers="the complete module" if whole else "the sum of the module's rails",
        rails=tuple(rails),
        total=tuple(whole[:1] or [name for name in names if name not in INCLUDED]),
    )


def _rails(folder: Path) -> list[Power]:
    found = []
    for label in sorted(folder.glob("in*_label")):
        channel = int((re.fullmatch(r"in(\d+)_label", label.name) or ["", "0"])[1])
        name = first_line(label)
        if not 1 <= channel <= MAX_CHANNEL or name == "NC" or not (folder / f"curr{channel}_input").exists():
            continue
        power = Power(name=name, read_w=partial(_watts, folder, channel))
        power.read_w()  # now, because a rail that cannot be read is no rail
        found.append(power)
    return found


def _watts(folder: Path, channel: int) -> float:
    volts, amperes = (int(first_line(folder / f"{kind}{channel}_input")) / 1000 for kind in ("in", "curr"))
    return volts * amperes
