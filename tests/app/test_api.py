"""The public Python API: its names, and that its functions do the same as the commands."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgefuse
from edgefuse.degraded_mode import DegradedMode
from edgefuse.training.callbacks import NullCallback
from edgefuse.training.loop import EpochResult, StepReport
from edgefuse_runtime.recording.write_db3 import write_recording
from edgefuse_runtime.sensor_health import SensorStates
from leaks import nothing_left_behind
from toy_bundle import make_toy_bundle

NEAR = np.full((48, 64), 200, np.uint16)
FAR = np.full((48, 64), 1900, np.uint16)


def scene(depth: np.ndarray = NEAR, *, red: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.random.default_rng(0).integers(0, 60, (*depth.shape, 3), np.uint8)
    rgb[..., 0] += np.uint8(red)
    return rgb, depth


def test_every_public_name_is_there_and_documented() -> None:
    assert set(edgefuse.__all__) <= set(dir(edgefuse))
    for name in edgefuse.__all__:
        assert getattr(edgefuse, name).__doc__, name
    with pytest.raises(AttributeError, match="Classifier"):
        edgefuse.classifier  # noqa: B018


@pytest.mark.parametrize("name", edgefuse.__all__)
def test_the_page_of_the_api_has_every_name_with_its_parameters(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    listed = re.findall(rf"^\| `{name}(?:\((.*?)\))?` \|", page, re.MULTILINE)
    assert len(listed) == 1
    if listed[0]:
        parameters = re.findall(r"(\w+)(?:=|,|$)", re.sub(r"=(?:\(.*?\)|[^,]*)", "=", listed[0]))
        assert parameters == list(inspect.signature(getattr(edgefuse, name)).parameters)


@pytest.mark.parametrize(
    "use", ["edgefuse.Classifier", "edgefuse.live", "edgefuse.open_bundle", "edgefuse.train", "edgefuse.InputContract"]
)
def test_names_load_neither_torch_nor_an_engine(use: str) -> None:
    code = f"import sys, edgefuse; {use}; print([m for m in ('torch', 'onnxruntime', 'onnx', 'pyrealsense2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_pair_is_classified_with_its_probabilities_gate_and_sensors(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle", labels=("near", "middle", "far"))
    with edgefuse.Classifier(str(tmp_path / "bundle"), engine="cpu") as classifier:
        near, far = classifier(*scene(NEAR)), classifier(*scene(FAR, red=0))
        assert (near.label, far.label) == ("near", "far")
        assert next(iter(far.probabilities)) == "far" and sum(far.probabilities.values()) == pytest.approx(1)
        assert far.probability == max(far.probabilities.values())
        assert near.sensors == SensorStates() and near.warning == "" and near.roi == (0, 0, 64, 48)
        assert 0 < near.infer_ms < 1000 and near.gate is not None and 0 < near.gate < 1
        # The mean over the square around the image, of which a quarter is outside.
        assert (near.nearest_m, far.nearest_m) == pytest.approx((0.75 * 0.2, 0.75 * 1.9))
        tenths = classifier(scene()[0], NEAR * np.uint16(10), depth_unit_m=0.0001)
        assert tenths.probabilities == pytest.approx(near.probabilities)
        assert classifier.engine["provider"] == "CPUExecutionProvider" and classifier.labels[0] == "near"


def test_regions_are_classified_one_by_one(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle")
    rgb, depth = scene(np.hstack([NEAR, FAR]), red=0)
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        assert classifier.engine["engine"] not in classifier.engine["passed_over"]
        left, right = classifier.batch(rgb, depth, rois=[(0, 0, 48, 48), (80, 0, 48, 48)])
        assert (left.label, right.label) == ("near", "far") and right.roi == (80, 0, 48, 48)
        for roi in ((1, 2, 3), "middle", (float("nan"), 0, 5, 5), (500, 0, 5, 5), (0, 0, 0, 5)):
            with pytest.raises(edgefuse.EdgefuseError):
                classifier(rgb, depth, roi=roi)  # type: ignore[arg-type]


def test_a_missing_sensor_is_detected_and_the_bundle_decides_what_follows(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle", degraded_mode=DegradedMode(no_rgb="predict", no_depth="abstain"))
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        no_depth = classifier(scene()[0], np.zeros_like(NEAR))
        no_rgb = classifier(np.zeros((48, 64, 3), np.uint8), FAR)
    assert no_depth.label is None and no_depth.probability is None and no_depth.sensors.depth == "missing"
    assert "no decision" in no_depth.warning and no_depth.nearest_m is None
    assert no_rgb.label == "far" and no_rgb.sensors.rgb == "missing" and "predicted without it" in no_rgb.warning


def test_wrong_arrays_and_wrong_use_are_refused(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle")
    classifier = edgefuse.Classifier(tmp_path / "bundle")
    with pytest.raises(RuntimeError, match="inside `with`"):
        classifier(*scene())
    with classifier:
        rgb, depth = scene()
        for bad in (
            (rgb.astype(np.float32), depth),
            (rgb[..., 0], depth),
            (rgb, depth.astype(np.int32)),
            (rgb[:-1], depth),
        ):
            with pytest.raises(edgefuse.EdgefuseError):
                classifier(*bad)
        with pytest.raises(edgefuse.EdgefuseError, match="depth unit"):
            classifier(rgb, depth, depth_unit_m=float("nan"))
    with pytest.raises(edgefuse.EdgefuseError, match="is not a bundle"):
        edgefuse.Classifier(tmp_path)


def test_live_yields_what_the_command_prints_and_closes_the_camera(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle")
    write_recording(tmp_path / "r.db3", [scene(NEAR), scene(FAR, red=0)] * 5)
    with nothing_left_behind():
        results = list(edgefuse.live(tmp_path / "bundle", camera=str(tmp_path / "r.db3"), real_time=False))
        assert [result.label for result in results] == ["near", "far"] * 5
        for result in results:
            assert result.latency_ms > 0 and result.probabilities[result.label] == result.probability
        for result in edgefuse.live(str(tmp_path / "bundle"), camera="synthetic"):
            assert result.index == 0
            break
        del result


def test_recipes_are_changed_by_name() -> None:
    recipe = edgefuse.recipes.mobilenet_rgbd(epochs=20, rgb_weights="w.pth")
    assert (recipe.rgb, recipe.depth, recipe.epochs, recipe.depth_weights) == (
        "mobilenet_v2",
        "mobilenet_v2",
        20,
        "w.pth",
    )
    with pytest.raises(edgefuse.EdgefuseError, match="dropout"):
        edgefuse.recipes.small_rgbd(dropout=5)


class Recorder(NullCallback):
    """Records the calls of a training."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_start(self, num_epochs: int) -> None:
        self.calls.append(f"start {num_epochs}")

    def on_batch_end(self, report: StepReport) -> None:
        self.calls.append(f"batch {report.step} of {report.num_steps}")

    def on_epoch_end(self, result: EpochResult) -> None:
        self.calls.append(f"epoch {result.epoch}")

    def on_train_end(self) -> None:
        self.calls.append("end")


def test_train_export_evaluate_and_classify_in_python(
    colour_and_range: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, list[tuple[int, int | None]]] = {}

    def progress(done: int, total: int | None, /, *, stage: str = "") -> None:
        seen.setdefault(stage, []).append((done, total))

    recipe = edgefuse.recipes.small_rgbd(epochs=1, size=32, batch_size=8, num_threads=1)
    callback = Recorder()
    run = edgefuse.train(colour_and_range, tmp_path / "run", recipe=recipe, callback=callback, progress=progress)
    num_batches = len(callback.calls) - 3
    batches = [f"batch {number + 1} of {num_batches}" for number in range(num_batches)]
    assert num_batches > 1 and callback.calls == ["start 1", *batches, "epoch 0", "end"]
    bundle = edgefuse.export(run, tmp_path / "bundle")
    edgefuse.evaluate(run, colour_and_range, progress=progress)
    assert seen == {"training": [(1, 1)], "scoring": [(32, 60), (60, 60)]}
    assert capfd.readouterr() == ("", "")
    assert edgefuse.open_bundle(str(bundle.folder)).manifest.labels == ("blue_near", "red_far", "red_near")
    of_run, of_bundle = (edgefuse.evaluate(model, colour_and_range, only=["take0"]) for model in (run, bundle.folder))
    assert of_run["both"].accuracy == of_bundle["both"].accuracy and of_run.keys() == {"both", "no_rgb", "no_depth"}
    assert of_bundle["both"].num_samples == 15
    with edgefuse.Classifier(bundle.folder) as classifier:
        assert classifier(*scene()).label in classifier.labels


def test_warnings_reach_standard_error_and_nothing_else_does(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, edgefuse\n"
        "from edgefuse.synth.rendered_set import write_dataset\n"
        "data = write_dataset(__import__('pathlib').Path(sys.argv[1]) / 'd', num_pairs=16, size=32, num_workers=1)\n"
        "sizes = dict(epochs=1, size=32, batch_size=8, num_threads=1)\n"
        "recipe = edgefuse.recipes.small_rgbd(**sizes, validation_fraction=0, far_m=0.3)\n"
        "edgefuse.train(data, sys.argv[1] + '/run', recipe=recipe)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "" and "beyond 0.3 m" in done.stderr and "parameters, on" not in done.stderr


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "edgefuse", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgefuse {edgefuse.__version__}\n"
