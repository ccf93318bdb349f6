"""Progress display: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from edgefuse.console.messages import muted
from edgefuse.io.text import new_console, say
from edgefuse.progress import Progress

if TYPE_CHECKING:
    from edgefuse.training.loop import EpochResult, StepReport


def is_terminal() -> bool:
    """Whether standard error is a terminal. Progress goes there, so that results can be piped."""
    return sys.stderr.isatty()


@contextmanager
def counting(what: str = "", *, unit: str) -> Iterator[Progress]:
    """Yield a `Progress`: a bar on a terminal, a line at every quarter elsewhere.

    Args:
        what: label of the count, shown immediately; without it, each stage has its own bar.
        unit: of the count, such as "pairs".
    """
    shown = _Bars(what, unit) if is_terminal() else _Quarters(what, unit)
    with shown:
        yield shown


class _Quarters:
    """A line at every quarter."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._stage = ""
        self._num_shown = 0

    def __enter__(self) -> _Quarters:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __call__(self, done: int, total: int | None, /, *, stage: str = "") -> None:
        if stage != self._stage:
            self._stage, self._num_shown = stage, 0
        quarter = 4 * done // total if total else 0
        if quarter > self._num_shown:
            self._num_shown = quarter
            say(f"{self._what or stage}: {done} of {total} {self._unit}")


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
            count = f"{done} {self._unit}" if total is None else f"{done} of {total} {self._unit}"
            self._bar.update(self._task, completed=done, total=total, count=count)
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


def _new_bar(last_column: str) -> Any:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn(last_column, markup=False),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=new_console(sys.stderr))
