"""How far an engine is from a bundle's stored answers: the figures that the tests on a GPU check and record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgefuse.contract import DEPTH_UNIT_M
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.predict import predict_framed

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

Record = Callable[[str, object], None]

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.3}
"""Precision -> largest difference in a probability or the gate from torch in FP32 on the CPU; as `build` allows it."""


def check_engine(engine: Engine, samples: Samples, *, precision: str, record: Record) -> None:
    """Compare with the answers that torch gave at export, and record by how much they differ."""
    probabilities, gate, nearest_m = predict_framed(engine, samples.rgb, samples.depth)
    off = float(np.abs(probabilities - samples.probabilities).max())
    gate_off = float(np.abs(gate - samples.gate).max())
    answered = np.take_along_axis(samples.probabilities, probabilities.argmax(1)[:, np.newaxis], axis=1)[:, 0]
    # A flip between classes that are nearer to each other than the tolerance is a draw.
    flips = int((samples.probabilities.max(1) - answered > TOLERANCES[precision]).sum())
    if nearest_m is not None and samples.nearest_m is not None:
        nearest_off_m = float(np.abs(nearest_m - samples.nearest_m).max())
        record("nearest_off_m", nearest_off_m)
        assert nearest_off_m <= DEPTH_UNIT_M
    for name, value in (("probability_off", off), ("gate_off", gate_off), ("top1_flips", flips)):
        record(name, value)
    for name, value in engine.description.items():
        record(name, value)
    assert off <= TOLERANCES[precision] and gate_off <= TOLERANCES[precision]
    assert flips == 0
