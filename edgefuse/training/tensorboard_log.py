"""TensorBoard log of a run: one file of scalars, written without buffering in the calling thread, so that a full disk raises an error.

If it cannot be written, the training continues without it.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from edgefuse.training.loop import EpochResult

FOLDER_NAME = "tensorboard"

_log = logging.getLogger(__name__)


class Board:
    """The log of one run; a write error ends it with a warning."""

    def __init__(self) -> None:
        self._name = f"events.out.tfevents.{int(time.time())}.edgefuse"
        self._is_open = True

    def log(self, result: EpochResult, run: Path) -> None:
        """Append one epoch to the log in the run folder, which may have been renamed since the last call."""
        if not self._is_open:
            return
        scalars = {
            "loss/train": result.train_loss,
            "accuracy/train": result.train_accuracy,
            "learning_rate": result.learning_rate,
        }
        if result.validation_loss is not None and result.validation_accuracy is not None:
            scalars |= {"loss/validation": result.validation_loss, "accuracy/validation": result.validation_accuracy}
        try:
            self._append(run / FOLDER_NAME, scalars, step=result.epoch)
        except OSError as error:
            self._is_open = False
            where = run / FOLDER_NAME
            _log.warning(
                "the TensorBoard log cannot be written (%s: %s); the training continues without it",
                error.strerror,
                where,
            )

    def _append(self, folder: Path, scalars: dict[str, float], *, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        path = folder / self._name
        is_new = not path.exists()
        with path.open("ab") as file:
            writer = RecordWriter(file)
            if is_new:
                writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            writer.write(event.SerializeToString())
            writer.flush()
