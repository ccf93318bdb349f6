"""Compares two results of one benchmark: medians, p99, the ratio of medians with its spread, and whether the difference exceeds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.environment import git_revision_text
from edgefuse.measure import NUM_RESAMPLES, Series, Summary
from edgefuse_benchmarks.report import Report

MIN_ROUNDS = 10
"""With fewer rounds a spread says nothing."""

Verdict = Literal["slower", "faster", "within the spread", "too few rounds"]

CAVEAT = (
    "the spread is that within each run: two runs of the same code can differ by more, so run each again before relying on a small "
    "difference"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One series in both results.

    Attributes:
        ratio: median of the second over that of the first.
        low, high: 95 % interval of the ratio, by bootstrap over blocks of consecutive rounds of each result.
        num_rounds: of the result with fewer.
    """

    group: str
    name: str
    first: Summary
    second: Summary
    ratio: float
    low: float
    high: float
    num_rounds: int

    @property
    def verdict(self) -> Verdict:
        """What the second result is, compared with the first."""
        if self.num_rounds < MIN_ROUNDS:
            return "too few rounds"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "within the spread"

    def exceeds(self, limit: float) -> bool:
        """Whether the ratio is above `limit` by more than its spread."""
        return self.num_rounds >= MIN_ROUNDS and self.low > limit


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results of one benchmark.

    Attributes:
        differences: what else than the code differs between the results: machine, commit, bundle, settings, versions.
        only_first, only_second: series that the other result lacks.
    """

    benchmark: str
    differences: tuple[str, ...]
    rows: tuple[Row, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **asdict(self),
            "caveat": CAVEAT,
            "rows": [{**asdict(row), "verdict": row.verdict} for row in self.rows],
        }


def compare(first: Report, second: Report, *, seed: int = 0) -> Comparison:
    """Compare two results.

    Args:
        seed: of the bootstrap.

    Raises:
        UserError: they are of different benchmarks, or have no series in common.
    """
    if first.benchmark != second.benchmark:
        raise UserError(
            f"the first result is of bench {first.benchmark}, the second of bench {second.benchmark}: two results of one benchmark "
            f"were expected"
        )
    by_key, others = _by_key(first), _by_key(second)
    shared = [key for key in by_key if key in others]
    if not shared:
        raise UserError(f"the two results of bench {first.benchmark} have no series in common: nothing can be compared")
    rng = np.random.default_rng(seed)
    return Comparison(
        benchmark=first.benchmark,
        differences=tuple(differences(first, second)),
        rows=tuple(_row(key, by_key[key], others[key], rng) for key in shared),
        only_first=tuple(_label(key) for key in by_key if key not in others),
        only_second=tuple(_label(key) for key in others if key not in by_key),
    )


def differences(first: Report, second: Report) -> list[str]:
    """What differs between two results besides their times, one line each."""
    found = []
    one, other = first.machine, second.machine
    if _hardware(one) != _hardware(other):
        found.append(f"another machine: {_hardware(one)} -> {_hardware(other)}")
    commits = [git_revision_text(report.machine.get("commit")) for report in (first, second)]
    bundles = [_bundle(report.parameters) for report in (first, second)]
    found += [f"another {name}: {a} -> {b}" for name, (a, b) in (("commit", commits), ("bundle", bundles)) if a != b]
    settings = [
        key
        for key in dict.fromkeys((*first.parameters, *second.parameters))
        if key not in ("bundle", "files", "timer_overhead_ns")
        and first.parameters.get(key) != second.parameters.get(key)
    ]
    if settings:
        found.append(f"other settings: {', '.join(settings)}")
    versions, other_versions = one.get("versions", {}), other.get("versions", {})
    changed = [
        f"{name} {versions.get(name, 'missing')} -> {other_versions.get(name, 'missing')}"
        for name in sorted({*versions, *other_versions})
        if versions.get(name) != other_versions.get(name)
    ]
    if changed:
        found.append(f"other versions: {', '.join(changed)}")
    return found


def _hardware(machine: Mapping[str, Any]) -> str:
    """Processor, cores and GPUs, in words."""
    cpu = machine.get("cpu", {})
    gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or ()]
    jetson = machine.get("jetson") or {}
    board = [str(jetson[key]).splitlines()[0] for key in ("board", "nvpmodel") if jetson.get(key)]
    return ", ".join([str(cpu.get("model")), f"{cpu.get('cores_usable')} core(s)", *gpus, *board])


def _bundle(parameters: Mapping[str, Any]) -> str:
    """Name of the bundle, with the first digits of its files' digests."""
    files = parameters.get("files") or {}
    digests = [str(entry.get("sha256"))[:8] for _, entry in sorted(files.items()) if isinstance(entry, dict)]
    return f"{parameters.get('bundle', 'none')} ({', '.join(digests)})" if digests else str(parameters.get("bundle"))


def _by_key(report: Report) -> dict[tuple[str, str, str], Series]:
    return {(group.scope, group.name, one.name): one for group in report.groups for one in group.series}


def _label(key: tuple[str, str, str]) -> str:
    return ": ".join(part for part in key[1:] if part)


def _row(key: tuple[str, str, str], first: Series, second: Series, rng: np.random.Generator) -> Row:
    ratios = _medians(second, rng) / np.maximum(_medians(first, rng), 1.0)
    low, high = np.percentile(ratios, (2.5, 97.5))
    one, other = first.summary(), second.summary()
    return Row(
        group=key[1],
        name=key[2],
        first=one,
        second=other,
        ratio=other.p50_ns / max(one.p50_ns, 1.0),
        low=float(low),
        high=float(high),
        num_rounds=min(len(first.turns_ns), len(second.turns_ns)),
    )


def _medians(series: Series, rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians [NUM_RESAMPLES] of resampled series. Blocks of sqrt(n) consecutive rounds stay together, because neighbouring rounds are
    alike: clocks and other processes change slowly."""
    turns = series.turns_ns
    num_rounds = len(turns)
    length = max(1, round(num_rounds**0.5))
    starts = rng.integers(0, num_rounds, (NUM_RESAMPLES, -(-num_rounds // length)))
    rounds = ((starts[..., np.newaxis] + np.arange(length)) % num_rounds).reshape(NUM_RESAMPLES, -1)[:, :num_rounds]
    return np.array([np.median(turns[chosen]) for chosen in rounds], np.float64)
