"""How long work shows itself: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgefuse.io.text import new_console, say

if TYPE_CHECKING:
    from edgefuse.training.loop import EpochResult, StepReport


def is_terminal() -> bool:
    """Is standard error a terminal? Progress goes there, so that results can be piped."""
    return sys.stderr.isatty()


@contextmanager
def counting(what: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `on_progress(done, total)`: a bar on a terminal, a line at every quarter elsewhere."""
    if not is_terminal():
        quarters_said = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal quarters_said
            quarter = 4 * done // total if total else 0
            if quarter > quarters_said:
                quarters_said = quarter
                say(f"{what}: {done} of {total} {unit}")

        yield on_progress
        return
    with _new_bar("{task.fields[unit]}") as bar:
        task = bar.add_task(what, total=None, unit=unit)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


class TrainingDisplay:
    """Shows a training: a bar with epoch, loss, accuracy and time left on a terminal, a line an epoch elsewhere.

    Args:
        brief: say nothing of what is trained nor of single epochs; the bar stays.
    """

    def __init__(self, *, brief: bool = False) -> None:
        self._brief = brief
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_bar()

    def told(self, text: str) -> None:
        """One line; above the bar where there is one."""
        if not self._brief:
            say(text)

    def started(self, text: str) -> None:
        self._close_bar()
        if not self._brief:
            say(text)
        if is_terminal():
            self._bar = _new_bar(
                "loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}{task.fields[held]}"
            )
            self._bar.__enter__()
            self._task = self._bar.add_task("training", total=None, loss=float("nan"), accuracy=0.0, held="")

    def stepped(self, report: StepReport) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=f"epoch {report.epoch} of {report.num_epochs}",
                completed=report.step,
                total=report.num_steps,
                loss=report.loss,
                accuracy=report.accuracy,
            )

    def epoch_done(self, result: EpochResult, num_epochs: int) -> None:
        held = "" if result.validation_accuracy is None else f"  held-out {result.validation_accuracy:.1%}"
        if self._bar is not None:
            self._bar.update(self._task, held=held)
        elif not self._brief:
            say(
                f"epoch {result.epoch + 1} of {num_epochs}: loss {result.train_loss:.3f}  accuracy {result.train_accuracy:.1%}{held}"
            )

    def ended(self) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _new_bar(last_column: str) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(last_column, markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=new_console(sys.stderr))
