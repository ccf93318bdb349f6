"""Does the exported file give the answers of the torch model? Owns the edge cases, the comparison and its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE, InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Predictor

REAL_SAMPLES = "real samples"
NUM_OF_DYNAMIC = 4
"""Pairs in a batch, where a file that takes any number is compared."""

DRAW_MARGIN = 0.05
"""Two classes whose probabilities are nearer than this are a draw: on the next frame of the same scene either may win."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest differences that pass.

    Attributes:
        probability, gate: of any single value.
        p99_probability: of the 99th percentile over the probabilities of all cases together (a single frame has too few for a
            percentile); None = `probability` bounds it already.
        flips_fraction: of all frames, how many may change their answer. A flip counts only where the reference's two best
            classes are further apart than `draw_margin`.
    """

    probability: float
    gate: float
    p99_probability: float | None = None
    flips_fraction: float = 0.0
    draw_margin: float = DRAW_MARGIN

    def num_flips(self, num_frames: int) -> int:
        """How many of that many frames may change their answer."""
        return math.floor(self.flips_fraction * num_frames + 1e-9)


FP32_TOLERANCE = Tolerance(probability=1e-4, gate=1e-4)
"""Two FP32 implementations differ by the order of their sums only: 1e-6 is usual."""

FP16_TOLERANCE = Tolerance(probability=0.02, gate=0.01, p99_probability=0.01)
"""Half has 11 significant bits, so each of some twenty layers rounds by up to 0.05 %. A logit of 10 then moves by about 0.02,
a probability by at most a quarter of that, a gate as well. Measured on the built-in set: 0.002 and 0.0004, on gestures with
MobileNetV2 0.005 and 0.005 (and 0.03 before its most sensitive block was kept); two classes further apart than the draw margin
can then not change places, so accuracy stays."""

INT8_TOLERANCE = Tolerance(probability=0.4, gate=0.4, p99_probability=0.15, flips_fraction=0.03)
"""8 bits round each activation by up to 0.4 % of its range. A single frame near a border between classes may move far, most must
not: so the 99th percentile and the flips have the tight limits, the others only tell a file that is broken. Measured on
gestures (two runs with MobileNetV2, 300 held-out pairs): a 99th percentile of 0.26 and 8 % of flips cost 2 points of accuracy,
0.16 and 5 % cost 0.3. What decides is accuracy: `python -m edgefuse_benchmarks.suites.precision`."""

TOLERANCES = {"fp32": FP32_TOLERANCE, "fp16": FP16_TOLERANCE, "int8": INT8_TOLERANCE}


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """Figures of one kind of input; `near_tie_flips` are changed answers between classes that were as good as equal."""

    name: str
    num_samples: int
    max_probability_difference: float
    p99_probability_difference: float
    max_gate_difference: float
    top1_flips: int
    near_tie_flips: int
    num_not_finite: int


Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Probabilities [n, C] and gate [n, d]."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All cases of one file against one reference.

    Attributes:
        together: the figures over the frames of all cases.
        activations: what the candidate's intermediate tensors held (`watch.Activations.to_json`), where they were watched.
        source: of an engine, the comparison with the very file that it was built from, where there is one.
    """

    reference: str
    candidate: str
    tolerance: Tolerance
    cases: tuple[ParityCase, ...]
    together: ParityCase
    activations: dict[str, Any] | None = None
    source: ParityReport | None = None

    @property
    def is_finite(self) -> bool:
        """No value, intermediate ones included where they were watched, is NaN or infinite."""
        return not (self.activations or {}).get("not_finite") and not self.together.num_not_finite

    def failures(self) -> list[str]:
        """What is over the limits, in words; empty when everything passes. The layer where it began comes first."""
        limits, together = self.tolerance, self.together
        not_finite = (self.activations or {}).get("not_finite", {})
        found = [f"{where}: {count} intermediate values are NaN or infinite" for where, count in not_finite.items()]
        checks = [
            check
            for case in self.cases
            for check in (
                (f"{case.name}: probabilities differ by", case.max_probability_difference, limits.probability),
                (f"{case.name}: gates differ by", case.max_gate_difference, limits.gate),
                (f"{case.name}: values that are not finite:", case.num_not_finite, 0),
            )
        ]
        p99 = limits.probability if limits.p99_probability is None else limits.p99_probability
        percentile = f"{together.name}: the 99th percentile of probabilities differs by"
        flips = f"{together.name}: answers that flip, of {together.num_samples}:"
        checks += [
            (percentile, together.p99_probability_difference, p99),
            (flips, together.top1_flips, limits.num_flips(together.num_samples)),
        ]
        for what, value, limit in checks:
            if not value <= limit:  # also catches a difference that is not a number
                found.append(f"{what} {value:.3g}, at most {limit:.3g} is allowed")
        if self.source is not None:
            found += [f"against {self.source.reference}: {failure}" for failure in self.source.failures()]
        return found

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "tolerance": asdict(self.tolerance),
            "cases": [asdict(case) for case in self.cases],
            "together": asdict(self.together),
            **({} if self.activations is None else {"activations": self.activations}),
            **({} if self.source is None else {"source": self.source.to_json()}),
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
    batch_size: int = 1,
    further: Mapping[str, tuple[Answers, Answers]] | None = None,
) -> ParityReport:
    """Compare two predictors on real samples, one at a time, and on the edge cases.

    Args:
        rgb, depth: framed real samples, uint8 [n, S, S, 3] and [n, S, S, 2].
        batch_size: where it is more than 1, the candidate's answers in batches of so many, the first of them shorter where it does not divide, must be
            those of the reference to the same pairs alone.
        further: name -> answers (expected, found) that are there already; these cases come first.
    """
    if len(rgb) == 0:
        raise UserError("there are no samples to compare on: train again, the run stores some")
    inputs = {REAL_SAMPLES: [(rgb[i : i + 1], depth[i : i + 1]) for i in range(len(rgb))]}
    for name, pair in edge_cases(rgb[:1], depth[:1], contract=contract).items():
        inputs[name] = [pair]
    answers = dict(further or {})
    for name, pairs in inputs.items():
        answers[name] = joined([reference(*pair) for pair in pairs]), joined([candidate(*pair) for pair in pairs])
    if batch_size > 1:
        expected, _ = answers[REAL_SAMPLES]
        ends = (*range(len(rgb) % batch_size or batch_size, len(rgb), batch_size), len(rgb))
        found = joined([candidate(rgb[a:b], depth[a:b]) for a, b in zip((0, *ends), ends, strict=False)])
        answers[f"batches of {batch_size}"] = expected, found
    return report_of(answers, reference=reference_name, candidate=candidate_name, tolerance=tolerance)


def report_of(
    answers: Mapping[str, tuple[Answers, Answers]], *, reference: str, candidate: str, tolerance: Tolerance
) -> ParityReport:
    """Compare answers that are already there: name of the case -> (expected, found)."""
    together = (
        joined([expected for expected, _ in answers.values()]),
        joined([found for _, found in answers.values()]),
    )
    cases = [
        compare_outputs(name, expected=expected, found=found, draw_margin=tolerance.draw_margin)
        for name, (expected, found) in (*answers.items(), ("all together", together))
    ]
    return ParityReport(
        reference=reference, candidate=candidate, tolerance=tolerance, cases=tuple(cases[:-1]), together=cases[-1]
    )


def joined(answers: Sequence[Answers]) -> Answers:
    """The answers of several batches, one after the other."""
    return np.concatenate([p for p, _ in answers]), np.concatenate([g for _, g in answers])


def compare_outputs(
    name: str,
    *,
    expected: Answers,
    found: Answers,
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
        near_tie_flips=int((flips & ~decided).sum()),
        num_not_finite=int((~np.isfinite(p_found)).sum() + (~np.isfinite(g_found)).sum()),
    )
