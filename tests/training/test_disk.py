"""Write errors during a training, such as a full disk: the last saved epoch stays, and no metrics are lost."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgefuse.errors import UserError
from edgefuse.model.backbones import build_rgb_backbone
from edgefuse.training.callbacks import NullCallback
from edgefuse.training.loop import EpochResult, StepReport
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train
from logs import logged

QUICK = TrainConfig(
    size=32, epochs=2, batch_size=16, num_features=16, num_hidden=16, fusion="rgb", num_threads=1, test_fraction=0.25
)


class After(NullCallback):
    """Calls a function after an epoch."""

    def __init__(self, epoch: int, action: Callable[[], object]) -> None:
        self._epoch, self._action = epoch, action

    def on_epoch_end(self, result: EpochResult) -> None:
        if result.epoch + 1 == self._epoch:
            self._action()


@pytest.fixture
def small_files() -> object:
    """Limit the size of files that this process may write: EFBIG instead of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_epoch_and_names_the_file(
    small_files: Callable[[], None], colour_and_range: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train([colour_and_range], tmp_path / "run", config=QUICK, callback=After(1, small_files))
    text = str(caught.value)
    assert f"{tmp_path / 'run/model.safetensors'} cannot be written (" in text and "File too large" in text
    assert text.endswith(f"{tmp_path / 'run'} has the weights of epoch 1")
    run = open_run(tmp_path / "run")
    assert run.info["epoch_kept"] == 1 and run.build_model() is not None
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_full_disk_before_the_first_epoch_leaves_nothing(
    small_files: Callable[[], None], colour_and_range: Path, tmp_path: Path
) -> None:
    small_files()
    with pytest.raises(UserError, match=r"/run/samples.npz cannot be written \(File too large\): free space"):
        train([colour_and_range], tmp_path / "run", config=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words", "has_figures"),
    [
        ("metrics.json", "metrics.json cannot be written", False),
        ("model_card.md", "model_card.md cannot be written", True),
        ("confusion.png", "the plots in", True),
    ],
)
def test_metrics_that_cannot_be_written_are_not_lost(
    name: str, words: str, has_figures: bool, colour_and_range: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    summary = train(
        [colour_and_range], run, config=QUICK, callback=After(2, lambda: (run / name / "x").mkdir(parents=True))
    )
    assert words in summary.not_written and 0 <= summary.metrics["test"]["both"]["accuracy"] <= 1
    stored = open_run(run)
    assert stored.build_model() is not None
    if has_figures:
        assert stored.metrics() == json.loads(json.dumps(summary.metrics))


def test_a_log_that_cannot_be_written_does_not_end_the_training(colour_and_range: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def block() -> None:
        for path in (run / "tensorboard").iterdir():
            path.unlink()
        (run / "tensorboard").rmdir()
        (run / "tensorboard").touch()

    with logged() as lines:
        train([colour_and_range], run, config=replace(QUICK, epochs=3), callback=After(1, block))
    (line,) = [line for line in lines if "TensorBoard" in line]
    assert line.startswith("warning: ") and line.endswith("the training continues without it")
    assert open_run(run).info["epochs_done"] == 3


def test_tensorboard_reads_the_log(colour_and_range: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summary = train([colour_and_range], tmp_path / "run", config=QUICK)
    log = EventAccumulator(str(tmp_path / "run/tensorboard"))
    log.Reload()
    of_both = {f"{name}/{part}" for name in ("loss", "accuracy") for part in ("train", "validation")}
    assert set(log.Tags()["scalars"]) == {*of_both, "learning_rate"}
    losses = [event.value for event in log.Scalars("loss/train")]
    assert losses == pytest.approx([epoch["train_loss"] for epoch in summary.metrics["history"]])


def test_out_of_memory_is_reported_with_what_was_saved(colour_and_range: Path, tmp_path: Path) -> None:
    class Greedy(NullCallback):
        def on_batch_end(self, report: StepReport) -> None:
            if report.epoch == 2:
                torch.empty(1 << 60)

    with pytest.raises(
        UserError, match=r"not enough memory .*run has the weights of epoch 1; try a smaller --batch-size than 16"
    ):
        train([colour_and_range], tmp_path / "run", config=QUICK, callback=Greedy())


@pytest.mark.parametrize("content", ["list", "numbers", "nan", "garbage", "empty", "pickle", "cut"])
def test_invalid_weights_files_are_one_user_error(content: str, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    path = tmp_path / "w.pth"
    state = resnet18().state_dict()
    if content == "list":
        torch.save([1, 2], path)
    elif content == "numbers":
        torch.save(dict.fromkeys(state, 1), path)
    elif content == "nan":
        torch.save({**state, "conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}, path)
    elif content == "pickle":
        torch.save({"state_dict": print}, path)  # pickled code, which is not run
    elif content == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:10_000])
    else:
        path.write_bytes(b"" if content == "empty" else b"\x80\x02garbage")
    with pytest.raises(UserError, match=r"w\.pth") as caught:
        build_rgb_backbone("resnet18", weights=str(path))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
