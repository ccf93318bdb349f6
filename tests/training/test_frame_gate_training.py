"""Training of the frame gate: it finds the damaged sensor on pairs that it was not trained on, and is the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract
from edgefuse.data.dataset import load, scan
from edgefuse.evaluation.corruption_benchmark import evaluate_corruptions
from edgefuse.evaluation.corruption_summary import summarise
from edgefuse.evaluation.corruptions import by_name
from edgefuse.evaluation.metrics import evaluate, framed_batches
from edgefuse.model.frame_gate import TRUSTED
from edgefuse.training import frame_gate
from edgefuse.training.loop import torch_predictor
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train

QUICK = TrainConfig(size=32, epochs=2, batch_size=16, num_features=16, num_hidden=16, exclude=("take3",))
QUICK_CONTRACT = InputContract(size=32)


@pytest.fixture(scope="module")
def run(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gated") / "run"
    train([colour_and_range], out, config=QUICK)
    return out


def test_the_gate_finds_the_damaged_sensor(run: Path, colour_and_range: Path) -> None:
    opened = open_run(run)
    rgbd = load(scan([colour_and_range]))
    rgbd = rgbd.subset([i for i, sample in enumerate(rgbd.dataset.samples) if sample.sequence == "take3"])
    rows = evaluate_corruptions(
        torch_predictor(opened.build_model()),
        rgbd,
        contract=opened.model_config.contract,
        labels=opened.labels,
        corruptions=[by_name(name) for name in ("no_rgb", "no_depth", "dark_rgb", "blur_rgb", "depth_holes")],
    )
    gates = {(row.corruption, row.severity): row.scores.mean_gate for row in rows}
    assert gates["no_rgb", 1] > 0.85 and gates["no_depth", 1] < 0.15
    assert abs(gates["clean", 0] - TRUSTED) < 0.1
    assert summarise(rows).gate_auc > 0.95


def test_good_validation_pairs_have_the_gate_of_trust(run: Path, colour_and_range: Path) -> None:
    info = open_run(run).info["data"]
    rgbd = load(scan([colour_and_range]))
    chosen = [i for i, s in enumerate(rgbd.dataset.samples) if s.sequence in info["validation_groups"]]
    assert chosen
    model = open_run(run).build_model()
    assert model.frame_gate is not None
    predicted = torch_predictor(model)
    rgb, depth, _ = next(framed_batches(rgbd.subset(chosen), contract=QUICK_CONTRACT, batch_size=99))
    logits = [np.log(g / (1 - g)) for g in predicted(rgb, depth)[1]]
    assert 1 / (1 + np.exp(-np.median(logits))) == pytest.approx(TRUSTED, abs=1e-3)


def test_the_same_seed_gives_the_same_gate(colour_and_range: Path, run: Path) -> None:
    rgbd = load(scan([colour_and_range]))
    model = open_run(run).build_model()
    assert model.frame_gate is not None
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed + len(found))  # the state of PyTorch's generator does not matter
        frame_gate.train_frame_gate(
            model, rgbd, rgbd, contract=QUICK_CONTRACT, augmentation=QUICK.augmentation, seed=seed
        )
        found.append(model.frame_gate.V.weight.detach().clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_run_without_validation_pairs_has_one_temperature(colour_and_range: Path, tmp_path: Path) -> None:
    train([colour_and_range], tmp_path / "run", config=replace(QUICK, epochs=1, validation_fraction=0.0))
    config = open_run(tmp_path / "run").model_config
    assert (config.temperature, config.temperature_no_rgb, config.temperature_no_depth) == (1.0, None, None)


def test_metrics_are_those_of_the_finished_model(run: Path, colour_and_range: Path) -> None:
    """The scores in `metrics.json` are computed from the logits at temperature 1; the model of the run has the temperatures inside."""
    opened = open_run(run)
    config = opened.model_config
    assert len({config.temperature, config.temperature_no_rgb, config.temperature_no_depth}) == 3
    rgbd = load(scan([colour_and_range]))
    rgbd = rgbd.subset([i for i, sample in enumerate(rgbd.dataset.samples) if sample.sequence == "take3"])
    scores = evaluate(torch_predictor(opened.build_model()), rgbd, contract=config.contract, labels=opened.labels)
    for condition, found in scores.items():
        stored = opened.metrics()["test"][condition]
        assert stored["accuracy"] == found.accuracy
        assert stored["expected_calibration_error"] == pytest.approx(found.expected_calibration_error, abs=1e-4)
    assert (run / "reliability.png").is_file()


def test_people_without_depth_do_not_move_the_gate_of_the_others(colour_and_range: Path, run: Path) -> None:
    rgbd = load(scan([colour_and_range]))
    without = [i for i, sample in enumerate(rgbd.dataset.samples) if sample.sequence == "take0"]
    blind = replace(rgbd, depth=[0 * rgbd.depth[i] if i in without else rgbd.depth[i] for i in range(len(rgbd.rgb))])
    model = open_run(run).build_model()
    frame_gate.train_frame_gate(model, blind, blind, contract=QUICK_CONTRACT, augmentation=QUICK.augmentation, seed=0)
    rgb, depth, _ = next(framed_batches(blind, contract=QUICK_CONTRACT, batch_size=99))
    gates = torch_predictor(model)(rgb, depth)[1][:, 0]
    assert gates[without].max() < 0.2 and abs(np.median(np.delete(gates, without)) - TRUSTED) < 0.05
