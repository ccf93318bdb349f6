"""What a training shows on a terminal, with a stream that says it is one."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest

from edgefuse.console.progress import TrainingDisplay
from edgefuse.data.dataset import load, scan
from edgefuse.data.folds import make_folds
from edgefuse.errors import UserError
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train_on_dataset

QUICK = TrainConfig(size=32, epochs=40, batch_size=16, num_features=16, num_hidden=16, fusion="rgb")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("ends", ["early stop", "error"])
def test_the_bar_ends_with_the_training_whatever_ended_it(
    ends: str, colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open bar is drawn by a thread of its own, over whatever is printed next."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    rgbd = load(scan([colour_and_range]))
    parts = make_folds(rgbd.dataset, num_folds=4, by="sequence", validation_fraction=0.3).splits[0]
    before = threading.active_count()
    with TrainingDisplay(brief=True) as display:
        if ends == "error":
            with pytest.raises(UserError, match="the loss is"):
                config = TrainConfig(size=32, epochs=3, batch_size=16, learning_rate=1e25)
                train_on_dataset(rgbd, tmp_path / "run", config=config, parts=parts, callback=display)
        else:
            done = train_on_dataset(rgbd, tmp_path / "run", config=QUICK, parts=parts, early_stop=2, callback=display)
            assert len(done.metrics["history"]) < QUICK.epochs
        assert threading.active_count() == before
    assert " of " in sys.stderr.getvalue()  # type: ignore[attr-defined]
