"""A training ends after a signal whose exception compiled code has swallowed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from test_trainer import QUICK

from edgefuse.app.signals import ended_by_signals
from edgefuse.training.callbacks import NullCallback
from edgefuse.training.loop import StepReport
from edgefuse.training.trainer import train


def test_ctrl_c_that_compiled_code_swallows_ends_the_training(colour_and_range: Path, tmp_path: Path) -> None:
    class Swallowing(NullCallback):
        def on_batch_end(self, report: StepReport) -> None:
            self.report = report
            if report.step == report.num_steps // 2 + 2:
                with contextlib.suppress(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)

    callback = Swallowing()
    with ended_by_signals():
        summary = train([colour_and_range], tmp_path / "run", config=replace(QUICK, epochs=4), callback=callback)
    assert summary.interrupted and len(summary.metrics["history"]) == 2
    assert callback.report.step == callback.report.num_steps // 2 + 2
