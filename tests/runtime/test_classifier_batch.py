"""Several regions of one pair as a batch: the same predictions as single calls, in as few engine runs as possible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgefuse
from edgefuse.degraded_mode import DegradedMode
from edgefuse_runtime import predict as predict_module
from edgefuse_runtime.engines.auto_engine import AutoEngine
from edgefuse_runtime.engines.engine import Decision
from toy_bundle import make_toy_bundle

REGIONS = [(0, 0, 60, 60), (70, 10, 40, 30), (100, 40, 90, 50), (-20, 30, 60, 60), (150, 0, 30, 100)]


def scene(height: int = 100, width: int = 180) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Noise that is darker and farther to the right, so that every region has another prediction."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    rgb[..., 0] += np.linspace(130, 0, width).astype(np.uint8)
    depth = rng.integers(300, 500, (height, width)).astype(np.uint16) + np.linspace(0, 1400, width).astype(np.uint16)
    return rgb, depth


@pytest.fixture
def num_pairs_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs in each engine run, without the warm-up."""
    seen: list[int] = []
    run = AutoEngine.run

    def counted(self: AutoEngine, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        seen.append(len(rgb))
        return run(self, rgb, depth)

    monkeypatch.setattr(AutoEngine, "run", counted)
    return seen


@pytest.mark.parametrize(("batch", "runs"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (8, [5]), ("N", [5])], ids=str)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_batch_has_the_predictions_of_single_calls(
    tmp_path: Path, batch: int | str, runs: list[int], as_text: bool, num_pairs_of_runs: list[int]
) -> None:
    folder = make_toy_bundle(tmp_path / "bundle", batch=batch, labels=("near", "middle", "far")).folder
    with edgefuse.Classifier(str(folder) if as_text else folder, engine="cpu") as classifier:
        assert classifier.batch_size == (batch if isinstance(batch, int) else None)
        together = classifier.batch(*scene(), rois=REGIONS)
        assert num_pairs_of_runs == runs
        alone = [classifier(*scene(), roi=roi) for roi in REGIONS]
    assert len({round(one.probabilities["far"], 3) for one in alone}) == len(REGIONS)
    for one, other in zip(together, alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6) and one.label == other.label
        assert (one.roi, one.sensors, one.gate) == (other.roi, other.sensors, pytest.approx(other.gate, abs=1e-6))


@pytest.mark.parametrize(("height", "width"), [(480, 640), (37, 91), (400, 20)])
@pytest.mark.parametrize("depth_unit_m", [0.001, 0.0001, 0.00025, 0.0005])
def test_any_size_and_any_depth_unit(tmp_path: Path, height: int, width: int, depth_unit_m: float) -> None:
    make_toy_bundle(tmp_path / "bundle", batch="N")
    rgb, depth_mm = scene(height, width)
    depth = (depth_mm.astype(np.float64) * 0.001 / depth_unit_m).round().astype(np.uint16)
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        rois = ["whole", None, (0, 0, width // 2, height // 2)]
        expected = classifier.batch(rgb, depth_mm, rois=rois)
        found = classifier.batch(rgb, depth, rois=rois, depth_unit_m=depth_unit_m)
        assert found[0].roi == found[1].roi == (0, 0, width, height)
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_each_prediction_has_its_own_timings(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle", batch=3)
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        found = classifier.batch(*scene(), rois=REGIONS)
    assert all(one.frame_ms > 0 and one.infer_ms > 0 for one in found)
    assert len({one.frame_ms for one in found}) > 1  # each is cropped separately
    runs = [(one.infer_ms, one.done_ns) for one in found]
    assert (
        runs[0] == runs[1] == runs[2] != runs[3] == runs[4] and runs[0][1] < runs[3][1]
    )  # regions of one run have its time


def test_no_region_gives_no_prediction_and_an_error_has_the_index(tmp_path: Path, num_pairs_of_runs: list[int]) -> None:
    make_toy_bundle(tmp_path / "bundle", batch="N")
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        assert classifier.batch(*scene(), rois=[]) == []
        for bad in ((500, 0, 5, 5), (0, 0, 0, 5), (1, 2, 3), "middle", 7, (float("nan"), 0, 5, 5)):
            with pytest.raises(edgefuse.EdgefuseError, match=r"^rois\[2\]: "):
                classifier.batch(*scene(), rois=[*REGIONS[:2], bad, *REGIONS])  # type: ignore[list-item]
        with pytest.raises(edgefuse.EdgefuseError, match="align them to one view") as caught:
            classifier.batch(scene()[0], scene()[1][:-1], rois=REGIONS)
        assert "rois" not in str(caught.value)
        assert num_pairs_of_runs == []  # all regions are checked before the first run
        (one,) = classifier.batch(*scene(), rois=np.array(REGIONS[:1]))  # type: ignore[arg-type]
        assert one.roi == REGIONS[0]
    with pytest.raises(RuntimeError, match="inside `with`"):
        classifier.batch(*scene(), rois=[])


def test_a_sensor_that_is_missing_in_one_region_changes_no_other(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle", batch=4, degraded_mode=DegradedMode(no_rgb="predict", no_depth="abstain"))
    rgb, depth = scene()
    with edgefuse.Classifier(tmp_path / "bundle") as classifier:
        whole = classifier.batch(rgb, depth, rois=REGIONS[:3])
        depth[10:40, 70:110] = 0
        depth[5:45, 65:115] = 0
        found = classifier.batch(rgb, depth, rois=REGIONS[:2])
    assert [one.sensors.depth for one in found] == ["ok", "missing"]
    assert found[1].label is None and found[1].scores is not None and "no decision" in found[1].warning
    assert found[0].probabilities == whole[0].probabilities and found[0].label == whole[0].label


def test_framed_batches_of_any_length_run(
    tmp_path: Path, num_pairs_of_runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    rgb, depth = (rng.integers(0, 256, (7, 32, 32, channels), np.uint8) for channels in (3, 2))
    depth[..., 1] %= 8
    make_toy_bundle(tmp_path / "fixed", batch=3)
    make_toy_bundle(tmp_path / "dynamic", batch="N")
    monkeypatch.setattr(predict_module, "MAX_PAIRS_IN_ONE_RUN", 4)
    outputs = []
    for name in ("fixed", "dynamic"):
        with edgefuse.Classifier(tmp_path / name, engine="cpu") as classifier:
            outputs.append(classifier.predict_framed(rgb, depth))
    assert num_pairs_of_runs == [3, 3, 1, 4, 3]
    for fixed, dynamic, width in zip(*outputs, (2, 4, 1), strict=True):
        assert fixed.shape == (7, width)
        np.testing.assert_allclose(fixed, dynamic, atol=1e-6)
    with pytest.raises(RuntimeError, match="inside `with`"):
        classifier.predict_framed(rgb, depth)
