"""Which parts of a model stay in FP32 so that a file of lower precision keeps the answers. Owns blocks and their choice.

A block is a part of the model that is worth deciding about, such as a stage of a backbone. Each is put into the lower precision
alone, on real frames and the edge cases; its drift is how much of what the tolerance allows the answers then move. The blocks of
largest drift are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from edgefuse.contract import InputContract
from edgefuse.evaluation.metrics import Predictor
from edgefuse.progress import Progress, no_progress
from edgefuse_export.compare_outputs import Tolerance, compare_outputs, edge_cases, joined
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside

MAX_LAYERS = 4
"""Convolutions and matrix products of a block at most: a bottleneck of ResNet or MobileNetV2 is one block."""

MAX_KEPT_FRACTION = 1 / 2
"""Of all blocks, how many may be kept without being asked for: a file that needs more is not in the precision it is named after."""

NUM_FRAMES = 16
"""Real frames that drifts are measured on, besides the edge cases."""

Proof = TypeVar("Proof")


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[Proof]):
    """What came of choosing.

    Attributes:
        proof: of the model with `blocks` in FP32.
        holds: it passed.
        blocks: what was kept without being asked for, the largest drift first.
        drift: block -> share of the tolerance that it uses up alone, largest first; empty where nothing had to be measured.
    """

    proof: Proof
    holds: bool
    blocks: tuple[str, ...] = ()
    drift: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """What a manifest says of it; nothing where nothing had to be measured."""
        if not self.drift:
            return {}
        return {"kept_by_drift": list(self.blocks), "drift": {name: round(x, 4) for name, x in self.drift.items()}}

    def in_words(self) -> str:
        """Which blocks were kept, and how far each moves the answers."""
        return ", ".join(f"{name} ({self.drift[name]:.0%} of the tolerance)" for name in self.blocks)

    def next_step(self, asked: Sequence[str]) -> str:
        """What to type where it does not hold: the half of the blocks that drifts most, after what was asked for."""
        if not self.drift:
            return ""
        most = list(self.drift)[: max(len(self.blocks) + 1, len(self.drift) // 2)]
        tried = f"this is with {self.in_words()} in FP32 already" if self.blocks else "nothing was kept in FP32 for it"
        options = " ".join(f"--keep-fp32 '{name}'" for name in (*asked, *most))
        return f"the answers drift most in {', '.join(most[:3])}; {tried}\nKeep more in FP32: {options}"


def blocks_of(model: nn.Module, *, outside: Sequence[str]) -> tuple[str, ...]:
    """The largest parts of at most `MAX_LAYERS` layers each, in the order of the model, by their module names.

    Args:
        outside: modules that are in FP32 anyhow; with their parts they are in no block.
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


def measure_drift(
    blocks: Sequence[str],
    *,
    frames: Frames,
    contract: InputContract,
    tolerance: Tolerance,
    reference: Predictor,
    alone: Callable[[str], Predictor],
    progress: Progress = no_progress,
) -> dict[str, float]:
    """How much of the tolerance one block at a time uses up, when it alone is in the lower precision.

    Args:
        frames: real ones; up to `NUM_FRAMES` of them are taken, spread over all, and the edge cases besides.
        reference: the FP32 model.
        alone: block -> the model with that block alone in the lower precision.
        progress: called with the blocks measured and their number.

    Returns:
        Block -> the largest of its differences, each as a share of what is allowed; largest first. What is not finite
        counts as infinite.
    """
    some = frames.spread(NUM_FRAMES)
    pairs = [(some.rgb[i : i + 1], some.depth[i : i + 1]) for i in range(len(some.rgb))]
    pairs += list(edge_cases(some.rgb[:1], some.depth[:1], contract=contract).values())
    expected = [reference(*pair) for pair in pairs]
    drift = {}
    for number, block in enumerate(blocks, start=1):
        predictor = alone(block)
        found = joined([predictor(*pair) for pair in pairs])
        case = compare_outputs(block, expected=joined(expected), found=found, draw_margin=tolerance.draw_margin)
        fractions = [case.max_probability_difference / tolerance.probability, case.max_gate_difference / tolerance.gate]
        if tolerance.p99_probability is not None:
            fractions.append(case.p99_probability_difference / tolerance.p99_probability)
        drift[block] = math.inf if case.num_not_finite else max(fractions)
        progress(number, len(blocks))
    return dict(sorted(drift.items(), key=lambda item: -item[1]))


def keep_until_it_holds(
    prove: Callable[[tuple[str, ...]], Proof],
    *,
    holds: Callable[[Proof], bool],
    measure: Callable[[], dict[str, float]],
    worth_it: Callable[[Proof], bool] = lambda proof: True,
) -> Kept[Proof]:
    """Prove a model, with more and more blocks in FP32 until the proof holds.

    After the first proof it goes on where the rest of the blocks, as independent errors, should be within the tolerance.

    Args:
        prove: blocks in FP32 -> the proof.
        measure: the drift of each block, largest first; not called where the proof holds at once.
        worth_it: could keeping blocks mend it?

    Returns:
        The first proof that holds; else the last one, with up to `MAX_KEPT_SHARE` of the blocks kept.
    """
    proof = prove(())
    if holds(proof) or not worth_it(proof):
        return Kept(proof=proof, holds=holds(proof), drift={})
    drift = measure()
    ranked = tuple(drift)[: max(1, int(len(drift) * MAX_KEPT_FRACTION))]
    left = [math.hypot(*list(drift.values())[count:]) for count in range(len(ranked) + 1)]
    count = next((count for count in range(1, len(ranked)) if left[count] <= 1), len(ranked))
    while True:
        proof = prove(ranked[:count])
        if holds(proof) or count == len(ranked):
            return Kept(proof=proof, holds=holds(proof), blocks=ranked[:count], drift=drift)
        count = min(max(count + 1, count * 5 // 4), len(ranked))
