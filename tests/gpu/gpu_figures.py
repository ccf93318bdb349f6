"""How far an engine is from a bundle's stored answers: the figures that the tests on a GPU check and record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.predictor import engine_predictor

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

Record = Callable[[str, object], None]

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2}
"""Precision -> largest difference in a probability or the gate from torch in FP32 on the CPU."""


def check_engine(engine: Engine, samples: Samples, *, precision: str, record: Record) -> None:
    """Compare with the answers that torch gave at export, and record by how much they differ."""
    probabilities, gate = engine_predictor(engine)(samples.rgb, samples.depth)
    off = float(np.abs(probabilities - samples.probabilities).max())
    gate_off = float(np.abs(gate - samples.gate).max())
    flips = int((probabilities.argmax(1) != samples.probabilities.argmax(1)).sum())
    for name, value in (("probability_off", off), ("gate_off", gate_off), ("top1_flips", flips)):
        record(name, value)
    for name, value in engine.description.items():
        record(name, value)
    assert off <= TOLERANCES[precision] and gate_off <= TOLERANCES[precision]
    assert flips == 0
