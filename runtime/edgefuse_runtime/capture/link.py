"""What a capture process (or thread) and its reader share: the ring, a page of control words, a pipe of messages, a life line.

A message is a line of JSON, sent when something changes, never per frame. Nobody writes to the life line: the process is ended by the
kernel when its other end is closed, even while a call of the SDK hangs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.capture.ring import Reader, RingFiles, Writer

PHASES = ("starting", "opening", "reading", "closing", "resetting")
_STOP, _PHASE, _DEADLINE = 0, 1, 2


@dataclass(frozen=True)
class Files:
    """File descriptors of a link. `life_in` is the process's end, `life_out` the reader's."""

    ring: RingFiles
    messages_in: int
    messages_out: int
    life_in: int
    life_out: int

    @classmethod
    def create(cls) -> Files:
        """Create a link."""
        files = cls(RingFiles.create(), *os.pipe(), *os.pipe())
        for file in (files.messages_in, files.messages_out):
            os.set_blocking(file, False)
        return files

    def of_worker(self) -> list[int]:
        """In the order of `from_worker`; the reader's own ends are left out."""
        return [*self.ring[:4], self.messages_out, self.life_in]

    @classmethod
    def from_worker(cls, files: Sequence[int]) -> Files:
        """The link in the capture process."""
        return cls(RingFiles._make([*files[:4], -1]), -1, files[4], files[5], -1)

    def without_worker(self) -> Files:
        """The reader's own ends, after closing the others: a worker in another process has its own copies of them."""
        _, ready_in, _, _, free_out = self.ring
        mine = Files(RingFiles(-1, ready_in, -1, -1, free_out), self.messages_in, -1, -1, self.life_out)
        Files(self.ring._replace(ready_in=-1, free_out=-1), -1, self.messages_out, self.life_in, -1).close()
        return mine

    def close(self) -> None:
        """Close all."""
        for file in (*self.ring, self.messages_in, self.messages_out, self.life_in, self.life_out):
            if file >= 0:
                os.close(file)


class WorkerLink:
    """The end of the process or thread that reads the camera."""

    def __init__(self, files: Files) -> None:
        self.writer = Writer(files.ring)
        self._words = np.ndarray((8,), np.int64, buffer=self.writer.memory)
        self._messages = files.messages_out

    @property
    def must_stop(self) -> bool:
        """Whether the reader has asked to stop."""
        return bool(self._words[_STOP])

    def enter(self, phase: str, *, limit_s: float | None) -> None:
        """Begin a phase. The process is ended if the next one does not begin within `limit_s` seconds."""
        self._words[_PHASE] = PHASES.index(phase)
        self._words[_DEADLINE] = 0 if limit_s is None else time.monotonic_ns() + int(limit_s * 1e9)

    def send(self, kind: str, **values: Any) -> None:
        """Send a message. It is lost if the reader has not read for thousands of messages."""
        with contextlib.suppress(OSError):
            os.write(self._messages, dumps({"kind": kind, **values}).encode() + b"\n")


class ReaderLink:
    """The end of the consumer."""

    def __init__(self, files: Files) -> None:
        self.reader = Reader(files.ring)
        self._words = np.ndarray((8,), np.int64, buffer=self.reader.memory)
        self.messages_file = files.messages_in
        self._unfinished = b""

    def stop(self) -> None:
        """Ask the worker to stop."""
        self._words[_STOP] = 1

    def overdue(self) -> str | None:
        """The phase that has exceeded its limit, or None."""
        deadline_ns = int(self._words[_DEADLINE])
        if not deadline_ns or time.monotonic_ns() < deadline_ns:
            return None
        return PHASES[int(self._words[_PHASE])]

    def messages(self) -> list[dict[str, Any]]:
        """The messages since the last call."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.messages_file, 65536):
                self._unfinished += data
        *lines, self._unfinished = self._unfinished.split(b"\n")
        return [parse_json(line, what="a message of the capture process") for line in lines]
