"""Compares an exported file on OpenVINO with the PyTorch model, in each precision that this CPU computes it in.

A difference does not end the export: `--engine auto` then runs ONNX Runtime. It is logged and kept in the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgefuse.bundle import MODEL_NAMES
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import ParityReport
from edgefuse.evaluation.metrics import Predictor
from edgefuse.progress import Progress, no_progress, step
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.openvino_parity import UnsupportedPrecisionError

_COMPUTED_IN = {"fp32": ("fp32", "bf16"), "int8": ("int8",)}
"""Precision of a file -> those of `--engine openvino:PRECISION` that run it."""

_log = logging.getLogger(__name__)


def compare_on_openvino(
    folder: Path,
    precision: str,
    report: Callable[[str, Predictor, str], ParityReport],
    *,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare the file of a precision in an unfinished bundle.

    Args:
        report: compares a predictor with the model: (precision, predictor, name of the predictor).

    Returns:
        "openvino" -> precision of the computation -> the differences, and `failures`, as JSON values; empty if OpenVINO is not
        installed or does not run the file.
    """
    if find_spec("openvino") is None:
        return {}
    found: dict[str, Any] = {}
    for computed_in in _COMPUTED_IN.get(precision, ()):
        name = f"{MODEL_NAMES[precision]} in OpenVINO, {computed_in}"
        try:
            with (
                step(progress, f"comparing {name}"),
                Classifier(folder, engine=f"openvino:{computed_in}") as classifier,
            ):
                compared = report(computed_in, classifier.predict_framed, name)
        except UnsupportedPrecisionError:
            continue
        except UserError as error:
            found[computed_in] = {"failures": [str(error)]}
        else:
            found[computed_in] = {"together": compared.to_json()["together"], "failures": compared.failures()}
        if failures := found[computed_in]["failures"]:
            _log.warning("%s: --engine auto will not run it, because its outputs differ: %s", name, "; ".join(failures))
    return {"openvino": found} if found else {}
