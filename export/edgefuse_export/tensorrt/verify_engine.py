"""Does a plan that was just built give the answers of its bundle? Compared on the frames that the bundle carries for this.

TensorRT may miscompile (its issues #4748: all NaN in FP16, #4730: the same command, other results), so every build is checked:
against the outputs that were stored at export, and against ONNX Runtime on the same frames and on the edge cases; an INT8 engine
also against the INT8 file that it was built from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAME, MODEL_NAMES, Bundle, Samples
from edgefuse.evaluation.metrics import Predictor
from edgefuse_export.compare_outputs import TOLERANCES, ParityReport, Tolerance, check_parity
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.engine import Engine

ENGINE_TOLERANCES = {**TOLERANCES, "fp32": Tolerance(probability=1e-3, gate=1e-3)}
"""From FP32 on the CPU. FP32 on a GPU has other kernels, such as Winograd's, besides other orders of sums."""

FILE_TOLERANCES = {"int8": Tolerance(probability=0.15, gate=0.15, p99_probability=0.075, flips_fraction=0.02)}
"""Precision -> differences of the engine from ONNX Runtime, not optimised, on the very file the engine was built from.

Both then round to the same 8 bits, so they differ by values that fall on the other side of a rounding border and what follows from
that. Two sessions of ONNX Runtime, optimised and not, differ so by 0.065 (99th percentile 0.041, gate 0.063, no flip; MobileNetV2 on
gestures); TensorRT is untried. Only INT8: FP32's file is the reference already, and ONNX Runtime's CPU provider does not round to half."""


def verify_engine(
    bundle: Bundle, engine: Engine, *, samples: Samples, precision: str, batch_size: int, name: str
) -> ParityReport:
    """Compare an open engine with the stored outputs, and with ONNX Runtime on the same frames and the edge cases.

    Args:
        batch_size: N of the engine; each frame is run in a batch whose other places are black.
        name: of the engine, for the report.
    """
    candidate = _placed_in_batches(engine, batch_size=batch_size)
    answers = [candidate(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))]
    found = np.concatenate([p for p, _ in answers]), np.concatenate([g for _, g in answers])

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

    stored = (samples.probabilities, samples.gate), found
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


def _placed_in_batches(engine: Engine, *, batch_size: int) -> Predictor:
    """Answers about single pairs by an engine of batch N: the pair takes the next place of a black batch each time."""
    turn = 0

    def answer(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        nonlocal turn
        place = turn % batch_size
        turn += 1
        batch_rgb = np.zeros((batch_size, *rgb.shape[1:]), np.uint8)
        batch_depth = np.zeros((batch_size, *depth.shape[1:]), np.uint8)
        batch_rgb[place], batch_depth[place] = rgb[0], depth[0]
        decision = engine.run(batch_rgb, batch_depth)
        return decision.probabilities[place : place + 1], decision.gate[place : place + 1]

    return answer
