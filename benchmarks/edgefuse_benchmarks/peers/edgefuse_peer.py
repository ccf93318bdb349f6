"""edgefuse itself: `edgefuse.Classifier` on one engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Outputs
from edgefuse.evaluation.compare_outputs import ENGINE_TOLERANCES, FP32_TOLERANCE
from edgefuse.framing import centre_square
from edgefuse_benchmarks.peers.peer import NUM_THREADS, Peer, Source
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines import GPU_WORDS, open_engine
from edgefuse_runtime.engines.measured_times import MEASURED
from edgefuse_runtime.engines.openvino_parity import OPENVINO_TOLERANCES
from edgefuse_runtime.predict import Prediction

WORDS = ("cpu", *(word for word in MEASURED if word != "cpu"), *GPU_WORDS)
"""Values of `--engine` that are tried; the first is the reference of the comparison."""
_LIBRARIES = {"openvino": "OpenVINO", "cpu": "ONNX Runtime", "cuda": "ONNX Runtime CUDA", "rtx": "TensorRT-RTX"}


def name_of(word: str) -> str:
    """Such as "edgefuse, OpenVINO bf16" for "openvino:bf16"."""
    library, _, precision = word.partition(":")
    return f"edgefuse, {_LIBRARIES.get(library, 'TensorRT')}{f' {precision}' if precision else ''}"


def word_of_auto(source: Source) -> str:
    """Which of `WORDS` `--engine auto` runs on this machine."""
    with open_engine(source.bundle, num_threads=NUM_THREADS) as engine:
        found = engine.description
    if found["engine"] == "openvino":
        return f"openvino:{found['precision']}"
    if found["engine"] == "onnxruntime":
        return "cuda" if "CUDA" in found["provider"] else "cpu"
    return str(found["engine"])


@contextmanager
def classifier(source: Source, *, word: str) -> Iterator[Peer]:
    """The classifier on the engine `word`.

    Raises:
        UserError: the engine is not installed, or does not run the bundle.
    """
    precision = word.partition(":")[2]
    tolerance = OPENVINO_TOLERANCES[precision] if precision else FP32_TOLERANCE
    with Classifier(source.bundle.folder, engine=word, num_threads=NUM_THREADS) as opened:
        if word in GPU_WORDS:
            tolerance = ENGINE_TOLERANCES[opened.engine["precision"]]
        yield Peer(
            classify=partial(_classify, opened),
            outputs=_outputs,
            framed=opened.predict_framed,
            network=partial(opened.predict_framed, source.rgb[:1], source.depth[:1]),
            tolerance=tolerance,
        )


def _classify(opened: Classifier, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Prediction:
    return opened(rgb, depth, roi=centre_square(*depth.shape))


def _outputs(prediction: Prediction) -> Outputs:
    assert prediction.scores is not None
    return Outputs(prediction.scores[np.newaxis], np.zeros((1, 1), np.float32))
