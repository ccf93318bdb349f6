"""`Source`: something on this machine that measures energy or power, and `find_sources`, which says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SYS, DEV = Path("/sys"), Path("/dev")


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A rail whose energy the hardware adds up.

    Attributes:
        read_j: joules since some moment; it may restart at 0.
        wraps_at_j: the value at which it restarts; None = never.
    """

    name: str
    read_j: Callable[[], float]
    wraps_at_j: float | None = None


@dataclass(frozen=True, kw_only=True)
class Power:
    """A rail whose present power is read; its energy is the integral over many readings."""

    name: str
    read_w: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rails that are measured by one kind of hardware.

    Attributes:
        covers: what the total includes, in words.
        total: names of the rails that add up to the total; other rails are parts of these.
    """

    name: str
    covers: str
    rails: tuple[Counter | Power, ...]
    total: tuple[str, ...]


class Found(NamedTuple):
    """All sources that can be read, and for each kind that cannot, the reason and what to do."""

    sources: tuple[Source, ...]
    reasons: tuple[str, ...]


def find_sources(*, sys: Path = SYS, dev: Path = DEV) -> Found:
    """Look for every kind of source.

    Args:
        sys, dev: where /sys and /dev are.
    """
    from edgefuse_benchmarks.energy.ina3221 import find_ina3221
    from edgefuse_benchmarks.energy.nvml import find_nvml
    from edgefuse_benchmarks.energy.rapl import find_rapl

    found = (find_ina3221(sys), find_nvml(dev), find_rapl(sys))
    return Found(
        tuple(source for source in found if isinstance(source, Source)),
        tuple(reason for reason in found if isinstance(reason, str)),
    )


def first_line(path: Path) -> str:
    """The text of a sysfs file.

    Raises:
        OSError: it cannot be read.
    """
    return path.read_text(encoding="utf-8", errors="replace").strip()
