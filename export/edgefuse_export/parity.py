"""Does the exported file give the answers of the torch model? Owns the edge cases, the comparison and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE, InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.evaluation import Predictor


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest differences that pass.

    Attributes:
        probability, gate: of any single value.
        p99_probability: of the 99th percentile over all probabilities of a case; None = `probability` bounds it already.
        top1_flips: samples whose answer changes. A flip counts only where the reference's two best classes are
            further apart than `probability`; nearer than that they are a draw.
    """

    probability: float
    gate: float
    p99_probability: float | None = None
    top1_flips: int = 0


FP32_TOLERANCE = Tolerance(probability=1e-4, gate=1e-4)
"""Two FP32 implementations differ by the order of their sums only: 1e-6 is usual."""

FP16_TOLERANCE = Tolerance(probability=0.02, gate=0.01, p99_probability=0.01)
"""Half has 11 significant bits, so each of some twenty layers rounds by up to 0.05 %. A logit of 10 then moves by about 0.02,
a probability by at most a quarter of that, a gate as well. Measured on the built-in set: 0.002 and 0.0004; the limits leave
deeper networks room, and are far below what a layer that overflows or loses depth would do."""

INT8_TOLERANCE = Tolerance(probability=0.3, gate=0.15, p99_probability=0.1)
"""8 bits round each activation by up to 0.4 % of its range. Measured on the built-in set: 0.05 and 0.03. A single frame near a
border between classes may move far, most must not: so the 99th percentile has the tight limit. Accuracy is what decides
about INT8: `edgefuse evaluate BUNDLE DATA --file model.int8.onnx`."""

TOLERANCES = {"fp32": FP32_TOLERANCE, "fp16": FP16_TOLERANCE, "int8": INT8_TOLERANCE}


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """Figures of one kind of input; `draws_flipped` are changed answers between classes that were as good as equal."""

    name: str
    num_samples: int
    max_probability_difference: float
    p99_probability_difference: float
    max_gate_difference: float
    top1_flips: int
    draws_flipped: int
    num_not_finite: int


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All cases of one file against one reference.

    Attributes:
        activations: what the candidate's intermediate tensors held (`watch.Activations.to_json`), where they were watched.
    """

    reference: str
    candidate: str
    tolerance: Tolerance
    cases: tuple[ParityCase, ...]
    activations: dict[str, Any] | None = None

    def failures(self) -> list[str]:
        """What is over the limits, in words; empty when everything passes. The layer where it began comes first."""
        not_finite = (self.activations or {}).get("not_finite", {})
        found = [f"{where}: {count} intermediate values are NaN or infinite" for where, count in not_finite.items()]
        p99_limit = self.tolerance.p99_probability
        for case in self.cases:
            for what, value, limit in (
                ("probabilities differ by", case.max_probability_difference, self.tolerance.probability),
                (
                    "the 99th percentile of probabilities differs by",
                    case.p99_probability_difference,
                    self.tolerance.probability if p99_limit is None else p99_limit,
                ),
                ("gates differ by", case.max_gate_difference, self.tolerance.gate),
                ("answers that flip:", case.top1_flips, self.tolerance.top1_flips),
                ("values that are not finite:", case.num_not_finite, 0),
            ):
                if not value <= limit:  # also catches a difference that is not a number
                    found.append(f"{case.name}: {what} {value:.3g}, at most {limit:.3g} is allowed")
        return found

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "tolerance": asdict(self.tolerance),
            "cases": [asdict(case) for case in self.cases],
            **({} if self.activations is None else {"activations": self.activations}),
        }


def edge_cases(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], *, contract: InputContract
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The inputs at which decoding goes wrong first, made from one real sample.

    Args:
        rgb, depth: one framed pair, [1, S, S, 3] and [1, S, S, 2].

    Returns:
        name -> (rgb, depth), each of batch 1.
    """

    def every_pixel(code: int) -> NDArray[np.uint8]:
        return bytes_from_codes(np.full(depth.shape[:-1], code, np.uint16))

    far_code = round(contract.far_m * 1000)
    return {
        "no depth": (rgb, np.zeros_like(depth)),
        "depth at its maximum": (rgb, every_pixel(far_code)),
        "depth codes 65535": (rgb, every_pixel(MAX_DEPTH_CODE)),
        "depth codes 1": (rgb, every_pixel(1)),
        "black RGB": (np.zeros_like(rgb), depth),
        "white RGB": (np.full_like(rgb, 255), depth),
        "both sensors dead": (np.zeros_like(rgb), np.zeros_like(depth)),
    }


def check_parity(
    *,
    reference: Predictor,
    candidate: Predictor,
    reference_name: str,
    candidate_name: str,
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint8],
    contract: InputContract,
    tolerance: Tolerance,
) -> ParityReport:
    """Compare two predictors on real samples, one at a time, and on the edge cases.

    Args:
        rgb, depth: framed real samples, uint8 [n, S, S, 3] and [n, S, S, 2].
    """
    if len(rgb) == 0:
        raise UserError("there are no samples to compare on: train again, the run stores some")
    inputs = {"real samples": [(rgb[i : i + 1], depth[i : i + 1]) for i in range(len(rgb))]}
    for name, pair in edge_cases(rgb[:1], depth[:1], contract=contract).items():
        inputs[name] = [pair]
    cases = tuple(
        _compare(name, pairs, reference=reference, candidate=candidate, draw_margin=tolerance.probability)
        for name, pairs in inputs.items()
    )
    return ParityReport(reference=reference_name, candidate=candidate_name, tolerance=tolerance, cases=cases)


def _compare(
    name: str,
    pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    *,
    reference: Predictor,
    candidate: Predictor,
    draw_margin: float,
) -> ParityCase:
    expected = [reference(rgb, depth) for rgb, depth in pairs]
    found = [candidate(rgb, depth) for rgb, depth in pairs]
    return compare_outputs(name, expected=_joined(expected), found=_joined(found), draw_margin=draw_margin)


def _joined(
    answers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.concatenate([p for p, _ in answers]), np.concatenate([g for _, g in answers])


def compare_outputs(
    name: str,
    *,
    expected: tuple[NDArray[np.float32], NDArray[np.float32]],
    found: tuple[NDArray[np.float32], NDArray[np.float32]],
    draw_margin: float,
) -> ParityCase:
    """Compare answers that are already there.

    Args:
        expected, found: probabilities [n, C] and gate [n, d] of the same n inputs.
        draw_margin: where the two best classes are nearer than this, either answer is right.
    """
    (p_expected, g_expected), (p_found, g_found) = expected, found
    difference = np.abs(p_found - p_expected)
    best_two = np.sort(p_expected, axis=1)[:, -2:]
    decided = best_two[:, 1] - best_two[:, 0] > draw_margin
    flips = p_found.argmax(axis=1) != p_expected.argmax(axis=1)
    return ParityCase(
        name=name,
        num_samples=len(p_expected),
        max_probability_difference=float(difference.max()),
        p99_probability_difference=float(np.quantile(difference, 0.99)),
        max_gate_difference=float(np.abs(g_found - g_expected).max()),
        top1_flips=int((flips & decided).sum()),
        draws_flipped=int((flips & ~decided).sum()),
        num_not_finite=int((~np.isfinite(p_found)).sum() + (~np.isfinite(g_found)).sum()),
    )
