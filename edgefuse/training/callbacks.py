"""What a training calls while it runs. A caller follows `Callback`, or extends `NullCallback` with the methods that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefuse.training.loop import EpochResult, StepReport


class Callback(Protocol):
    """Methods that are called in the thread that trains. An exception in one ends the training."""

    def on_train_start(self, num_epochs: int) -> None:
        """The first epoch begins."""

    def on_batch_end(self, report: StepReport) -> None:
        """A batch changed the weights."""

    def on_epoch_end(self, result: EpochResult) -> None:
        """An epoch is over, and its weights are in the run folder (with early stop: where they are the best so far)."""

    def on_train_end(self) -> None:
        """No further epoch comes: the last one was, or early stop, Ctrl-C or an error ended the training."""


class NullCallback:
    """Does nothing."""

    def on_train_start(self, num_epochs: int) -> None: ...
    def on_batch_end(self, report: StepReport) -> None: ...
    def on_epoch_end(self, result: EpochResult) -> None: ...
    def on_train_end(self) -> None: ...
