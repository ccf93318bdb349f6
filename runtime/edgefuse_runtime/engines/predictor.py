"""An engine as an `edgefuse.evaluation.metrics.Predictor`: whole batches through an engine that decides about one pair at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Predictor
from edgefuse_runtime.engines.engine import Engine


def engine_predictor(engine: Engine) -> Predictor:
    """Answers batches of any size with an open `engine`.

    Raises (when it is called):
        UserError: an answer has NaN or infinity in it, which would be taken for the first class.
    """

    def answer(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        decisions = [engine.run(rgb[i : i + 1], depth[i : i + 1]) for i in range(len(rgb))]
        num_bad = sum(not decision.is_finite for decision in decisions)
        if num_bad:
            file = engine.description.get("file", "the model")
            raise UserError(
                f"{file} answered NaN or infinity for {num_bad} of {len(decisions)} pairs: half precision overflows, or the "
                f"weights are spoilt; check it with edgefuse check-onnx, or export again with --precision fp32"
            )
        return np.concatenate([d.probabilities for d in decisions]), np.concatenate([d.gate for d in decisions])

    return answer
