"""An ONNX file on ONNX Runtime as it stands, without the optimiser: what proofs compare with. Needs no torch: `build` runs on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT
from edgefuse.errors import UserError, require
from edgefuse.evaluation.metrics import Predictor
from edgefuse_runtime.engines.engine import padded


def reference_session(model: Path | bytes) -> Any:
    """An ONNX file on ONNX Runtime's CPU provider as it stands, on one thread.

    Unoptimised because the optimiser is no part of the file, and its quick 8-bit kernels saturate on CPUs without VNNI.

    Raises:
        UserError: it does not load.
    """
    ort = require("onnxruntime", extra="runtime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        what = "the model" if isinstance(model, bytes) else model
        raise UserError(f"{what} does not load in ONNX Runtime {ort.__version__}, not optimised: {error}") from error


def fixed_batch_of(session: Any) -> int | None:
    """N of a session's inputs; None where the file leaves it open."""
    found = session.get_inputs()[0].shape[0]
    return found if isinstance(found, int) else None


def reference_predictor(model: Path | bytes) -> Predictor:
    """The same as a predictor for batches that the file takes, or shorter ones."""
    session = reference_session(model)
    batch_size = fixed_batch_of(session)

    def answer(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = {RGB_INPUT: padded(rgb, batch_size), DEPTH_INPUT: padded(depth, batch_size)}
        probabilities, gate = session.run([PROBABILITIES_OUTPUT, GATE_OUTPUT], inputs)
        return probabilities[: len(rgb)], gate[: len(rgb)]

    return answer
