"""Compares OpenVINO's outputs with the model's, when a bundle is opened with it for the first time on a CPU.

The stored frames of the bundle are compared with the outputs of the PyTorch model, the edge cases with ONNX Runtime, with the limits
of an export. The result is kept in the bundle's engine cache, for the ONNX file, the CPU and the version of OpenVINO.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAME, SAMPLES_NAME, Bundle
from edgefuse.contract import Outputs
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import INT8_TOLERANCE, TOLERANCES, edge_cases, joined, report_of
from edgefuse.io.text import quoted
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER
from edgefuse_runtime.engines.first_load import remember, remembered
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine

OPENVINO_TOLERANCES = {**TOLERANCES, "bf16": INT8_TOLERANCE}
"""Those of an export. bfloat16 has 8 significant bits, as INT8: measured on two runs of gestures with MobileNetV2, 99th percentiles
of 0.05 and 0.12, while INT8 in ONNX Runtime had 0.15 and 0.12."""

_log = logging.getLogger(__name__)


class UnsupportedPrecisionError(UserError):
    """The CPU has no instructions for the precision."""


class NoSamplesError(UserError):
    """The bundle has no frames to compare on: an older version exported it."""


class OutputsDifferError(UserError):
    """OpenVINO runs the file, but its outputs are not those of the model."""


def check_has_samples(bundle: Bundle) -> None:
    """Refuse a bundle whose outputs cannot be compared.

    Raises:
        NoSamplesError: it has no samples.
    """
    if SAMPLES_NAME not in bundle.manifest.files:
        raise NoSamplesError(
            f"{bundle.folder} has no {SAMPLES_NAME}, so OpenVINO's outputs cannot be compared. Export the run again: "
            f"edgefuse export RUN --out {quoted(bundle.folder)} --force"
        )


def check_first_open(
    bundle: Bundle,
    run: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Decision],
    *,
    file: str,
    precision: str,
    num_threads: int,
    library: str,
    cpu: str,
) -> dict[str, Any]:
    """Compare the outputs, unless they were compared by an earlier start.

    Args:
        run: runs the file on OpenVINO.
        precision: in which it is computed: "fp32", "fp16", "bf16" or "int8".
        num_threads: of the engine; OpenVINO chooses other kernels for other numbers.
        library: name and version of OpenVINO.
        cpu: see `cpu_id`.

    Returns:
        JSON values: when they were compared, and the differences.

    Raises:
        OutputsDifferError: they differ by more than an export allows.
        UserError: the samples are damaged, or ONNX Runtime is not installed.
    """
    samples, checked = bundle.manifest.files.get(SAMPLES_NAME), _file_of(bundle, file, precision, num_threads, cpu)
    of = {
        "library": library,
        "cpu": cpu,
        "file_sha256": bundle.manifest.files[file].sha256,
        "samples_sha256": samples.sha256 if samples else "",
    }
    found, when = remembered(checked, of), "at an earlier start"
    if found is None:
        _log.info("%s in %s is new on this CPU for OpenVINO: comparing its outputs", file, precision)
        found, when = _compare(bundle, run, precision=precision), "at this start"
        remember(checked, of, found)
    if found.get("failures"):
        raise OutputsDifferError(
            f"OpenVINO's outputs of {bundle.folder}/{file} in {precision} differ from the model's: "
            f"{'; '.join(map(str, found['failures']))}. Use another precision or engine: --engine openvino:fp32, or cpu"
        )
    return {"compared": when, **found}


def _file_of(bundle: Bundle, file: str, precision: str, num_threads: int, cpu: str) -> Path:
    return bundle.folder / ENGINES_FOLDER / f"{Path(file).stem}.openvino-{precision}-{num_threads}.{cpu}.checked.json"


def _compare(
    bundle: Bundle, run: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Decision], *, precision: str
) -> dict[str, Any]:
    """The differences, and those above the limits as text."""
    samples = bundle.samples()
    stored = Outputs(samples.probabilities, samples.gate, samples.nearest_m)
    pairs = [(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))]
    outputs = {"stored outputs": (stored, joined([run(*pair).outputs for pair in pairs]))}
    with OnnxRuntimeEngine(bundle, file=MODEL_NAME) as reference:
        for name, pair in edge_cases(*pairs[0], contract=bundle.manifest.contract).items():
            outputs[name] = reference.run(*pair).outputs, run(*pair).outputs
    tolerance, num_frames = OPENVINO_TOLERANCES[precision], len(pairs) + len(outputs) - 1
    if tolerance.flips_fraction:  # 3 % of 27 frames would be none
        tolerance = replace(tolerance, flips_fraction=max(tolerance.flips_fraction, 1 / num_frames))
    report = report_of(outputs, reference="the model", candidate="OpenVINO", tolerance=tolerance)
    together = report.together
    return {
        "num_frames": num_frames,
        "max_probability_difference": together.max_probability_difference,
        "p99_probability_difference": together.p99_probability_difference,
        "max_gate_difference": together.max_gate_difference,
        "top1_flips": together.top1_flips,
        "failures": report.failures(),
    }
