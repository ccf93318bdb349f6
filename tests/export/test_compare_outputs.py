"""The comparison of outputs: near-ties, percentiles, and an engine against its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_scenes import make_engine_bundle
from numpy.typing import NDArray

from edgefuse.bundle import Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.contract import Outputs
from edgefuse.evaluation.compare_outputs import (
    FP16_TOLERANCE,
    INT8_TOLERANCE,
    NEAR_TIE_MARGIN,
    Tolerance,
    report_of,
)
from edgefuse.evaluation.metrics import Predictor
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_export.tensorrt.verify_engine import FILE_TOLERANCES, verify_engine
from edgefuse_runtime.engines.engine import Decision


def outputs(*first: float, nearest_m: float | None = None) -> Outputs:
    """One frame for each number, which is the first of two probabilities."""
    probabilities = np.array([[p, 1 - p] for p in first], np.float32)
    distances = None if nearest_m is None else np.full((len(first), 1), nearest_m, np.float32)
    return Outputs(probabilities, np.zeros((len(first), 4), np.float32), distances)


def compared(tolerance: Tolerance, **cases: tuple[Outputs, Outputs]) -> list[str]:
    return report_of(cases, reference="a", candidate="b", tolerance=tolerance).failures()


def test_a_flip_of_a_class_25_points_ahead_is_not_a_near_tie() -> None:
    report = report_of(
        {"real": (outputs(0.625, 0.52, 0.9), outputs(0.49, 0.48, 0.8))},
        reference="",
        candidate="",
        tolerance=INT8_TOLERANCE,
    )
    assert (report.together.top1_flips, report.together.near_tie_flips) == (1, 1)
    assert "all together: changed predictions, of 3: 1, at most 0 is allowed" in report.failures()
    assert NEAR_TIE_MARGIN == INT8_TOLERANCE.draw_margin == FP16_TOLERANCE.draw_margin == 0.05


def test_the_fraction_of_flips_is_of_all_frames() -> None:
    loose = Tolerance(probability=1.0, gate=1.0, flips_fraction=0.02)
    for count, passes in ((49, False), (50, True), (99, True)):
        expected = outputs(*[0.9] * count)
        found = outputs(0.1, *[0.9] * (count - 1))
        assert (compared(loose, real=(expected, found)) == []) is passes, count
    assert compared(loose, real=(outputs(*[0.9] * 100), outputs(*[0.1] * 3, *[0.9] * 97)))


def test_the_percentile_is_over_all_cases_together() -> None:
    """One of 200 frames may change by 0.1, because the largest value has its own limit. Three are too many."""
    limits = Tolerance(probability=0.3, gate=0.1, p99_probability=0.05)
    still, moved = (outputs(0.9), outputs(0.9)), (outputs(0.9), outputs(0.8))
    real = (outputs(*[0.9] * 199), outputs(*[0.9] * 199))
    assert compared(limits, real=real, black=moved) == []
    (failure,) = compared(limits, real=real, black=moved, white=moved, both=moved)
    assert failure.startswith("all together: the 99th percentile of probabilities differs by 0.1")
    assert compared(limits, real=real, black=still) == []
    (failure,) = compared(limits, real=real, black=(outputs(0.9), outputs(0.55)))
    assert failure.startswith("black: probabilities differ by 0.35")


def test_the_distance_is_compared_in_metres() -> None:
    limits = Tolerance(probability=0.1, gate=0.1)
    assert compared(limits, real=(outputs(0.9, nearest_m=0.62), outputs(0.9, nearest_m=0.6205))) == []
    (failure,) = compared(limits, real=(outputs(0.9, nearest_m=0.62), outputs(0.9, nearest_m=0.622)))
    assert failure == "real: distances in metres differ by 0.002, at most 0.001 is allowed"
    failures = compared(limits, real=(outputs(0.9, nearest_m=0.62), outputs(0.9, nearest_m=np.nan)))
    assert failures[0].startswith("real: distances in metres differ by nan") and "not finite: 1" in failures[1]


def test_outputs_of_older_bundles_are_compared_without_the_distance() -> None:
    limits = Tolerance(probability=0.1, gate=0.1)
    pairs = {"older": outputs(0.9), "newer": outputs(0.9, nearest_m=0.62)}
    for expected in pairs.values():
        report = report_of({"real": (expected, pairs["older"])}, reference="", candidate="", tolerance=limits)
        assert report.failures() == [] and report.together.max_nearest_difference_m is None


@pytest.fixture
def int8_bundle(tmp_path: Path) -> Bundle:
    """The toy bundle with a second file as its INT8 file, which an engine is compared with."""
    bundle = make_engine_bundle(tmp_path / "b")
    path = bundle.folder / "model.int8.onnx"
    path.write_bytes((bundle.folder / "model.onnx").read_bytes())
    files = {**bundle.manifest.files, path.name: FileEntry.of(path, precision="int8")}
    write_manifest(bundle.folder, type(bundle.manifest)(**{**vars(bundle.manifest), "files": files}))
    return open_bundle(bundle.folder)


class OffBy:
    """An engine with the outputs of the file, but with an offset on the first two probabilities."""

    def __init__(self, predictor: Predictor, by: float) -> None:
        self._predictor, self._by = predictor, by

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        found = self._predictor(rgb, depth)
        offset = np.array([self._by, -self._by], np.float32)
        return Decision.of(found._replace(probabilities=found.probabilities + offset))


def test_an_int8_engine_is_compared_with_its_own_file(int8_bundle: Bundle) -> None:
    """The offset is too large for two roundings to the same 8 bits, though within the tolerance of INT8 against FP32."""
    predictor = reference_predictor(int8_bundle.file("model.int8.onnx"))

    def report(precision: str, by: float) -> list[str]:
        engine = OffBy(predictor, by)
        found = verify_engine(
            int8_bundle,
            engine,  # type: ignore[arg-type]
            samples=int8_bundle.samples(),
            precision=precision,
            batch_size=1,
            name="x.plan",
        )
        assert (found.source is not None) is (precision == "int8") is ("source" in found.to_json())
        return found.failures()

    off = 0.12
    assert FILE_TOLERANCES["int8"].p99_probability < off < INT8_TOLERANCE.p99_probability  # type: ignore[operator]
    assert report("int8", 0.0) == report("fp32", 0.0) == []
    failures = report("int8", off)
    assert failures and all(
        text.startswith("against model.int8.onnx in ONNX Runtime on the CPU, not optimised: ") for text in failures
    )
