"""Memory available to this process, from Linux's figures. Standard library only."""

from __future__ import annotations

import resource
from pathlib import Path

_CGROUPS = (  # limit and usage in a container, of cgroup version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """The smallest of: the machine's available memory, the container's remaining limit, and the rest of `ulimit -v`."""
    left = [_machine(), _address_space(), *(_container(*names) for names in _CGROUPS)]
    return max(0, min((number for number in left if number is not None), default=0))


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _address_space() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return limit // 2
    return limit - pages * resource.getpagesize()


def _container(limit: str, used: str) -> int | None:
    try:
        return int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii"))
    except (OSError, ValueError):  # not this cgroup version, or "max"
        return None
