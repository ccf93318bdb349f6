from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.evaluation.calibration import rescale
from edgefuse.evaluation.metrics import evaluate
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier
from edgefuse.training.callbacks import NullCallback
from edgefuse.training.loop import (
    EpochResult,
    StepReport,
    parameter_groups,
    prepare,
    set_training,
    torch_predictor,
)
from edgefuse.training.recipe import TrainConfig, with_values
from edgefuse.training.run import open_run, write_weights
from edgefuse.training.trainer import train

QUICK = TrainConfig(
    fusion="gated",
    encoding="absolute",  # the classes differ by distance
    size=32,
    epochs=20,
    batch_size=8,
    num_features=32,
    num_hidden=32,
    exclude=("take3",),
    validation_fraction=0.0,
)


def without_digests(run: Path) -> dict[str, Any]:
    """Remove the digests of a run, as in older versions; return run.json."""
    description: dict[str, Any] = json.loads((run / "run.json").read_text())
    del description["files"], description["sha256"]
    (run / "run.json").write_text(json.dumps(description))
    return description


@pytest.fixture(scope="module")
def trained(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train([colour_and_range], tmp_path_factory.mktemp("runs") / "gated", config=QUICK).folder


def test_a_gated_model_learns_classes_that_need_both_sensors(trained: Path) -> None:
    test = json.loads((trained / "metrics.json").read_text())["test"]
    assert test["both"]["accuracy"] >= 0.9
    # Without RGB red_near and blue_near are one class, without depth red_near and red_far are: two of three are expected.
    # Ten of the fifteen pairs are guessed one way or the other; nine right ones of them happen once in a hundred times.
    assert test["no_rgb"]["accuracy"] < 0.9 and test["no_depth"]["accuracy"] < 0.9


def test_a_run_has_all_files(trained: Path) -> None:
    run = open_run(trained)
    assert run.labels == ("blue_near", "red_far", "red_near")
    assert run.info["data"]["test_groups"] == ["take3"] and len(run.info["data"]["digest"]) == 64
    assert TrainConfig.from_json(run.info["training"]).exclude == ("take3",)
    rgb, depth = run.samples()
    assert rgb.shape == (15, 32, 32, 3) and depth.shape == (15, 32, 32, 2)  # all 15 held-out pairs
    for name in ("training.png", "confusion.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")
    assert any((trained / "tensorboard").iterdir())


def test_the_stored_weights_give_the_stored_metrics(trained: Path, colour_and_range: Path) -> None:
    run = open_run(trained)
    rgbd = load(scan([colour_and_range]))
    held = rgbd.subset([i for i, s in enumerate(rgbd.dataset.samples) if s.sequence == "take3"])
    scores = evaluate(
        torch_predictor(run.build_model()),
        held,
        contract=run.model_config.contract,
        labels=run.labels,
        conditions=("both",),
    )
    stored = json.loads((trained / "metrics.json").read_text())["test"]["both"]
    assert scores["both"].accuracy == stored["accuracy"] and scores["both"].confusion == stored["confusion"]


def test_the_same_seed_gives_the_same_weights(colour_and_range: Path, tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = train([colour_and_range], tmp_path / name, config=replace(QUICK, epochs=1, seed=seed)).folder
        states.append(open_run(run).build_model().state_dict()["core.head.0.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_ctrl_c_leaves_the_last_finished_epoch(colour_and_range: Path, tmp_path: Path) -> None:
    class Impatient(NullCallback):
        def on_batch_end(self, report: StepReport) -> None:
            if report.step == report.num_steps // 2 + 2:
                raise KeyboardInterrupt

    summary = train([colour_and_range], tmp_path / "run", config=replace(QUICK, epochs=4), callback=Impatient())
    assert summary.interrupted
    run = open_run(tmp_path / "run")
    assert run.info["epochs_done"] == run.info["epoch_kept"] == 2 and len(summary.metrics["history"]) == 2
    run.build_model()


def test_ctrl_c_in_the_first_epoch_reports_that_there_is_no_model(colour_and_range: Path, tmp_path: Path) -> None:
    class VeryImpatient(NullCallback):
        def on_batch_end(self, report: StepReport) -> None:
            raise KeyboardInterrupt

    with pytest.raises(UserError, match="before the end of the first epoch"):
        train([colour_and_range], tmp_path / "run", config=QUICK, callback=VeryImpatient())
    assert list(tmp_path.iterdir()) == []


def test_a_forced_training_that_ends_early_leaves_the_old_run(
    colour_and_range: Path, trained: Path, tmp_path: Path
) -> None:
    class VeryImpatient(NullCallback):
        def on_batch_end(self, report: StepReport) -> None:
            raise KeyboardInterrupt

    shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match="before the end of the first epoch"):
        train([colour_and_range], tmp_path / "run", config=QUICK, force=True, callback=VeryImpatient())
    assert (tmp_path / "run/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_stores_digests_of_its_training_sequences(colour_and_range: Path, trained: Path) -> None:
    rgbd = load(scan([colour_and_range]))
    digests = rgbd.dataset.sequence_digests()
    learned = open_run(trained).info["data"]["train_instances"]
    assert learned == {name: digest for name, digest in digests.items() if not name.endswith("take3")}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(
    colour_and_range: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"in batch \d+ of 6 in epoch 1 .*no epoch was finished, nothing was saved"):
        train([colour_and_range], tmp_path / "run", config=replace(QUICK, learning_rate=1e25, epochs=3))


class Poison(NullCallback):
    """Sets weights to NaN after epoch 2, so that the first loss of epoch 3 is not finite."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._model: FusionClassifier | None = None
        self.good = b""
        self.num_steps = 0

    def on_batch_end(self, report: StepReport) -> None:
        self.num_steps = report.num_steps

    def forward_begins(self, module: torch.nn.Module, inputs: object) -> None:
        if isinstance(module, FusionClassifier):
            self._model = module

    def on_epoch_end(self, result: EpochResult) -> None:
        if result.epoch == 1:
            assert self._model is not None
            self.good = (self._run / "model.safetensors").read_bytes()
            with torch.no_grad():
                next(iter(self._model.parameters())).fill_(float("nan"))


def test_later_nan_weights_keep_the_last_good_checkpoint_and_name_the_batch(
    colour_and_range: Path, tmp_path: Path
) -> None:
    poison = Poison(tmp_path / "run")
    hook = torch.nn.modules.module.register_module_forward_pre_hook(poison.forward_begins)
    try:
        with pytest.raises(
            UserError, match=r"the loss is nan in batch 1 of \d+ in epoch 3 \(first pairs .+/take\d/frame_\d, "
        ) as caught:
            train([colour_and_range], tmp_path / "run", config=replace(QUICK, epochs=4), callback=poison)
    finally:
        hook.remove()
    assert f"batch 1 of {poison.num_steps // 4} in epoch 3" in str(caught.value)
    assert f"{tmp_path / 'run'} has the weights of epoch 2; try a smaller" in str(caught.value)
    run = open_run(tmp_path / "run")
    assert (run.info["epochs_done"], run.info["epoch_kept"]) == (2, 2)
    assert (tmp_path / "run/model.safetensors").read_bytes() == poison.good
    assert all(bool(torch.isfinite(value).all()) for value in run.build_model().state_dict().values())


class PoisonAtStep(NullCallback):
    """Makes one value not finite in a forward pass of training, without effect on the loss before the step."""

    def __init__(self, *, forward: int, spoil: Callable[[FusionClassifier], None]) -> None:
        self._left = forward
        self._spoil = spoil

    def forward_begins(self, module: torch.nn.Module, inputs: object) -> None:
        if isinstance(module, FusionClassifier) and module.training:
            self._left -= 1
            if self._left == 0:
                self._spoil(module)


def infinite_statistics(model: FusionClassifier) -> None:
    """BatchNorm's running variance, which does not affect the training loss."""
    module = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.running_var is not None)
    module.running_var.fill_(float("inf"))  # type: ignore[union-attr]


def nan_gradient(model: FusionClassifier) -> None:
    """A gradient but not the loss, as a square root at 0."""
    model.core.head[0].weight.register_hook(lambda gradient: gradient * float("nan"))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            infinite_statistics,
            r"running_var contains values that are not finite after batch 6 of 6 in epoch 2 \(first pairs",
        ),
        (nan_gradient, r"the gradient norm is nan in batch 6 of 6 in epoch 2 \(first pairs"),
    ],
)
@pytest.mark.parametrize("epochs", [2, 3])  # epoch 2 is the last one or not
def test_values_that_become_nan_in_the_last_batch_are_not_saved(
    spoil: Callable[[FusionClassifier], None], words: str, epochs: int, colour_and_range: Path, tmp_path: Path
) -> None:
    poison = PoisonAtStep(forward=12, spoil=spoil)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(poison.forward_begins)
    try:
        with pytest.raises(UserError, match=words) as caught:
            train([colour_and_range], tmp_path / "run", config=replace(QUICK, epochs=epochs), callback=poison)
    finally:
        hook.remove()
    assert f"{tmp_path / 'run'} has the weights of epoch 1;" in str(caught.value)
    run = open_run(tmp_path / "run")
    assert (run.info["epochs_done"], run.info["epoch_kept"]) == (1, 1)
    assert all(bool(torch.isfinite(value).all()) for value in run.build_model().state_dict().values())


def test_stored_weights_that_are_not_finite_are_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    model = open_run(trained).build_model()
    model.state_dict()["core.head.0.bias"][3] = float("nan")
    write_weights(tmp_path / "run", model)
    with pytest.raises(UserError, match=r"not finite \(core.head.0.bias; 1 tensor\(s\)\): train again"):
        open_run(tmp_path / "run").build_model()


def test_an_existing_run_is_kept_without_force(colour_and_range: Path, trained: Path, tmp_path: Path) -> None:
    before = (trained / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="--force"):
        train([colour_and_range], trained, config=QUICK)
    assert (trained / "model.safetensors").read_bytes() == before
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="did not make it"):
        train([colour_and_range], tmp_path, config=QUICK, force=True)


def test_damaged_runs_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        open_run(tmp_path)
    for name in ("run.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors is not the file that the training wrote"):
        open_run(tmp_path).build_model()
    without_digests(tmp_path)
    with pytest.raises(UserError, match="does not fit"):
        open_run(tmp_path).build_model()
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="run format 99"):
        open_run(tmp_path)


def test_pretrained_backbones_learn_slowly_with_frozen_statistics(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    from edgefuse.contract import InputContract
    from edgefuse.model.classifier import ModelConfig

    torch.save(resnet18().state_dict(), tmp_path / "w.pth")
    config = ModelConfig(contract=InputContract(size=32), num_classes=3, rgb="resnet18")
    model = build_classifier(config, rgb_weights=str(tmp_path / "w.pth"))
    groups = parameter_groups(model, TrainConfig(pretrained_rate_scale=0.1))
    assert [group["lr"] for group in groups] == [1e-3, pytest.approx(1e-4)]
    assert sum(len(list(group["params"])) for group in groups) == len(list(model.parameters()))  # type: ignore[call-overload]
    set_training(model)
    assert not model.rgb_features.backbone.features[1].training  # type: ignore[union-attr, index]
    assert model.depth_features.backbone.features[0][1].training  # type: ignore[union-attr, index]


def test_without_validation_pairs_the_temperature_is_1(trained: Path) -> None:
    assert open_run(trained).model_config.temperature == 1.0
    calibration = json.loads((trained / "metrics.json").read_text())["calibration"]
    assert calibration["fitted_on_validation_pairs"] == 0 and calibration["temperature"] == 1.0
    assert calibration["test"]["before"] == calibration["test"]["after"]


def test_the_temperature_is_fitted_on_validation_pairs_and_keeps_every_prediction(
    colour_and_range: Path, tmp_path: Path
) -> None:
    config = replace(QUICK, epochs=6, validation_fraction=0.3, exclude=("take3",))
    metrics = train([colour_and_range], tmp_path / "run", config=config).metrics
    run = open_run(tmp_path / "run")
    temperature, calibration = run.model_config.temperature, metrics["calibration"]
    assert temperature == calibration["temperature"] != 1.0 and run.info["epochs_done"] == 6
    assert calibration["fitted_on_validation_pairs"] == run.info["data"]["num_validation"] > 0
    for part in ("validation", "test"):  # the metrics include the temperature
        after = calibration[part]["after"]["expected_calibration_error"]
        assert metrics[part]["both"]["expected_calibration_error"] == pytest.approx(after, abs=1e-5)
    model, (rgb, depth) = run.build_model(), run.samples()
    after = torch_predictor(model)(rgb, depth).probabilities
    model.temperature = 1.0
    before = torch_predictor(model)(rgb, depth).probabilities
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    np.testing.assert_allclose(after, rescale(before, temperature=temperature), atol=1e-5)
    assert np.abs(after - rescale(before, temperature=1.1 * temperature)).max() > 1e-3, (
        "this comparison sees any temperature"
    )


def test_runs_from_before_temperatures_have_temperature_1(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    description = without_digests(tmp_path)
    del description["model"]["temperature"]
    (tmp_path / "run.json").write_text(json.dumps(description))
    assert open_run(tmp_path).model_config.temperature == 1.0
    description["model"]["temperature"] = 0
    (tmp_path / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="temperature is 0"):
        open_run(tmp_path)


def test_frozen_stages_of_a_pretrained_backbone_keep_their_weights(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    torch.save(mobilenet_v2().state_dict(), tmp_path / "weights.pth")
    config = ModelConfig(contract=InputContract(size=32), num_classes=2, rgb="mobilenet_v2", depth="mobilenet_v2")
    model = build_classifier(
        config, rgb_weights=str(tmp_path / "weights.pth"), depth_weights=str(tmp_path / "weights.pth")
    )
    prepare(model, device=torch.device("cpu"), frozen_fraction=0.4)
    for extractor in (model.rgb_features, model.depth_features):
        assert extractor is not None
        frozen = [not any(p.requires_grad for p in stage.parameters()) for stage in extractor.backbone.stages]
        assert frozen == [True] * 8 + [False] * 11
    learning = {id(p) for group in parameter_groups(model, TrainConfig()) for p in group["params"]}  # type: ignore[attr-defined]
    assert learning == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("depth_window_m=0.2", lambda config: config.depth_window_m == 0.2),
        ("augmentation.flip=false", lambda config: config.augmentation.flip is False),
        ("epochs=3", lambda config: config.epochs == 3),
        ("encoding=absolute", lambda config: config.encoding == "absolute"),
    ],
)
def test_any_number_of_the_recipe_can_be_set(text: str, got: Callable[[TrainConfig], bool]) -> None:
    assert not got(TrainConfig()) and got(with_values(TrainConfig(), [text]))


@pytest.mark.parametrize(
    "text", ["reach=0.2", "depth_window_m", "augmentation.turn=1", "epochs=2.5", "augmentation.flip=yes"]
)
def test_unknown_values_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UserError, match=f"--set {text}"):
        with_values(TrainConfig(), [text])
