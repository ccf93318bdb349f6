"""A modified or damaged run is refused; a run whose training was killed at any time opens."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.contract import InputContract
from edgefuse.degraded_mode import choose_degraded_mode
from edgefuse.errors import UserError
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.training.run import open_run, write_metrics, write_run, write_samples, write_weights

LABELS = ("a", "b", "c")
CONFIG = ModelConfig(contract=InputContract(size=16), num_classes=3, num_features=8, num_hidden=8)
SCORES = {"num_samples": 6, "accuracy": 5 / 6, "confusion": [[2, 0, 0], [0, 2, 0], [1, 0, 1]]}
METRICS = {"validation": {"both": SCORES, "no_rgb": SCORES, "no_depth": SCORES}, "calibration": {}}


def make_run(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_samples(
        folder,
        rgb=rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        depth=rng.integers(0, 256, (4, 16, 16, 2), dtype=np.uint8),
    )
    torch.manual_seed(0)
    write_weights(folder, build_classifier(CONFIG))
    write_metrics(folder, METRICS)
    write_run(folder, labels=LABELS, model_config=CONFIG, info={"epochs_done": 1, "epoch_kept": 1})
    return folder


def use(folder: Path) -> None:
    """Read a run as export and evaluation do."""
    run = open_run(folder)
    run.build_model()
    run.samples()
    choose_degraded_mode(run.metrics(), fusion=run.model_config.fusion)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "complete")
    use(folder)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "samples.npz", "metrics.json"])
def test_a_replaced_file_is_refused_by_name(name: str, complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    other = make_run(tmp_path / "other")
    torch.manual_seed(1)
    write_weights(other, build_classifier(CONFIG))
    write_samples(other, rgb=np.zeros((2, 16, 16, 3), np.uint8), depth=np.zeros((2, 16, 16, 2), np.uint8))
    write_metrics(other, {**METRICS, "note": "another"})
    shutil.copy(other / name, run / name)
    with pytest.raises(UserError, match=rf"{name} is not the file that the training wrote: its sha256"):
        use(run)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["model.safetensors", "samples.npz", "metrics.json", "run.json"]),
    where=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_any_damage_is_one_error_with_the_file_name(
    name: str, where: float, byte: int, cut: bool, complete: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(complete, run)
    data = bytearray((run / name).read_bytes())
    place = int(where * len(data))
    same = not cut and data[place] == byte
    data[place:] = b"" if cut else bytes([byte, *data[place + 1 :]])
    (run / name).write_bytes(data)
    try:
        use(run)
    except UserError as error:
        assert name in str(error) or (name == "run.json" and "run format" in str(error))
    else:  # run.json protects only what determines outputs, not white space, epochs or versions
        assert same or name == "run.json"


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "labels in another order": (lambda run: run["labels"].reverse(), "was modified after the training"),
    "another range": (lambda run: run["model"]["contract"].update(far_m=4.0), "was modified after the training"),
    "another temperature": (lambda run: run["model"].update(temperature=2.0), "was modified after the training"),
    "no digests": (lambda run: run.update(files={}), "was modified after the training"),
    "negative width": (lambda run: run["model"].update(num_features=-1), "num_features is -1"),
    "width of a billion": (lambda run: run["model"].update(num_hidden=10**9), "num_hidden is 1000000000"),
    "width as text": (lambda run: run["model"].update(num_features="8"), "model.num_features = '8'"),
    "labels are numbers": (lambda run: run.update(labels=[1, 2, 3]), r"labels\[0\] = 1"),
    "one label twice": (lambda run: run.update(labels=["a", "a", "b"]), "2 different ones"),
    "two labels of three": (lambda run: run.update(labels=["a", "b"]), "2 labels"),
    "no model": (lambda run: run.pop("model"), "lacks the field model"),
    "contract of nothing": (lambda run: run["model"].update(contract={}), "lacks the field model.contract.size"),
    "far before near": (lambda run: run["model"]["contract"].update(far_m=0.1), "depth range is 0.2 to 0.1"),
    "a fusion of tomorrow": (lambda run: run["model"].update(fusion="sum"), "fusion is 'sum'"),
    "an encoding of tomorrow": (lambda run: run["model"].update(encoding_revision=9), "encoding_revision is 9"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_description_is_refused(change: str, complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    description = json.loads((run / "run.json").read_text())
    CHANGES[change][0](description)
    (run / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=CHANGES[change][1]) as caught:
        use(run)
    assert "run.json" in str(caught.value)


def test_other_fields_may_be_edited(complete: Path, tmp_path: Path) -> None:
    """Such as the path of data that moved."""
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    description = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**description, "data": {"roots": ["/elsewhere"]}}))
    use(run)


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {**SCORES, "accuracy": "high"},
        {**SCORES, "accuracy": 1.5},
        {**SCORES, "num_samples": 7},
        {**SCORES, "num_samples": 0, "confusion": [[0, 0, 0]] * 3},
        {**SCORES, "confusion": [[6]], "num_samples": 6, "accuracy": -0.1},
        {**SCORES, "confusion": [[7, -1], [0, 0]]},
        {**SCORES, "confusion": [[3, 3]]},
    ],
)
def test_impossible_metrics_of_old_runs_are_refused(scores: dict[str, Any], complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    without_digests(run)
    (run / "metrics.json").write_text(json.dumps({"test": {"both": SCORES, "no_rgb": scores, "no_depth": SCORES}}))
    with pytest.raises(UserError, match=r"metrics\.json"):
        use(run)


def without_digests(run: Path) -> None:
    description = json.loads((run / "run.json").read_text())
    del description["files"], description["sha256"]
    (run / "run.json").write_text(json.dumps(description))


def test_a_run_from_before_digests_opens(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete, tmp_path / "run")
    without_digests(tmp_path / "run")
    use(tmp_path / "run")


def test_metrics_without_their_temperature_are_ignored(complete: Path, tmp_path: Path) -> None:
    """The training was killed after writing metrics.json and before writing its digest to run.json."""
    shutil.copytree(complete, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()
    write_run(tmp_path / "run", labels=LABELS, model_config=CONFIG, info={})
    write_metrics(tmp_path / "run", METRICS)
    assert open_run(tmp_path / "run").metrics() == {}


WRITER = """
import sys, torch
from pathlib import Path
from edgefuse.contract import InputContract
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.training.run import write_run, write_weights
config = ModelConfig(contract=InputContract(size=16), num_classes=3, num_features=8, num_hidden=8)
model = build_classifier(config)
for epoch in range(10**9):
    with torch.no_grad():
        next(iter(model.parameters())).fill_(epoch)
    write_weights(Path(sys.argv[1]), model)
    write_run(Path(sys.argv[1]), labels=("a", "b", "c"), model_config=config, info={"epoch_kept": epoch})
    print(epoch, flush=True)
"""


def test_a_training_that_is_killed_at_any_time_leaves_a_run_that_opens(complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    for delay_s in (0.0, 0.003, 0.007, 0.011):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(2):
                writer.stdout.readline()
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        open_run(run).build_model()


def test_between_writing_digest_and_weights_both_weights_are_valid(complete: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    old = (run / "model.safetensors").read_bytes()
    torch.manual_seed(5)
    write_weights(run, build_classifier(CONFIG))
    open_run(run).build_model()
    (run / "model.safetensors").write_bytes(old)  # as if it was killed before the second file was replaced
    open_run(run).build_model()
