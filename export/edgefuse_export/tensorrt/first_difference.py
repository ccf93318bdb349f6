"""Names the first layer of an engine whose output differs from ONNX Runtime's, for an engine with all intermediate tensors as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Samples
from edgefuse.contract import DEPTH_INPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract
from edgefuse.errors import require
from edgefuse.evaluation.compare_outputs import edge_cases
from edgefuse_export.ort_reference import reference_session
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.engine_cache import PlanKey

DIFFERENCES = {"fp32": 0.01, "fp16": 0.05, "int8": 0.25}
"""Precision -> a difference of two tensors, relative to the largest magnitude in the tensor, that rounding does not explain."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Values = Mapping[str, NDArray[Any]]


class TracedEngine(Engine, Protocol):
    """An engine whose additional outputs can be read."""

    def extra_outputs(self) -> dict[str, NDArray[Any]]:
        """Name -> values of the last run."""

    def __enter__(self) -> TracedEngine: ...


def first_difference(
    engine: TracedEngine,
    *,
    onnx_path: Path,
    marked: Mapping[str, str],
    samples: Samples,
    contract: InputContract,
    key: PlanKey,
) -> str:
    """The layer where the difference starts, on the frame whose probabilities differ most, as a sentence.

    Args:
        engine: open, built from `onnx_path`.
        marked: its additional outputs: tensor -> layer, in topological order.
        key: of the engine.

    Raises:
        MissingPackageError: no onnx, which adds the same outputs to the file.
    """
    onnx = require(
        "onnx", extra="export", hint="The intermediate values of the engine are compared with those of the ONNX file"
    )
    model = onnx.load(str(onnx_path))
    computed = {name for node in model.graph.node for name in node.output} - {one.name for one in model.graph.output}
    names = [name for name in marked if name in computed]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = reference_session(model.SerializeToString())
    outputs = [PROBABILITIES_OUTPUT, *names]
    runs: list[tuple[float, str, Values, Values]] = []
    for name, pair in _frames(samples, contract).items():
        rgb, depth = (np.repeat(array, key.batch_size, axis=0) for array in pair)
        expected: Values = dict(zip(outputs, session.run(outputs, {RGB_INPUT: rgb, DEPTH_INPUT: depth}), strict=True))
        probabilities = engine.run(rgb, depth).probabilities
        off = _difference(expected[PROBABILITIES_OUTPUT], probabilities)
        runs.append((off, name, expected, engine.extra_outputs()))
    _, case, expected, found = max(runs, key=lambda run: run[0])
    limit = DIFFERENCES[key.precision]
    for name in names:  # in topological order, so the inputs of the first that differs agree
        off = _difference(expected[name], found[name])
        if off > limit:
            how = "is NaN or infinite" if np.isinf(off) else f"differs by {off:.2g} of its largest value"
            return (
                f"The difference starts at the layer {marked[name]}: its output {name} {how} ({case}), its inputs agree"
            )
    return f"No intermediate tensor differs by more than {limit:g} of its largest value ({case})"


def _frames(samples: Samples, contract: InputContract) -> dict[str, Pair]:
    frames = {f"sample {i}": (samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))}
    return {**frames, **edge_cases(samples.rgb[:1], samples.depth[:1], contract=contract)}


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference relative to the largest expected magnitude; infinite if only one of both is finite somewhere."""
    finite = np.isfinite(expected)
    if expected.shape != found.shape or not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    one, other = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-6))
