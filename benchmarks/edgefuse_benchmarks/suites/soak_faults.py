"""The faults of the soak: sinks and an engine that fail on request, and threads that request faults at random."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.engines.engine import Decision, Engine, Tensor
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import Sink, SinkInfo

SinkFault = Literal["sink fails", "disk is full", "sink is slow", "sink hangs", "sink has a bug"]
SINK_FAULTS: tuple[SinkFault, ...] = get_args(SinkFault)
FAULT_S = 1.5
"""A sink fails, is slow or hangs for this long."""
SLOW_S = 0.05
NUM_NAN = 20
RECOVERY_S = 120.0
"""A fault that lasts longer was not survived."""
_STEP_S = 0.02


class CountingSink:
    """A sink that never fails, and counts what it gets."""

    def __init__(self) -> None:
        self.info = SinkInfo(name="counting", queue_size=4096)
        self.num_results = self.num_finite = 0
        self.is_complete = True

    def __enter__(self) -> CountingSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def result(self, result: Result, frame: Frame | None) -> None:
        self.is_complete &= result.index == self.num_results
        self.num_results += 1
        self.num_finite += result.is_finite

    def event(self, event: Event) -> None:
        pass

    def summary(self, summary: LiveSummary) -> None:
        pass


class LeakingSink(CountingSink):
    """The control: it keeps memory for each result, and a file and a segment of shared memory open."""

    def __init__(self, *, bytes_per_result: int = 64_000) -> None:
        super().__init__()
        self.info = SinkInfo(name="leak", queue_size=4096)
        self._num_bytes = bytes_per_result
        self._kept: list[bytearray] = []
        self._files: list[int] = []

    def __enter__(self) -> LeakingSink:
        self._files += [os.open(os.devnull, os.O_RDONLY), os.memfd_create("edgefuse-leak")]
        return self

    def result(self, result: Result, frame: Frame | None) -> None:
        super().result(result, frame)
        self._kept.append(bytearray(b"x" * self._num_bytes))

    def release(self) -> None:
        """End the leak."""
        self._kept.clear()
        while self._files:
            os.close(self._files.pop())


class FaultySink:
    """Passes calls to another sink, and fails on request."""

    def __init__(self, sink: Sink, *, every: int = 1) -> None:
        """`every`: pass every n-th result only."""
        self.info = sink.info
        self._every = every
        self.num_written = 0
        self._sink = sink
        self._fault: SinkFault | None = None
        self._until_s = 0.0

    @property
    def is_faulty(self) -> bool:
        """Whether a fault has not ended."""
        return self._fault is not None

    def begin(self, fault: SinkFault) -> None:
        """Begin a fault."""
        self._until_s = time.monotonic() + FAULT_S
        self._fault = fault

    def _act(self) -> None:
        fault = self._fault
        left_s = self._until_s - time.monotonic()
        if fault == "sink has a bug" or left_s <= 0:
            self._fault = None
        if fault is None or left_s <= 0:
            return
        if fault == "sink fails":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if fault == "disk is full":
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")
        if fault == "sink has a bug":
            raise ValueError("a fault of the soak")
        time.sleep(left_s if fault == "sink hangs" else SLOW_S)

    def __enter__(self) -> FaultySink:
        self._act()
        self._sink.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.__exit__(kind, error, trace)

    def result(self, result: Result, frame: Frame | None) -> None:
        self._act()
        if result.index % self._every == 0:
            self._sink.result(result, frame)
        self.num_written += 1

    def event(self, event: Event) -> None:
        self._sink.event(event)

    def summary(self, summary: LiveSummary) -> None:
        self._sink.summary(summary)


class FaultyEngine:
    """Passes all calls to another engine; on request, outputs are NaN, or a run fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.num_nan = 0
        """Outputs that will be NaN."""
        self.num_errors = 0
        """Runs that will fail."""

    @property
    def is_faulty(self) -> bool:
        """Whether a fault has not ended."""
        return self.num_nan > 0 or self.num_errors > 0

    @property
    def labels(self) -> tuple[str, ...]:
        return self._engine.labels

    @property
    def contract(self) -> InputContract:
        return self._engine.contract

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._engine.outputs

    @property
    def batch_size(self) -> int | None:
        return self._engine.batch_size

    @property
    def description(self) -> dict[str, Any]:
        return self._engine.description

    def __enter__(self) -> FaultyEngine:
        self._engine.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.__exit__(kind, error, trace)

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self.num_errors > 0:
            self.num_errors -= 1
            raise UserError("a fault of the soak")
        decision = self._engine.run(rgb, depth)
        if self.num_nan <= 0:
            return decision
        self.num_nan -= 1
        outputs = decision.outputs
        return Decision.of(outputs._replace(probabilities=np.full_like(outputs.probabilities, np.nan)))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that has happened.

    Attributes:
        at_s: since the start of the run.
        recovery_s: until the service worked as before; None if it did not.
    """

    kind: str
    at_s: float
    recovery_s: float | None = None


Begin = Callable[[str], Callable[[], bool]]
"""Begins a fault, and returns a function that tells whether the service works again."""


class FaultThread:
    """Requests faults, one after the other: every kind once in random order, then again in another order."""

    def __init__(self, kinds: Sequence[str], begin: Begin, *, seed: int, pauses_s: tuple[float, float]) -> None:
        self.faults: list[Fault] = []
        self._kinds, self._begin, self._pauses_s = list(kinds), begin, pauses_s
        self._random = random.Random(seed)
        self._started_s = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def end(self) -> None:
        """Request no further fault, and wait until the service has recovered from the last one."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        order: list[str] = []
        while not self._end.wait(self._random.uniform(*self._pauses_s)):
            order = order or self._random.sample(self._kinds, len(self._kinds))
            self.faults.append(self._survived(Fault(kind=order.pop(), at_s=time.monotonic() - self._started_s)))

    def _survived(self, fault: Fault) -> Fault:
        start_s = time.monotonic()
        has_recovered = self._begin(fault.kind)
        while (elapsed_s := time.monotonic() - start_s) < RECOVERY_S:
            if has_recovered():
                return replace(fault, recovery_s=round(elapsed_s, 2))
            time.sleep(_STEP_S)
        return fault
