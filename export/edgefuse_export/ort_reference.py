"""Runs an ONNX file in ONNX Runtime without graph optimisation, as a reference for comparisons.

Does not require PyTorch: `edgefuse build` uses it on the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, Outputs, outputs_of
from edgefuse.errors import UserError, require
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.files import path_or_bytes
from edgefuse_runtime.engines.engine import padded


def reference_session(model: Path | bytes) -> Any:
    """A session of an ONNX file on the CPU provider, without graph optimisation, on one thread.

    The optimiser would replace operators of the file, and its 8-bit kernels saturate on CPUs without VNNI.

    Raises:
        UserError: the file does not load.
    """
    ort = require("onnxruntime", extra="runtime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = model if isinstance(model, bytes) else path_or_bytes(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        what = "the model" if isinstance(model, bytes) else model
        raise UserError(f"{what} does not load in ONNX Runtime {ort.__version__}, not optimised: {error}") from error


def fixed_batch_of(session: Any) -> int | None:
    """N of a session's inputs; None if it is dynamic."""
    found = session.get_inputs()[0].shape[0]
    return found if isinstance(found, int) else None


def reference_predictor(model: Path | bytes) -> Predictor:
    """A `reference_session` as a predictor, for batches that the file supports, or shorter ones."""
    session = reference_session(model)
    batch_size, names = fixed_batch_of(session), [value.name for value in session.get_outputs()]

    def predict(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
        inputs = {RGB_INPUT: padded(rgb, batch_size), DEPTH_INPUT: padded(depth, batch_size)}
        return outputs_of(dict(zip(names, session.run(names, inputs), strict=True)), num_pairs=len(rgb))

    return predict
