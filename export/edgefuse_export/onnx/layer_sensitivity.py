"""Selects the blocks of a model that stay in FP32 so that a file of lower precision passes its tolerance.

A block is a module with a few layers, such as a bottleneck of a backbone. Its sensitivity is measured by running it alone in the
lower precision, on real frames and on the edge cases: the largest change of the outputs, as a fraction of the tolerance. The
most sensitive blocks stay in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from edgefuse.contract import InputContract, Outputs
from edgefuse.evaluation.compare_outputs import Tolerance, compare_outputs, edge_cases, joined
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.workers import map_in_threads
from edgefuse.progress import Progress, no_progress
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside

MAX_LAYERS = 4
"""Most convolutions and linear layers of a block: a bottleneck of ResNet or MobileNetV2 is one block."""

MAX_FP32_FRACTION = 1 / 2
"""Most blocks that the search keeps in FP32, as a fraction of all: a file with more would hardly be FP16 or INT8."""

NUM_FRAMES = 16
"""Real frames that sensitivity is measured on, in addition to the edge cases."""

Evaluation = TypeVar("Evaluation")


@dataclass(frozen=True, kw_only=True)
class Fp32Selection(Generic[Evaluation]):
    """The blocks that stay in FP32, and the comparison of the model that has them.

    Attributes:
        evaluation: what `evaluate` returned for the model with `blocks` in FP32.
        passes: the evaluation passes.
        blocks: the blocks that the search keeps in FP32, the most sensitive first; without those that the user named.
        sensitivity: block -> fraction of the tolerance that it uses up alone, largest first; empty if no search was needed.
    """

    evaluation: Evaluation
    passes: bool
    blocks: tuple[str, ...] = ()
    sensitivity: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The manifest's entries; none if no search was needed."""
        if not self.sensitivity:
            return {}
        return {
            "kept_by_drift": list(self.blocks),
            "drift": {name: round(value, 4) for name, value in self.sensitivity.items()},
        }

    def describe(self) -> str:
        """The blocks with their sensitivity, as text."""
        return ", ".join(f"{name} ({self.sensitivity[name]:.0%} of the tolerance)" for name in self.blocks)

    def next_step(self, requested: Sequence[str]) -> str:
        """The options to try next if the evaluation fails: `requested`, and the more sensitive half of the blocks."""
        if not self.sensitivity:
            return ""
        most = list(self.sensitivity)[: max(len(self.blocks) + 1, len(self.sensitivity) // 2)]
        tried = f"already in FP32: {self.describe()}" if self.blocks else "no block is in FP32 yet"
        options = " ".join(f"--keep-fp32 '{name}'" for name in (*requested, *most))
        return f"the most sensitive blocks are {', '.join(most[:3])}; {tried}\nKeep more in FP32: {options}"


def find_blocks(model: nn.Module, *, outside: Sequence[str]) -> tuple[str, ...]:
    """Names of the largest modules with at most `MAX_LAYERS` layers each, in the order of the model.

    Args:
        outside: modules that are in FP32 in any case; neither they nor their submodules are in a block.
    """
    found: list[str] = []
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        num_layers = sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in module.modules())
        if not num_layers or (name and inside(name, outside)):
            continue
        holds_fp32 = any(inside(kept, (name,)) for kept in outside)
        if name and not holds_fp32 and (num_layers <= MAX_LAYERS or not list(module.children())):
            found.append(name)
        else:
            children = [(f"{name}.{child}".lstrip("."), part) for child, part in module.named_children()]
            waiting += reversed(children)
    return tuple(found)


def measure_sensitivity(
    blocks: Sequence[str],
    *,
    frames: Frames,
    contract: InputContract,
    tolerance: Tolerance,
    reference: Predictor,
    alone: Callable[[str], Predictor],
    batch_size: int = 1,
    num_threads: int = 1,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Fraction of the tolerance that each block uses up when it alone is in the lower precision.

    Args:
        frames: real frames; up to `NUM_FRAMES` of them are used, evenly spaced, and the edge cases.
        reference: the FP32 model.
        alone: block -> the model with only that block in the lower precision.
        batch_size: frames that it predicts at once.
        num_threads: blocks that are measured at the same time.
        progress: called with (blocks measured, blocks in total).

    Returns:
        Block -> its largest difference as a fraction of the tolerance, largest first; infinity if an output is not finite.
    """
    some = frames.spread(NUM_FRAMES)
    cases = edge_cases(some.rgb[:1], some.depth[:1], contract=contract).values()
    rgb = np.concatenate([some.rgb, *(case[0] for case in cases)])
    depth = np.concatenate([some.depth, *(case[1] for case in cases)])

    def answers(predictor: Predictor) -> Outputs:
        starts = range(0, len(rgb), batch_size)
        return joined([predictor(rgb[i : i + batch_size], depth[i : i + batch_size]) for i in starts])

    expected = answers(reference)

    def fraction(block: str) -> float:
        found = answers(alone(block))
        case = compare_outputs(block, expected=expected, found=found, near_tie_margin=tolerance.draw_margin)
        fractions = [case.max_probability_difference / tolerance.probability, case.max_gate_difference / tolerance.gate]
        if tolerance.p99_probability is not None:
            fractions.append(case.p99_probability_difference / tolerance.p99_probability)
        return math.inf if case.num_not_finite else max(fractions)

    sensitivity = {}
    for block, found in zip(blocks, map_in_threads(fraction, blocks, num_threads=num_threads), strict=True):
        sensitivity[block] = found
        progress(len(sensitivity), len(blocks))
    return dict(sorted(sensitivity.items(), key=lambda item: -item[1]))


def select_fp32_blocks(
    evaluate: Callable[[tuple[str, ...]], Evaluation],
    *,
    passes: Callable[[Evaluation], bool],
    measure: Callable[[], dict[str, float]],
    can_improve: Callable[[Evaluation], bool] = lambda evaluation: True,
) -> Fp32Selection[Evaluation]:
    """Keep more and more blocks in FP32 until the model passes.

    The second attempt keeps enough blocks for the others, as independent errors, to be within the tolerance.

    Args:
        evaluate: blocks in FP32 -> the evaluation.
        passes: whether an evaluation passes.
        measure: the sensitivity of each block, largest first; not called if the first evaluation passes.
        can_improve: whether FP32 blocks could make a failed evaluation pass.

    Returns:
        The first evaluation that passes; else the last one, with up to `MAX_FP32_FRACTION` of the blocks in FP32.
    """
    evaluation = evaluate(())
    if passes(evaluation) or not can_improve(evaluation):
        return Fp32Selection(evaluation=evaluation, passes=passes(evaluation), sensitivity={})
    sensitivity = measure()
    ranked = tuple(sensitivity)[: max(1, int(len(sensitivity) * MAX_FP32_FRACTION))]
    left = [math.hypot(*list(sensitivity.values())[count:]) for count in range(len(ranked) + 1)]
    count = next((count for count in range(1, len(ranked)) if left[count] <= 1), len(ranked))
    while True:
        evaluation = evaluate(ranked[:count])
        if passes(evaluation) or count == len(ranked):
            return Fp32Selection(
                evaluation=evaluation, passes=passes(evaluation), blocks=ranked[:count], sensitivity=sensitivity
            )
        count = min(max(count + 1, count * 5 // 4), len(ranked))
