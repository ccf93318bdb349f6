"""The checks of the machine itself: Python, driver, disk, power mode, udev rules. Only `report` imports it.

Files are read below `root`, so that another machine's can be checked.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgefuse.io.environment import output_of
from edgefuse.io.text import printable
from edgefuse_runtime.doctor.check import CUDA_DRIVER, DISK, POWER_MODE, PYTHON, UDEV_RULES, Check, brief
from edgefuse_runtime.doctor.probe import Facts

MIN_FREE_BYTES = 5 << 30
"""PyTorch alone needs about this much with CUDA, and a run or a recording gigabytes."""

NVIDIA = "0x10de"
"""PCI vendor id."""

RULE_FOLDERS = ("etc", "run", "usr/local/lib", "usr/lib", "lib")
_RULE = re.compile(r'^\s*[^#\s].*idVendor\}=="(?P<vendor>8086|38e5)"', re.IGNORECASE)
_GRANTS = re.compile(r"MODE\s*:?=|uaccess", re.IGNORECASE)
_REALSENSE_PRODUCT = re.compile(r'idProduct\}=="(0[ab][0-9a-f]{2}|115[56]|abc[cd])', re.IGNORECASE)
"""Intel's vendor id has other devices too. The other id has cameras only."""
RULES_URL = "https://raw.githubusercontent.com/realsenseai/librealsense/master/config/99-realsense-libusb.rules"
_RELOAD = "sudo udevadm control --reload-rules && sudo udevadm trigger"
RULE_STEPS = {
    "8086": f"sudo curl -fLo /etc/udev/rules.d/99-realsense-libusb.rules {RULES_URL}",
    "38e5": """echo 'SUBSYSTEMS=="usb", ATTRS{idVendor}=="38e5", MODE:="0666"' | sudo tee /etc/udev/rules.d/99-realsense-38e5.rules""",
}


def python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()}, {platform.machine()}, {_os_name()}"
    return PYTHON.is_now("ok", found)


def disk(folder: Path) -> Check:
    """Free space where the command was called."""
    result = DISK.is_now
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return result("broken", f"{folder.absolute()} cannot be read ({error.strerror})")
    found = f"{free / 1e9:.1f} GB free in {printable(str(folder.absolute()))}"
    return result("ok", found) if free >= MIN_FREE_BYTES else result("warning", found, "free at least 5 GB")


def cuda_driver(facts: Facts, *, root: Path = Path("/")) -> Check:
    """The driver and the GPU. Without NVIDIA hardware nothing is broken."""
    result = CUDA_DRIVER.is_now
    if "name" in facts:
        version = _first(root / "proc/driver/nvidia/version", r"Kernel Module\D*([\d.]+)")
        driver = f", driver {version}" if version else ""
        return result("ok", f"{facts['name']}, compute capability {facts['compute_capability']}{driver}")
    problem = facts.get("problem", "no answer")
    vendors = (_read(path) for path in (root / "sys/bus/pci/devices").glob("*/vendor"))
    if NVIDIA in vendors or (root / "proc/driver/nvidia").is_dir():
        return result("broken", brief(problem), facts.get("step", "check nvidia-smi"))
    if "driver is missing" in problem:
        return result("missing", "no NVIDIA GPU, no driver (for GPU engines only)")
    return result("missing", brief(problem), facts.get("step", ""))


def power_mode(*, is_jetson: bool, root: Path = Path("/")) -> Check:
    """A Jetson's nvpmodel, or the frequency governor elsewhere: both decide the latency."""
    result = POWER_MODE.is_now
    if is_jetson:
        mode = re.search(r"NV Power Mode:\s*(\S+)", output_of(["nvpmodel", "-q"]) or "")
        if mode is None:
            return result("warning", "nvpmodel does not say it", "sudo nvpmodel -q")
        fastest = _fastest_mode(root)
        if fastest is None or fastest[0] == mode.group(1):
            return result("ok", f"{mode.group(1)} (nvpmodel)")
        return result(
            "warning", f"{mode.group(1)} (nvpmodel); {fastest[0]} is faster", f"sudo nvpmodel -m {fastest[1]}"
        )
    governor = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    driver = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if governor is None:
        return result("ok", "not adjustable here (a virtual machine or container)")
    if governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp"):  # these two follow the load
        return result("warning", "powersave: the lowest clock", "sudo cpupower frequency-set -g performance")
    return result("ok", governor if governor == "performance" else f"{governor}: clocks follow the load")


def _fastest_mode(root: Path) -> tuple[str, str] | None:
    """Name and number of the mode without limits, from the board's own table; its number differs between boards."""
    modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _read(root / "etc/nvpmodel.conf") or "")
    by_name = {name: number for number, name in modes}
    return next(((name, by_name[name]) for name in ("MAXN_SUPER", "MAXN") if name in by_name), None)


def udev_rules(*, root: Path = Path("/")) -> Check:
    """Rules that let users open cameras: of the vendor ids 8086 (Intel) and 38e5 (RealSense since 2025)."""
    result = UDEV_RULES.is_now
    files = [path for folder in RULE_FOLDERS for path in (root / folder / "udev/rules.d").glob("*.rules")]
    found = {vendor for path in files for vendor in _vendors((_read(path) or "").splitlines())}
    missing = [vendor for vendor in RULE_STEPS if vendor not in found]
    if not missing:
        return result("ok", "for the USB vendors 8086 and 38e5")
    step = "\n".join([*(RULE_STEPS[vendor] for vendor in missing), _RELOAD])
    return result("missing", f"none for USB vendor {' and '.join(missing)}: root only", step)


def _vendors(lines: Iterable[str]) -> set[str]:
    found = set()
    for line in lines:
        match = _RULE.match(line)
        if match and _GRANTS.search(line):
            vendor = match["vendor"].lower()
            if vendor == "38e5" or _REALSENSE_PRODUCT.search(line):
                found.add(vendor)
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() if os.access(path, os.R_OK) else None
    except OSError:
        return None


def _first(path: Path, pattern: str) -> str | None:
    match = re.search(pattern, _read(path) or "")
    return match.group(1) if match else None
