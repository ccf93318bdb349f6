"""Adaptive computing: what depth answers alone, what the complete model answers, and that these are the outputs of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adaptive_bundles import confidences, untrained_bundle
from export_runs import copy_run, samples
from numpy.typing import NDArray

from edgefuse.adaptive import DEPTH_FILE, FILES, REST_FILE, Adaptive, check_threshold, curve_of
from edgefuse.bundle import Bundle, Manifest, open_bundle, write_manifest
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.io.json_files import read_json, write_json
from edgefuse.training.loop import torch_predictor
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train
from edgefuse_export.onnx.export import export_run
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.adaptive import AdaptiveEngine

NUM_PAIRS = 12


@pytest.fixture(scope="module")
def pairs() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise of a different strength in each pair."""
    rgb, depth = samples(NUM_PAIRS, seed=3)
    for i in range(NUM_PAIRS):
        depth[i, ..., 1] = depth[i, ..., 1] % (i + 2)  # metres: the high byte
    return rgb, depth


@pytest.fixture
def bundle(adaptive_bundle: Bundle) -> Bundle:
    return adaptive_bundle


@pytest.mark.parametrize("fusion", ["spatial", "gated", "joint", "naive"])
@pytest.mark.parametrize("word", ["cpu", "openvino:fp32"])
def test_the_complete_model_and_the_depth_head_answer_bit_for_bit(
    fusion: str, word: str, pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    if word.startswith("openvino"):
        pytest.importorskip("openvino")
    bundle, depth_model = untrained_bundle(tmp_path / "bundle", fusion)
    rgb, depth = pairs
    if word != "cpu":  # it needs samples to compare its outputs with
        bundle = _with_samples(bundle, rgb, depth)
    threshold = float(np.median(confidences(bundle, depth)))
    expected = torch_predictor(depth_model)(rgb, depth)
    num_alone = 0
    with (
        open_engine(bundle, engine=word, num_threads=1) as full,
        open_engine(bundle, engine=word, num_threads=1, adaptive=threshold) as adaptive,
    ):
        for i in range(NUM_PAIRS):
            pair = rgb[i : i + 1], depth[i : i + 1]
            found, complete = adaptive.run(*pair), full.run(*pair)
            assert complete.from_depth is None and found.from_depth is not None
            assert np.array_equal(found.nearest_m, complete.nearest_m)
            if found.from_depth[0]:
                num_alone += 1
                np.testing.assert_allclose(found.probabilities[0], expected.probabilities[i], atol=1e-4)
                assert found.gate.shape == complete.gate.shape and (found.gate == 1).all()
                assert np.abs(found.probabilities - complete.probabilities).max() > 0.01
            else:
                assert np.array_equal(found.probabilities, complete.probabilities)
                assert np.array_equal(found.gate, complete.gate)
    assert 0 < num_alone < NUM_PAIRS


def test_depth_answers_from_exactly_the_threshold_on(
    bundle: Bundle, pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    rgb, depth = (one[:1] for one in pairs)
    confidence = confidences(bundle, depth)[0]
    for threshold, alone in ((confidence, True), (np.nextafter(confidence, np.float32(1)), False), (1e-6, True)):
        with AdaptiveEngine(bundle, threshold=float(threshold)) as engine:
            assert engine.run(rgb, depth).from_depth == [alone]


@pytest.mark.parametrize("batch", [5, "dynamic"])
def test_pairs_of_one_batch_are_answered_as_alone(
    batch: int | str, pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    bundle, _ = untrained_bundle(tmp_path / "bundle", "spatial", batch=batch)  # type: ignore[arg-type]
    rgb, depth = (one[:5] for one in pairs)
    depth = depth.copy()
    depth[4] = 0  # nothing is measured
    confident = np.sort(confidences(bundle, depth)[:4])
    with AdaptiveEngine(bundle, threshold=float(confident[2])) as engine:
        together = engine.run(rgb, depth)
        alone = [engine.run(rgb[i : i + 1], depth[i : i + 1]) for i in range(5)]
        complete = engine.complete(rgb, depth)
        first = engine.depth_alone(depth)
    assert together.from_depth is not None and together.from_depth.sum() == 2 and not together.from_depth[4]
    assert together.from_depth.tolist() == [bool(one.from_depth[0]) for one in alone if one.from_depth is not None]
    for name in ("probabilities", "gate", "nearest_m"):
        one_by_one = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(together, name), one_by_one, atol=1e-4)
    others = ~together.from_depth
    np.testing.assert_allclose(together.probabilities[others], complete.probabilities[others], atol=1e-4)
    assert np.array_equal(together.probabilities[~others], first.probabilities[~others])


@pytest.mark.parametrize("missing", ["rgb", "depth"])
def test_a_pair_without_a_sensor_is_answered_by_the_complete_model(
    missing: str, bundle: Bundle, pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    rgb, depth = (one[:1].copy() for one in pairs)
    {"rgb": rgb, "depth": depth}[missing][:] = 0
    with AdaptiveEngine(bundle, threshold=1e-6) as adaptive, open_engine(bundle, engine="cpu") as full:
        found, complete = adaptive.run(rgb, depth), full.run(rgb, depth)
    assert found.from_depth == [False]
    assert np.array_equal(found.probabilities, complete.probabilities) and np.array_equal(found.gate, complete.gate)


def test_the_manifest_has_the_calibration_the_curve_and_both_comparisons(bundle: Bundle, trained_run: Path) -> None:
    manifest, metrics = bundle.manifest, open_run(trained_run).metrics()
    found = manifest.adaptive
    assert found is not None and 0.1 <= found.temperature <= 10 and found.temperature != 1
    assert found.num_pairs == metrics["validation"]["both"]["num_samples"]
    assert found.accuracy == pytest.approx(metrics["validation"]["both"]["accuracy"], abs=1e-6)
    fractions = [point.from_depth for point in found.curve]
    assert fractions == sorted(fractions, reverse=True) and len(fractions) > 5
    for name in FILES:
        report = manifest.parity[name]
        assert report["together"]["num_samples"] > 16 and report["together"]["max_probability_difference"] < 1e-4
    assert Adaptive.from_json(read_json(bundle.folder / "manifest.json", what="")["adaptive"]) == found


def test_only_validation_pairs_are_used(colour_and_range: Path, tmp_path: Path) -> None:
    config = TrainConfig(size=32, epochs=1, batch_size=8, num_features=8, num_hidden=8, exclude=("take3",))
    config = replace(config, validation_fraction=0.3)
    run = train([colour_and_range], tmp_path / "run", config=config).folder
    info = open_run(run).info["data"]
    found = export_run(run, tmp_path / "bundle", adaptive=True).bundle.manifest.adaptive
    assert found is not None and info["num_test"] == 15 and found.num_pairs == info["num_validation"] > 0
    held_out = [s for s in load(scan([colour_and_range])).dataset.samples if s.sequence in info["validation_groups"]]
    assert found.num_pairs == len(held_out)


def test_the_curve_and_the_suggested_threshold() -> None:
    truth = np.array([0, 0, 1, 1])
    depth = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55]], np.float32)  # the second one is wrong
    full = np.array([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]], np.float32)  # the last one is wrong
    curve = curve_of(depth, full, truth, thresholds=(0.5, 0.6, 0.75, 0.9, 1.0))
    assert [(p.from_depth, p.accuracy) for p in curve] == [(1, 0.75), (0.75, 0.5), (0.5, 0.75), (0.25, 0.75), (0, 0.75)]
    figures = {"temperature": 1.0, "num_pairs": 4, "accuracy": 0.75, "depth_accuracy": 0.75}
    assert Adaptive(**figures, curve=curve).suggested == curve[2]  # type: ignore[arg-type]  # not 0.5: 0.6 is worse
    assert Adaptive(**figures, curve=curve[-1:]).suggested is None  # type: ignore[arg-type]  # depth answers nothing


def test_thresholds_that_are_no_probability_are_refused(bundle: Bundle) -> None:
    for threshold in (0.0, -0.5, 1.001, float("nan"), float("inf")):
        with pytest.raises(UserError, match="a probability above 0, at most 1, was expected"):
            open_engine(bundle, adaptive=threshold)
    check_threshold(1.0)


def test_engines_and_files_that_cannot_are_refused(bundle: Bundle) -> None:
    for engine in ("tensorrt", "rtx", "cuda", "openvino:int8"):
        with pytest.raises(UserError, match=f"not with --engine {engine}: use --engine cpu, openvino or"):
            open_engine(bundle, engine=engine, adaptive=0.9)
    with pytest.raises(UserError, match=f"has no model file '{DEPTH_FILE}'"):
        open_engine(bundle, file=DEPTH_FILE)
    manifest = replace(
        bundle.manifest, files={**bundle.manifest.files, "model.int8.onnx": bundle.manifest.files[REST_FILE]}
    )
    with pytest.raises(UserError, match="leave out --file or --adaptive"):
        open_engine(replace(bundle, manifest=manifest), file="model.int8.onnx", adaptive=0.9)


def test_a_bundle_without_the_files_says_what_to_type(bundle: Bundle, trained_run: Path, tmp_path: Path) -> None:
    plain = export_run(trained_run, tmp_path / "plain bundle").bundle
    assert plain.manifest.adaptive is None and "adaptive" not in plain.manifest.to_json()
    step = f"edgefuse export RUN --out '{plain.folder}' --adaptive --force"
    with pytest.raises(UserError, match="was exported without --adaptive") as caught:
        open_engine(plain, adaptive=0.9)
    assert step in str(caught.value)
    export_run(trained_run, plain.folder, adaptive=True, force=True)
    with open_engine(open_bundle(plain.folder), adaptive=0.9) as engine:
        assert engine.description["adaptive"] == 0.9
    export_run(trained_run, plain.folder, force=True)  # the files of adaptive computing do not stay behind
    assert not list(plain.folder.glob("adaptive_*"))


def test_changed_files_and_fields_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("manifest.json", "model.onnx", *FILES):
        (folder / name).write_bytes((bundle.folder / name).read_bytes())
    content = bytearray((folder / REST_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / REST_FILE).write_bytes(content)
    with (
        pytest.raises(UserError, match=f"{REST_FILE} is not the file that was exported"),
        AdaptiveEngine(open_bundle(folder), threshold=0.9),
    ):
        pass
    manifest = read_json(folder / "manifest.json", what="")
    for field, value, message in (
        ("temperature", "warm", "adaptive.temperature = 'warm', a number was expected"),
        ("curve", [{"threshold": 0.5}], r"lacks the field adaptive\.curve\[0\]\.from_depth"),
    ):
        write_json(folder / "manifest.json", {**manifest, "adaptive": {**manifest["adaptive"], field: value}})
        with pytest.raises(UserError, match=message):
            open_bundle(folder)
    assert Manifest.from_json(manifest).adaptive == bundle.manifest.adaptive


def test_runs_that_cannot_are_refused(trained_run: Path, colour_and_range: Path, tmp_path: Path) -> None:
    small = TrainConfig(size=32, epochs=1, batch_size=8, num_features=8, num_hidden=8)
    for name, config, message in (
        ("rgb", replace(small, fusion="rgb"), "needs a model of both sensors with auxiliary heads"),
        ("paper", replace(small, fusion="gated", aux_loss_weight=0.0), "needs a model of both sensors"),
        ("unvalidated", replace(small, validation_fraction=0.0), "which has none: train again with --set"),
    ):
        run = train([colour_and_range], tmp_path / name, config=config).folder
        with pytest.raises(UserError, match=message):
            export_run(run, tmp_path / "bundle", adaptive=True)
    moved = copy_run(trained_run, tmp_path / "moved")
    info = read_json(moved / "run.json", what="")
    write_json(moved / "run.json", {**info, "data": {**info["data"], "roots": [str(tmp_path / "gone")]}})
    with pytest.raises(
        UserError, match=r"--adaptive is calibrated on the validation pairs of the run: the data .* missing"
    ):
        export_run(moved, tmp_path / "bundle", adaptive=True)
    assert not (tmp_path / "bundle").exists()


def _with_samples(bundle: Bundle, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Bundle:
    """The bundle with stored outputs, those of ONNX Runtime."""
    from edgefuse.bundle import SAMPLES_NAME, Samples, write_samples

    with open_engine(bundle, engine="cpu") as engine:
        outputs = [engine.run(rgb[i : i + 1], depth[i : i + 1]).outputs for i in range(len(rgb))]
    columns = {name: np.concatenate([getattr(one, name) for one in outputs]) for name in outputs[0]._fields}
    entry = write_samples(bundle.folder, Samples(rgb=rgb, depth=depth, **columns))
    write_manifest(bundle.folder, replace(bundle.manifest, files={**bundle.manifest.files, SAMPLES_NAME: entry}))
    return open_bundle(bundle.folder)
