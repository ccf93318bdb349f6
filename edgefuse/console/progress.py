"""Progress display: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from edgefuse.console.messages import muted
from edgefuse.io.text import new_console, say
from edgefuse.progress import Progress

if TYPE_CHECKING:
    from edgefuse.training.loop import EpochResult, StepReport


SILENCE_S = 9.0
"""Longest time without a line where there is no terminal, so that nobody takes the command for stuck."""


def is_terminal() -> bool:
    """Whether standard error is a terminal. Progress goes there, so that results can be piped."""
    return sys.stderr.isatty()


@contextmanager
def counting(what: str = "", *, unit: str = "") -> Iterator[Progress]:
    """Yield a `Progress`: a bar on a terminal; elsewhere a line at every quarter, and after 10 s without one.

    Args:
        what: label of the count, shown immediately; without it, each stage has its own bar.
        unit: of the count, such as "pairs"; "" if the stages count different things.
    """
    shown = _Bars(what, unit) if is_terminal() else _Lines(what, unit)
    with shown:
        yield shown


class _Lines:
    """A line at every quarter, and after `SILENCE_S` without one. A stage of one step has a line at its start."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._stage = ""
        self._num_shown = 0
        self._state = ""
        self._started_s = self._said_s = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._say_when_silent, daemon=True)

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, done: int, total: int | None, /, *, stage: str = "") -> None:
        with self._lock:
            if stage != self._stage:
                self._stage, self._num_shown = stage, 0
                self._started_s = self._said_s = time.monotonic()
            is_step = total == 1 and not done
            label = self._what or stage
            self._state = label if is_step else f"{label}: {_count(done, total, self._unit)}"
            quarter = 4 if is_step else 4 * done // total if total else 0
            if quarter > self._num_shown:
                self._num_shown = quarter
                self._say(self._state)
            if done == total:
                self._state = ""

    def _say_when_silent(self) -> None:
        while not self._ended.wait(min(SILENCE_S / 10, 1)):
            with self._lock:
                now_s = time.monotonic()
                if self._state and now_s - self._said_s >= SILENCE_S:
                    self._say(f"{self._state} ({now_s - self._started_s:.0f} s so far)")

    def _say(self, text: str) -> None:
        self._said_s = time.monotonic()
        say(text)


class _Bars:
    """A bar with the count and the remaining time, which closes when the count is complete; one in total, or one per stage."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._stage = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bars:
        if self._what:
            self._open(self._what)
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def __call__(self, done: int, total: int | None, /, *, stage: str = "") -> None:
        if not self._what and stage != self._stage:
            self._close()
            self._stage = stage
            self._open(stage)
        if self._bar is not None:
            if total == 1 and not done:  # a stage of one step: the bar only moves
                self._bar.update(self._task, total=None)
            else:
                self._bar.update(self._task, completed=done, total=total, count=_count(done, total, self._unit))
        if done == total:  # the next step may print, or take long
            self._close()
            self._stage = ""

    def _open(self, what: str) -> None:
        self._bar = _new_bar("{task.fields[count]}")
        self._bar.start()
        self._task = self._bar.add_task(what, total=None, count="")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TrainingDisplay:
    """A `Callback` that shows a training: a bar with epoch, loss, accuracy and remaining time on a terminal, a line per epoch elsewhere.

    Args:
        brief: show only the bar, without the messages of the training and the lines per epoch.
    """

    def __init__(self, *, brief: bool = False) -> None:
        self._brief = brief
        self._muted = muted("edgefuse.training") if brief else nullcontext()
        self._num_epochs = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingDisplay:
        self._muted.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.on_train_end()
        self._muted.__exit__(None, None, None)

    def on_train_start(self, num_epochs: int) -> None:
        self._num_epochs = num_epochs
        if is_terminal():
            self._bar = _new_bar("{task.fields[figures]}{task.fields[validation]}")
            self._bar.start()
            self._task = self._bar.add_task(f"epoch 1 of {num_epochs}", total=num_epochs, figures="", validation="")

    def on_batch_end(self, report: StepReport) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=f"epoch {report.epoch} of {report.num_epochs}",
                completed=report.num_epochs * report.step / report.num_steps,
                figures=f"loss {report.loss:.3f}  accuracy {report.accuracy:.1%}",
            )

    def on_epoch_end(self, result: EpochResult) -> None:
        validation = "" if result.validation_accuracy is None else f"  validation {result.validation_accuracy:.1%}"
        if self._bar is not None:
            self._bar.update(self._task, validation=validation)
        elif not self._brief:
            say(
                f"epoch {result.epoch + 1} of {self._num_epochs}: loss {result.train_loss:.3f}  "
                f"accuracy {result.train_accuracy:.1%}{validation}"
            )

    def on_train_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _count(done: int, total: int | None, unit: str) -> str:
    return (f"{done} {unit}" if total is None else f"{done} of {total} {unit}").rstrip()


def _new_bar(last_column: str) -> Any:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn(last_column, markup=False),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=new_console(sys.stderr))
