"""Memory, open files, shared memory and processes of this process and its children, from Linux's /proc."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

QUARTILE = 25
"""The memory of a period is this percentile of its samples: a sink that is failing holds images in its queue, for a while."""
SETTLED_S = 3.0
"""A capture process is not measured before this age: it still draws its scenes."""


@dataclass(frozen=True)
class Sample:
    """Private memory at a moment, in bytes.

    Attributes:
        time_s: on the clock `time.monotonic`.
        own: of this process.
        children: of the child processes that are older than `SETTLED_S`; None if there is none.
        shared: shared memory (the ring of frames), counted once.
    """

    time_s: float
    own: int
    children: int | None
    shared: int


class MemoryLog:
    """Samples the memory in a thread."""

    def __init__(self, *, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._every_s = every_s
        self._done = threading.Event()
        self._since_s: dict[int, float] = {}
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> MemoryLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._every_s):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        now_s = time.monotonic()
        own, shared = memory_of(os.getpid())
        settled: list[int] = []
        processes = child_processes()
        self._since_s = {process: self._since_s.get(process, now_s) for process in processes}
        for process, since_s in self._since_s.items():
            private, also_shared = memory_of(process)
            shared += also_shared
            if now_s - since_s >= SETTLED_S:
                settled.append(private)
        return Sample(now_s, own, sum(settled) if settled else None, shared)

    def between(self, start_s: float, end_s: float) -> tuple[float, float | None]:
        """The memory of this process and of its children in a period, in MB; None without children."""
        chosen = [sample for sample in self.samples if start_s <= sample.time_s <= end_s]
        children = [sample.children for sample in chosen if sample.children is not None]
        own_mb = float(np.percentile([sample.own for sample in chosen], QUARTILE)) / 1e6
        return own_mb, float(np.percentile(children, QUARTILE)) / 1e6 if children else None


def memory_of(process: int) -> tuple[int, int]:
    """Private anonymous memory of a process and its part of shared memory, in bytes; 0 if it has ended."""
    found = {"Pss_Anon": 0, "Pss_Shmem": 0}
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = 1024 * int(value.split()[0])
    return found["Pss_Anon"], found["Pss_Shmem"]


def child_processes() -> list[int]:
    """The processes that any thread of this one has started and that have not ended."""
    found = []
    for tasks in Path("/proc/self/task").glob("*/children"):
        try:
            found += [int(word) for word in tasks.read_text(encoding="ascii").split()]
        except OSError:  # the thread has ended
            continue
    return [process for process in found if not _is_zombie(process)]


def _is_zombie(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What this process has open.

    Attributes:
        files: number of open files, pipes and sockets.
        segments: number of mapped or open segments of shared memory.
        processes: number of child processes.
        threads: number of threads.
    """

    files: int
    segments: int
    processes: int
    threads: int

    @classmethod
    def now(cls) -> Resources:
        """Count them."""
        names = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                names.append(str(entry.readlink()))
            except OSError:  # the folder itself, which was open while it was read
                continue
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        segments = sum("memfd:" in line or "/dev/shm/" in line for line in [*names, *maps])
        return cls(
            files=len(names), segments=segments, processes=len(child_processes()), threads=threading.active_count()
        )
