"""Progress on the command line: bars on a terminal, lines elsewhere, and log messages."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from pathlib import Path

import pytest

from edgefuse.console.messages import messages_shown, muted
from edgefuse.console.progress import TrainingDisplay, counting
from edgefuse.data.dataset import load, scan
from edgefuse.data.folds import make_folds
from edgefuse.errors import UserError
from edgefuse.progress import step
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train_on_dataset

QUICK = TrainConfig(size=32, epochs=40, batch_size=16, num_features=16, num_hidden=16, fusion="rgb")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("ends", ["early stop", "error"])
def test_the_bar_closes_with_the_training_however_it_ends(
    ends: str, colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of an open bar would draw over later output."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    rgbd = load(scan([colour_and_range]))
    parts = make_folds(rgbd.dataset, num_folds=4, by="sequence", validation_fraction=0.3).splits[0]
    before = set(threading.enumerate())
    with TrainingDisplay(brief=True) as display:
        if ends == "error":
            with pytest.raises(UserError, match="the loss is"):
                config = TrainConfig(size=32, epochs=3, batch_size=16, learning_rate=1e25)
                train_on_dataset(rgbd, tmp_path / "run", config=config, parts=parts, callback=display)
        else:
            done = train_on_dataset(rgbd, tmp_path / "run", config=QUICK, parts=parts, early_stop=2, callback=display)
            assert len(done.metrics["history"]) < QUICK.epochs
        assert set(threading.enumerate()) <= before
    assert " of " in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_stage_has_its_count_and_its_bar_closes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    before = set(threading.enumerate())
    with messages_shown(), counting(unit="blocks") as progress:
        assert set(threading.enumerate()) <= before
        for number in range(1, 8):
            progress(number, 41, stage="measuring layers in FP16")
        logging.getLogger("edgefuse_export.onnx.export").info("a line above the bar")
        (drawing,) = set(threading.enumerate()) - before
        progress(41, 41, stage="measuring layers in FP16")
        drawing.join(5)
        assert not drawing.is_alive() and set(threading.enumerate()) <= before
        progress(1, None, stage="recording")
    text = terminal.getvalue()
    assert "41 of 41 blocks" in text and "recording" in text and "1 blocks" in text and "a line above the bar" in text


def test_lines_come_at_quarters_and_restart_with_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with counting(unit="blocks") as progress:
        for stage in ("fp16", "int8"):
            for number in range(1, 9):
                progress(number, 8, stage=stage)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{stage}: {number} of 8 blocks" for stage in ("fp16", "int8") for number in (2, 4, 6, 8)]


def test_without_a_terminal_a_long_stage_has_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.console.progress.SILENCE_S", 0.1)
    with counting() as progress:
        with step(progress, "writing model.onnx"):
            time.sleep(0.5)
        progress(3, 40, stage="predicting in FP16")
        time.sleep(0.5)
        capsys_lines = capsys.readouterr().err.splitlines()
        progress(40, 40, stage="predicting in FP16")
        time.sleep(0.3)
    assert capsys.readouterr().err.splitlines() == ["predicting in FP16: 40 of 40"]  # silent once a stage has ended
    writing = [line for line in capsys_lines if line.startswith("writing")]
    assert writing[0] == "writing model.onnx" and writing[1] == "writing model.onnx (0 s so far)" and len(writing) <= 6
    assert "predicting in FP16: 3 of 40 (0 s so far)" in capsys_lines


def test_log_messages_are_shown_by_the_command_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("edgefuse.training.trainer")
    log.info("before")
    with messages_shown():
        log.info("50 %")
        log.warning("%s is odd", "it")
        log.debug("detail")
        with muted("edgefuse.training"):
            log.warning("of every fold")
    log.info("after")
    assert capsys.readouterr() == ("", "50 %\nwarning: it is odd\n")
