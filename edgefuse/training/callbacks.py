"""Callbacks of a training. Implement `Callback`, or extend `NullCallback` and override methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefuse.training.loop import EpochResult, StepReport


class Callback(Protocol):
    """Called in the training thread. An exception ends the training."""

    def on_train_start(self, num_epochs: int) -> None:
        """Called before the first epoch."""

    def on_batch_end(self, report: StepReport) -> None:
        """Called after each optimizer step."""

    def on_epoch_end(self, result: EpochResult) -> None:
        """Called after each epoch, when its weights are in the run folder (with early stop: if they are the best so far)."""

    def on_train_end(self) -> None:
        """Called after the last epoch, also if early stop, Ctrl-C or an error ended the training."""


class NullCallback:
    """Does nothing."""

    def on_train_start(self, num_epochs: int) -> None: ...
    def on_batch_end(self, report: StepReport) -> None: ...
    def on_epoch_end(self, result: EpochResult) -> None: ...
    def on_train_end(self) -> None: ...
