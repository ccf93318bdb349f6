"""`live`, `Classifier` and `evaluate` with adaptive computing: which part answered, and how often."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaptive_bundles import confidences
from numpy.typing import NDArray

import edgefuse
from edgefuse.bundle import Bundle
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.evaluation.metrics import framed_batches
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.sinks.metrics import MetricsSink

MAIN = "from edgefuse.app.main import main; main()"


@pytest.fixture(scope="module")
def rgbd(colour_and_range: Path) -> RgbdDataset:
    return load(scan([colour_and_range]))


@pytest.fixture(scope="module")
def confidence(adaptive_bundle: Bundle, rgbd: RgbdDataset) -> NDArray[np.float32]:
    """Of the depth head, for each pair of the data set."""
    (batch,) = framed_batches(rgbd, contract=adaptive_bundle.manifest.contract, batch_size=len(rgbd.rgb))
    return confidences(adaptive_bundle, batch[1])


def _edgefuse(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _results(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def test_live_says_what_answered_and_changes_no_other_result(
    adaptive_bundle: Bundle, colour_and_range: Path, confidence: NDArray[np.float32]
) -> None:
    threshold = float(np.median(confidence))
    common = (
        "live",
        adaptive_bundle.folder,
        "--camera",
        colour_and_range,
        "--engine",
        "cpu",
        "--threads",
        1,
        "--jsonl",
        "-",
    )
    plain, adaptive = _edgefuse(*common), _edgefuse(*common, "--adaptive", repr(threshold))
    assert plain.returncode == adaptive.returncode == 0, adaptive.stderr
    full, found = (
        {(one["name"], one["frame"]): one for one in _results(done.stdout) if one["kind"] == "result"}
        for done in (plain, adaptive)
    )
    assert {one["adaptive"] for one in full.values()} == {None}
    num_alone = int((confidence >= threshold).sum())
    assert 0 < num_alone < len(full) == len(found) == len(confidence)
    for name, one in found.items():
        if one["adaptive"] == "depth":
            assert one["gate_mean"] == 1 and one["probability"] == pytest.approx(max(p for _, p in one["top"]))
            assert one["probability"] >= round(threshold, 6)
        else:
            assert one["adaptive"] == "full"
            assert all(one[key] == full[name][key] for key in ("label", "top", "gate_mean", "nearest_m", "sensors"))
    summary = _results(adaptive.stdout)[-1]
    assert summary["adaptive"] == {"depth": num_alone, "full": len(found) - num_alone}
    assert summary["engine"]["adaptive"] == threshold and _results(plain.stdout)[-1]["adaptive"] is None


def test_the_lines_of_text_and_the_metrics_have_it_too(
    adaptive_bundle: Bundle, colour_and_range: Path, confidence: NDArray[np.float32]
) -> None:
    threshold = float(np.median(confidence))
    num_alone, num_pairs = int((confidence >= threshold).sum()), len(confidence)
    done = _edgefuse(
        *("live", adaptive_bundle.folder, "--camera", colour_and_range, "--engine", "cpu"),
        *("--adaptive", repr(threshold)),
    )
    lines = done.stdout.splitlines()
    assert sum("  depth alone" in line for line in lines if line.startswith("frame ")) == num_alone
    assert f"answered from depth alone: {num_alone} of {num_pairs} results" in lines
    metrics = MetricsSink()
    with (
        open_engine(adaptive_bundle, engine="cpu", adaptive=threshold) as engine,
        open_camera(str(colour_and_range)) as camera,
    ):
        summary = run_live(engine=engine, camera=camera, sinks=[metrics])
    assert summary.adaptive == {"depth": num_alone, "full": num_pairs - num_alone}
    text = metrics.text().decode()
    assert f'edgefuse_adaptive_results_total{{answered_by="depth"}} {num_alone}.0' in text
    assert f'edgefuse_adaptive_results_total{{answered_by="full"}} {num_pairs - num_alone}.0' in text


def test_a_classifier_says_what_answered(
    adaptive_bundle: Bundle, rgbd: RgbdDataset, confidence: NDArray[np.float32]
) -> None:
    best, worst = int(confidence.argmax()), int(confidence.argmin())
    assert confidence[best] > confidence[worst]
    with edgefuse.Classifier(adaptive_bundle.folder, engine="cpu", adaptive=float(confidence[best])) as classifier:
        found = [classifier(rgbd.rgb[i], rgbd.depth[i], roi="whole") for i in (best, worst)]
        dark = classifier(np.zeros_like(rgbd.rgb[best]), rgbd.depth[best], roi="whole")
    with edgefuse.Classifier(adaptive_bundle.folder, engine="cpu") as classifier:
        plain = [classifier(rgbd.rgb[i], rgbd.depth[i], roi="whole") for i in (best, worst)]
        dark_plain = classifier(np.zeros_like(rgbd.rgb[best]), rgbd.depth[best], roi="whole")
    assert [one.adaptive for one in (*found, dark, *plain)] == ["depth", "full", "full", None, None]
    assert found[0].probability == pytest.approx(float(confidence[best])) and found[0].gate == 1
    assert found[1].probabilities == plain[1].probabilities and found[1].gate == plain[1].gate
    assert (
        dark.probabilities == dark_plain.probabilities
        and dark.sensors.rgb == "missing"
        and dark.label == dark_plain.label
    )


def test_regions_of_one_frame_are_answered_apart(
    trained_run: Path, rgbd: RgbdDataset, confidence: NDArray[np.float32], tmp_path: Path
) -> None:
    order = np.argsort(confidence)
    places = [int(order[i]) for i in (0, -1, 1)]
    rgb, depth = (np.concatenate([images[i] for i in places], axis=1) for images in (rgbd.rgb, rgbd.depth))
    side = rgbd.rgb[0].shape[0]
    rois = [(n * side, 0, side, side) for n in range(3)]
    bundle = edgefuse.export(trained_run, tmp_path / "bundle", precisions=("fp32",), batch=3, adaptive=True)
    with edgefuse.Classifier(bundle.folder, engine="cpu", adaptive=float(confidence[order[-1]]) - 1e-4) as classifier:
        together = classifier.batch(rgb, depth, rois=rois)
    with edgefuse.Classifier(bundle.folder, engine="cpu") as classifier:
        plain = classifier.batch(rgb, depth, rois=rois)
    assert [one.adaptive for one in together] == ["full", "depth", "full"]
    for n in (0, 2):
        assert together[n].probabilities == pytest.approx(plain[n].probabilities, abs=1e-5)
    assert together[1].probabilities != pytest.approx(plain[1].probabilities, abs=1e-3)


def test_evaluate_scores_the_mixture(adaptive_bundle: Bundle, colour_and_range: Path, rgbd: RgbdDataset) -> None:
    def accuracy(adaptive: float | None) -> dict[str, float]:
        found = edgefuse.evaluate(adaptive_bundle.folder, colour_and_range, engine="cpu", adaptive=adaptive)
        return {name: scores.accuracy for name, scores in found.items()}

    plain, always = accuracy(None), accuracy(1e-6)
    depth_alone = _depth_accuracy(adaptive_bundle, rgbd)
    assert always == {"both": pytest.approx(depth_alone), "no_rgb": plain["no_rgb"], "no_depth": plain["no_depth"]}
    assert always["both"] != plain["both"] and accuracy(1.0) == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("live", "BUNDLE", "--camera", "synthetic", "--adaptive", "0"), "above 0, at most 1, was expected"),
        (("live", "BUNDLE", "--camera", "synthetic", "--adaptive", "1.5"), "Invalid value for '--adaptive'"),
        (("live", "BUNDLE", "--camera", "synthetic", "--adaptive", "nan"), "Invalid value for '--adaptive'"),
        (
            ("live", "BUNDLE", "--camera", "synthetic", "--adaptive", "0.9", "--engine", "cuda"),
            "not with --engine cuda",
        ),
        (("evaluate", "RUN", "DATA", "--adaptive", "0.9"), "--adaptive needs a bundle"),
        (("evaluate", "BUNDLE", "DATA", "--adaptive", "0.9", "--corruptions"), "it does not go with --corruptions"),
    ],
    ids=["zero", "above one", "nan", "engine", "a run", "corruptions"],
)
def test_wrong_options_are_refused(
    arguments: Sequence[str], message: str, adaptive_bundle: Bundle, trained_run: Path, colour_and_range: Path
) -> None:
    paths = {"BUNDLE": adaptive_bundle.folder, "RUN": trained_run, "DATA": colour_and_range}
    done = _edgefuse(*(paths.get(word, word) for word in arguments))
    assert done.returncode != 0 and message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def _depth_accuracy(bundle: Bundle, rgbd: RgbdDataset) -> float:
    from edgefuse_runtime.engines.adaptive import AdaptiveEngine

    with AdaptiveEngine(bundle, threshold=1.0) as engine:
        answers = [
            (engine.depth_alone(depth).probabilities.argmax(axis=1) == truth)[0]
            for _, depth, truth in framed_batches(rgbd, contract=bundle.manifest.contract, batch_size=1)
        ]
    return float(np.mean(answers))
