"""Compares the outputs of an exported file or an engine with the reference. Owns the edge cases, the comparison and its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, MAX_DEPTH_CODE, InputContract, Outputs, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.workers import map_in_threads
from edgefuse.progress import Progress, no_progress

REAL_SAMPLES = "real samples"
NUM_OF_DYNAMIC = 4
"""Pairs in a batch for the comparison of a file with a dynamic batch."""

NEAR_TIE_MARGIN = 0.05
"""Two classes whose probabilities differ by less are a near-tie: on the next frame of the same scene either may win."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest accepted differences.

    Attributes:
        probability, gate: of any single value.
        p99_probability: 99th percentile over the probabilities of all cases together (a single frame has too few for a
            percentile); None = `probability` is the limit.
        flips_fraction: fraction of all frames whose predicted class may change. A change counts only if the reference's two
            best classes differ by more than `draw_margin`.
        draw_margin: largest difference of a near-tie.
        nearest_m: of the distance, in metres: one depth code. It is computed in FP32 in files of every precision.
    """

    probability: float
    gate: float
    p99_probability: float | None = None
    flips_fraction: float = 0.0
    draw_margin: float = NEAR_TIE_MARGIN
    nearest_m: float = DEPTH_UNIT_M

    def num_flips(self, num_frames: int) -> int:
        """The number of frames, of `num_frames`, whose predicted class may change."""
        return math.floor(self.flips_fraction * num_frames + 1e-9)


FP32_TOLERANCE = Tolerance(probability=1e-4, gate=1e-4)
"""Two FP32 implementations differ only by the order of their sums, usually by 1e-6."""

FP16_TOLERANCE = Tolerance(probability=0.02, gate=0.01, p99_probability=0.01)
"""FP16 has 11 significant bits, so each of about twenty layers rounds by up to 0.05 %. A logit of 10 then changes by about 0.02, a
probability or a gate by at most a quarter of that. Measured on the built-in data set: 0.002 and 0.0004; on gestures with
MobileNetV2: 0.005 and 0.005 (0.03 with its most sensitive block in FP16). Two classes that are not a near-tie then cannot swap, so
the accuracy does not change."""

INT8_TOLERANCE = Tolerance(probability=0.4, gate=0.4, p99_probability=0.15, flips_fraction=0.03)
"""8 bits round each activation by up to 0.4 % of its range. A few frames near a decision boundary may change much, most must not:
the tight limits are those of the 99th percentile and the flips, the others only detect broken files. Measured on gestures (two runs
with MobileNetV2, 300 held-out pairs): a 99th percentile of 0.26 and 8 % of flips cost 2 points of accuracy, 0.16 and 5 % cost 0.3.
`python -m edgefuse_benchmarks.suites.precision` measures the accuracy itself."""

TOLERANCES = {"fp32": FP32_TOLERANCE, "fp16": FP16_TOLERANCE, "int8": INT8_TOLERANCE}

ENGINE_TOLERANCES = {**TOLERANCES, "fp32": Tolerance(probability=1e-3, gate=1e-3)}
"""Differences from FP32 on the CPU. FP32 on a GPU uses other kernels, such as Winograd, and other orders of sums."""


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """Differences for one kind of input.

    Attributes:
        top1_flips: predicted classes that changed, without near-ties.
        near_tie_flips: predicted classes that changed in a near-tie.
        max_nearest_difference_m: None unless both have the distance.
    """

    name: str
    num_samples: int
    max_probability_difference: float
    p99_probability_difference: float
    max_gate_difference: float
    top1_flips: int
    near_tie_flips: int
    num_not_finite: int
    max_nearest_difference_m: float | None = None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """All cases of one file against one reference.

    Attributes:
        together: the differences over the frames of all cases.
        activations: statistics of the candidate's intermediate tensors (`Activations.to_json`), if they were observed.
        source: for an engine, the comparison with the file that it was built from, if there is one.
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
        """No value is NaN or infinite, including intermediate values if they were observed."""
        return not (self.activations or {}).get("not_finite") and not self.together.num_not_finite

    def failures(self) -> list[str]:
        """What exceeds the limits, as text; empty if everything passes. The first layer with non-finite values comes first."""
        limits, together = self.tolerance, self.together
        not_finite = (self.activations or {}).get("not_finite", {})
        found = [f"{where}: {count} intermediate values are NaN or infinite" for where, count in not_finite.items()]
        checks = [
            check
            for case in self.cases
            for check in (
                (f"{case.name}: probabilities differ by", case.max_probability_difference, limits.probability),
                (f"{case.name}: gates differ by", case.max_gate_difference, limits.gate),
                (f"{case.name}: distances in metres differ by", case.max_nearest_difference_m or 0, limits.nearest_m),
                (f"{case.name}: values that are not finite:", case.num_not_finite, 0),
            )
        ]
        p99 = limits.probability if limits.p99_probability is None else limits.p99_probability
        percentile = f"{together.name}: the 99th percentile of probabilities differs by"
        flips = f"{together.name}: changed predictions, of {together.num_samples}:"
        checks += [
            (percentile, together.p99_probability_difference, p99),
            (flips, together.top1_flips, limits.num_flips(together.num_samples)),
        ]
        for what, value, limit in checks:
            if not value <= limit:  # also true for NaN
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
    """Inputs that are most likely to expose decoding errors, and divisions by zero, made from one real sample.

    Args:
        rgb, depth: one framed pair, [1, S, S, 3] and [1, S, S, 2].

    Returns:
        name -> (rgb, depth), each of batch 1.
    """

    def every_pixel(code: int) -> NDArray[np.uint8]:
        return bytes_from_codes(np.full(depth.shape[:-1], code, np.uint16))

    def only(where: Any) -> NDArray[np.uint8]:
        """No measurement except at `where`, in the middle of the depth range."""
        codes = np.zeros(depth.shape[:-1], np.uint16)
        codes[where] = middle_code
        return bytes_from_codes(codes)

    far_code = round(contract.far_m / DEPTH_UNIT_M)
    middle_code = round((contract.near_m + contract.far_m) / 2 / DEPTH_UNIT_M)
    middle, (_, rows, columns) = contract.size // 2, np.indices(depth.shape[:-1])
    return {
        "no depth": (rgb, np.zeros_like(depth)),
        "depth at its maximum": (rgb, every_pixel(far_code)),
        "depth codes 65535": (rgb, every_pixel(MAX_DEPTH_CODE)),
        "depth codes 1": (rgb, every_pixel(1)),
        "all depth equal": (rgb, every_pixel(middle_code)),
        "one valid pixel": (rgb, only((0, middle, middle))),
        "one valid row": (rgb, only((0, middle))),
        "alternating 0, 65535": (
            rgb,
            bytes_from_codes(np.where((rows + columns) % 2, MAX_DEPTH_CODE, 0).astype(np.uint16)),
        ),
        "black RGB": (np.zeros_like(rgb), depth),
        "white RGB": (np.full_like(rgb, 255), depth),
        "both sensors missing": (np.zeros_like(rgb), np.zeros_like(depth)),
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
    further: Mapping[str, tuple[Outputs, Outputs]] | None = None,
) -> ParityReport:
    """Compare two predictors on real samples, one at a time, and on the edge cases.

    Args:
        rgb, depth: framed real samples, uint8 [n, S, S, 3] and [n, S, S, 2].
        batch_size: if more than 1, the candidate's outputs in batches of this size (the first may be shorter) are also
            compared with the reference's outputs for single pairs.
        further: name -> existing outputs (expected, found); these cases come first.

    Raises:
        UserError: no samples, or a predictor failed; the message names the case.
    """
    if len(rgb) == 0:
        raise UserError("there are no samples to compare on: train again, the new run has some")
    inputs = {REAL_SAMPLES: [(rgb[i : i + 1], depth[i : i + 1]) for i in range(len(rgb))]}
    for name, pair in edge_cases(rgb[:1], depth[:1], contract=contract).items():
        inputs[name] = [pair]
    outputs = dict(further or {})
    for name, pairs in inputs.items():
        try:
            outputs[name] = joined([reference(*pair) for pair in pairs]), joined([candidate(*pair) for pair in pairs])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    if batch_size > 1:
        expected, _ = outputs[REAL_SAMPLES]
        ends = (*range(len(rgb) % batch_size or batch_size, len(rgb), batch_size), len(rgb))
        found = joined([candidate(rgb[a:b], depth[a:b]) for a, b in zip((0, *ends), ends, strict=False)])
        outputs[f"batches of {batch_size}"] = expected, found
    return report_of(outputs, reference=reference_name, candidate=candidate_name, tolerance=tolerance)


def report_of(
    outputs: Mapping[str, tuple[Outputs, Outputs]], *, reference: str, candidate: str, tolerance: Tolerance
) -> ParityReport:
    """Compare existing outputs: name of the case -> (expected, found)."""
    together = (
        joined([expected for expected, _ in outputs.values()]),
        joined([found for _, found in outputs.values()]),
    )
    cases = [
        compare_outputs(name, expected=expected, found=found, near_tie_margin=tolerance.draw_margin)
        for name, (expected, found) in (*outputs.items(), ("all together", together))
    ]
    return ParityReport(
        reference=reference, candidate=candidate, tolerance=tolerance, cases=tuple(cases[:-1]), together=cases[-1]
    )


def predicted_in_batches(
    predictor: Predictor,
    *,
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint8],
    contract: InputContract,
    batch_size: int = 16,
    num_threads: int = 1,
    progress: Progress = no_progress,
) -> Predictor:
    """A predictor that knows the outputs of every pair of `check_parity`: PyTorch is several times faster in batches.

    Args:
        num_threads: batches that the predictor runs at the same time.
        progress: called with (pairs predicted, pairs in total).
    """
    cases = [(rgb, depth), *edge_cases(rgb[:1], depth[:1], contract=contract).values()]
    all_rgb, all_depth = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    batches = [slice(start, start + batch_size) for start in range(0, len(all_rgb), batch_size)]
    known: dict[tuple[bytes, bytes], Outputs] = {}
    num_done = 0
    predicted = map_in_threads(lambda at: predictor(all_rgb[at], all_depth[at]), batches, num_threads=num_threads)
    for at, outputs in zip(batches, predicted, strict=True):
        for i, pair in enumerate(zip(all_rgb[at], all_depth[at], strict=True)):
            one, nearest_m = slice(i, i + 1), outputs.nearest_m
            known[pair[0].tobytes(), pair[1].tobytes()] = Outputs(
                outputs.probabilities[one], outputs.gate[one], None if nearest_m is None else nearest_m[one]
            )
        num_done += len(all_rgb[at])
        progress(num_done, len(all_rgb))
    return lambda rgb, depth: known[rgb.tobytes(), depth.tobytes()]


def joined(batches: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches, concatenated."""
    probabilities, gates, distances = zip(*batches, strict=True)
    nearest_m = None if any(one is None for one in distances) else np.concatenate(distances)
    return Outputs(np.concatenate(probabilities), np.concatenate(gates), nearest_m)


def compare_outputs(
    name: str,
    *,
    expected: Outputs,
    found: Outputs,
    near_tie_margin: float,
) -> ParityCase:
    """Compare existing outputs.

    Args:
        expected, found: outputs for the same n inputs.
        near_tie_margin: if the two best classes differ by less, either prediction is accepted.
    """
    (p_expected, g_expected, d_expected), (p_found, g_found, d_found) = expected, found
    difference = np.abs(p_found - p_expected)
    best_two = np.sort(p_expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > near_tie_margin
    flips = p_found.argmax(axis=1) != p_expected.argmax(axis=1)
    return ParityCase(
        name=name,
        num_samples=len(p_expected),
        max_probability_difference=float(difference.max()),
        p99_probability_difference=float(np.quantile(difference, 0.99)),
        max_gate_difference=float(np.abs(g_found - g_expected).max()),
        top1_flips=int((flips & clear).sum()),
        near_tie_flips=int((flips & ~clear).sum()),
        num_not_finite=sum(int((~np.isfinite(array)).sum()) for array in found if array is not None),
        max_nearest_difference_m=None
        if d_expected is None or d_found is None
        else float(np.abs(d_found - d_expected).max()),
    )
