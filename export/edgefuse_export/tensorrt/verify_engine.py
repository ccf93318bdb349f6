"""Compares the outputs of a new engine with those of its bundle.

TensorRT may miscompile (its issues #4748: all NaN in FP16; #4730: other results from the same command), so every build is compared
with the outputs that were stored at export, and with ONNX Runtime on the same frames and on the edge cases; an INT8 engine also with
the INT8 file that it was built from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAME, MODEL_NAMES, Bundle, Samples
from edgefuse.contract import Outputs
from edgefuse.evaluation.compare_outputs import ENGINE_TOLERANCES, ParityReport, Tolerance, check_parity, joined
from edgefuse.evaluation.metrics import Predictor
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.engine import Engine

FILE_TOLERANCES = {"int8": Tolerance(probability=0.15, gate=0.15, p99_probability=0.075, flips_fraction=0.02)}
"""Precision -> differences of the engine from unoptimised ONNX Runtime on the file that the engine was built from.

Both round to the same 8 bits, so they differ only where a value is rounded the other way. Two sessions of ONNX Runtime, optimised
and not, differ by 0.065 (99th percentile 0.041, gate 0.063, no flip; MobileNetV2 on gestures); TensorRT is untried. Only INT8: the
FP32 file is the reference in any case, and ONNX Runtime's CPU provider does not round to FP16."""


def verify_engine(
    bundle: Bundle, engine: Engine, *, samples: Samples, precision: str, batch_size: int, name: str
) -> ParityReport:
    """Compare an open engine with the stored outputs, and with ONNX Runtime on the same frames and the edge cases.

    Args:
        batch_size: N of the engine; each frame is run in a batch whose other images are black.
        name: of the engine, for the report.
    """
    candidate = _in_batches(engine, batch_size=batch_size)
    found = joined([candidate(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))])

    def report_against(reference: Predictor, what: str, tolerance: Tolerance, **more: Any) -> ParityReport:
        return check_parity(
            reference=reference,
            candidate=candidate,
            reference_name=what,
            candidate_name=name,
            rgb=samples.rgb,
            depth=samples.depth,
            contract=bundle.manifest.contract,
            tolerance=tolerance,
            **more,
        )

    stored = Outputs(samples.probabilities, samples.gate, samples.nearest_m), found
    with Classifier(bundle.folder, file=MODEL_NAME, engine="cpu") as reference:
        what = f"{MODEL_NAME} in ONNX Runtime on the CPU"
        tolerance = ENGINE_TOLERANCES[precision]
        report = report_against(reference.predict_framed, what, tolerance, further={"stored outputs": stored})
    if precision not in FILE_TOLERANCES:
        return report
    file = MODEL_NAMES[precision]
    what = f"{file} in ONNX Runtime on the CPU, not optimised"
    source = report_against(reference_predictor(bundle.file(file)), what, FILE_TOLERANCES[precision])
    return replace(report, source=source)


def _in_batches(engine: Engine, *, batch_size: int) -> Predictor:
    """A predictor of single pairs for an engine of batch N: each call puts the pair at the next index of a black batch."""
    call = 0

    def predict(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
        nonlocal call
        index = call % batch_size
        call += 1
        batch_rgb = np.zeros((batch_size, *rgb.shape[1:]), np.uint8)
        batch_depth = np.zeros((batch_size, *depth.shape[1:]), np.uint8)
        batch_rgb[index], batch_depth[index] = rgb[0], depth[0]
        return engine.run(batch_rgb, batch_depth).rows(index, index + 1).outputs

    return predict
