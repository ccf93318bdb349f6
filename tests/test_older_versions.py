"""A run, a bundle and a data set of an older commit open, and give the same outputs as with that commit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgefuse
from edgefuse.app.old_options import with_present_names
from edgefuse.bundle import open_bundle
from edgefuse.data.dataset import load, scan
from edgefuse.evaluation.metrics import framed_batches
from edgefuse.training.loop import torch_predictor
from edgefuse.training.recipe import TrainConfig, small_rgbd, with_values
from edgefuse.training.run import open_run
from edgefuse_benchmarks.suites.precision import measure
from edgefuse_export.onnx.export import export_run
from edgefuse_export.tensorrt.verify_engine import verify_engine
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines import open_engine
from older_version import unpacked


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("old"))


def test_a_run_opens_with_its_settings_and_weights(old: Path) -> None:
    run = open_run(old / "run")
    assert run.model_config.auxiliary_heads and run.model_config.depth_window_m == 0.3
    recipe = TrainConfig.from_json(run.info["training"])
    assert (recipe.test_fraction, recipe.validation_fraction, recipe.aux_loss_weight) == (0.25, 0.15, 1.0)
    samples = open_bundle(old / "bundle").samples()
    answers = torch_predictor(run.build_model())(samples.rgb, samples.depth)
    np.testing.assert_allclose(answers[0], samples.probabilities, atol=1e-4)
    assert np.ptp(samples.probabilities, axis=0).max() > 0.2  # the outputs differ by much more than the tolerance
    assert samples.nearest_m is None and answers.nearest_m is not None
    assert np.array_equal(answers.nearest_m[:, 0] > 0, samples.depth.any(axis=(1, 2, 3)))


def test_a_bundle_opens_and_classifies(old: Path) -> None:
    bundle = open_bundle(old / "bundle")
    assert (bundle.manifest.degraded_mode.no_rgb, bundle.manifest.degraded_mode.no_depth) == ("abstain", "abstain")
    assert bundle.manifest.degraded_mode.reason["no_rgb"]
    rgbd = load(scan([old / "dataset"]))
    assert rgbd.dataset.samples[0].rgb_path.name == "000_rgb.png"
    with Classifier(old / "bundle") as classifier:
        found = classifier(rgbd.rgb[0], rgbd.depth[0], depth_unit_m=0.001, roi="whole")
    assert found.label == "blue_mug_photo"  # as with the commit that wrote the bundle
    assert found.probability == pytest.approx(0.27807, abs=1e-4) and found.gate == pytest.approx(0.47407, abs=1e-4)
    assert bundle.manifest.contract.outputs == ("probabilities", "gate") and found.nearest_m is None


def test_live_and_a_comparison_run_without_the_distance(old: Path) -> None:
    bundle = open_bundle(old / "bundle")
    for result in edgefuse.live(old / "bundle", camera=str(old / "dataset"), engine="cpu", num_frames=2):
        assert result.label is not None and result.nearest_m is None and result.to_json()["nearest_m"] is None
    with open_engine(bundle, engine="cpu") as engine:
        report = verify_engine(
            bundle, engine, samples=bundle.samples(), precision="fp32", batch_size=1, name="the same file"
        )
    assert report.failures() == [] and report.together.max_nearest_difference_m is None


def test_an_old_run_is_exported_to_the_same_outputs(old: Path, tmp_path: Path) -> None:
    then = open_bundle(old / "bundle").samples()
    export_run(old / "run", tmp_path / "bundle", precisions=("fp32",))
    now = open_bundle(tmp_path / "bundle").samples()
    assert np.array_equal(now.rgb, then.rgb)
    np.testing.assert_allclose(now.probabilities, then.probabilities, atol=1e-5)
    assert now.nearest_m is not None and 0 < np.median(now.nearest_m) < 2


def test_the_precision_of_an_old_bundle_is_measured(old: Path) -> None:
    _, fp16 = measure(old / "run", open_bundle(old / "bundle"), load(scan([old / "dataset"])))
    assert "look" in fp16.fp32_modules and 0 < fp16.max_probability_difference < 0.02


def test_a_data_set_loads(old: Path) -> None:
    rgbd = load(scan([old / "dataset"]))
    assert rgbd.dataset.labels == ("blue_mug", "bottle") and len(rgbd.rgb) == 4
    assert {sample.sequence for sample in rgbd.dataset.samples} == {"blue_mug_000", "bottle_000"}
    batches = framed_batches(rgbd, contract=open_run(old / "run").model_config.contract, batch_size=3)
    assert sum(len(batch[0]) for batch in batches) == 4


@pytest.mark.parametrize(
    ("old_form", "present"),
    [
        ("record mugs --label a --take left", "record mugs --label a --sequence left"),
        ("train mugs --out run --test-share=0.25", "train mugs --out run --test-fraction=0.25"),
        ("data convert A B --layout pairs --take (.+)", "data convert A B --layout pairs --sequence-pattern (.+)"),
        ("data convert A B --layout tum --instance x", "data convert A B --layout tum --sequence x"),
        ("crossval A --approaches gated-small --by instance", "crossval A --variants gated-small --by sequence"),
        ("export run --without-rgb label", "export run --without-rgb predict"),
        ("export run --without-depth=no-decision", "export run --without-depth=abstain"),
        ("record mugs --label label --sequence instance", "record mugs --label label --sequence instance"),
        ("bench live bundle --take 3", "bench live bundle --take 3"),
        ("record --take=a -- --take --by instance", "record --sequence=a -- --take --by instance"),
    ],
)
def test_old_options_and_values_keep_working(old_form: str, present: str) -> None:
    assert with_present_names(old_form.split()) == present.split()


def test_old_names_of_recipe_fields_keep_working() -> None:
    assert with_values(small_rgbd(), ["vote_weight=0", "reach_m=0.2"]) == small_rgbd(
        aux_loss_weight=0.0, depth_window_m=0.2
    )
