"""Summarises finished cross-validations with several protocols and seeds in one table.

    python -m edgefuse_benchmarks.paper.seed_summary OUT.md people=cv/people-seed0 people=cv/people-seed1 clips=cv/clips-seed0 ...

Each folder was written by `edgefuse crossval --seed K --out FOLDER`. Folds with the same name and number of test pairs are one
protocol, whose accuracy is their mean. A variant without folds of a protocol has no accuracy there; its mean and differences are
over the protocols that it has. `OUT.json` has the figures of every seed. Owns the table and its statistics; trains nothing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError, require
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.text import quoted, write_text
from edgefuse.model.choices import SINGLE_MODALITIES
from edgefuse_benchmarks.paper.crossval import read_result
from edgefuse_benchmarks.paper.variants import parse_variant

CONDITIONS = ("accuracy", "accuracy_no_rgb", "accuracy_no_depth")


@dataclass(frozen=True, kw_only=True)
class SeedSummary:
    """Accuracy, 0..1, of variants by protocol and seed.

    Attributes:
        names: of the protocols, such as "people, 450 test pairs".
        seeds: of the cross-validations.
        accuracy: variant -> condition -> [seeds, protocols]; NaN for protocols that the variant does not have.
        commits: of the code that trained.
        versions: packages of the first fold's training.
        recipes: name of the cross-validation -> variant -> the settings of its first fold.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracy: Mapping[str, Mapping[str, NDArray[np.float64]]]
    commits: tuple[str, ...]
    versions: Mapping[str, str]
    recipes: Mapping[str, Mapping[str, Any]]

    def has_protocol(self, variant: str) -> NDArray[np.bool_]:
        """Whether the variant has folds, for each protocol, [protocols]."""
        return np.asarray(np.isfinite(self.accuracy[variant]["accuracy"]).all(axis=0))

    def means(
        self, variant: str, condition: str = "accuracy", *, over: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Mean over the protocols of the variant, or over those selected by `over`; one value per seed."""
        chosen = self.has_protocol(variant) if over is None else over
        found: NDArray[np.float64] = self.accuracy[variant][condition][:, chosen].mean(axis=1)
        return found

    def to_json(self) -> dict[str, Any]:
        """The figures of every seed, with commits, versions and settings, as a JSON object."""
        return {
            "seeds": list(self.seeds),
            "protocols": list(self.names),
            "accuracy_by_seed_and_protocol": {
                name: {c: _finite_or_none(v) for c, v in found.items()} for name, found in self.accuracy.items()
            },
            "commits": list(self.commits),
            "versions": dict(self.versions),
            "first_folds": self.recipes,
        }

    def better_single(self) -> str:
        """The single-sensor variant with the highest mean."""
        singles = [name for name in self.accuracy if parse_variant(name).fusion in SINGLE_MODALITIES]
        if not singles:
            raise UserError(
                "there is no single-sensor variant: add one to crossval --variants, such as rgb-mobilenet_v2"
            )
        return max(singles, key=lambda name: float(self.means(name).mean()))


def read_seed_summary(folders: Sequence[tuple[str, Path]]) -> SeedSummary:
    """Collect finished folds.

    Args:
        folders: (name, folder of one cross-validation).

    Raises:
        UserError: a folder has no finished folds, or a variant has a protocol for some seeds only.
    """
    cells: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    recipes: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, folder in folders:
        results = [read_result(path) for path in sorted((folder / "folds").glob("*.json"))]
        if not results:
            raise UserError(f"{folder} has no finished folds: run edgefuse crossval DATA --out {quoted(folder)}")
        for result in results:
            recipes[name].setdefault(result["variant"], result["settings"])
            seed = _crossval_seed(result)
            cells[result["variant"], seed, f"{name}, {result['num_test']} test pairs"].append(result)
    variants = list(dict.fromkeys(key[0] for key in cells))
    seeds = sorted({key[1] for key in cells})
    names = list(dict.fromkeys(key[2] for key in cells))
    present = {(v, n) for v, _, n in cells}
    gaps = [(v, s, n) for v in variants for s in seeds for n in names if (v, n) in present and (v, s, n) not in cells]
    if gaps:
        variant, seed, name = gaps[0]
        raise UserError(f"{variant} has no fold of {name!r} with seed {seed} ({len(gaps)} such gap(s)): run it first")
    accuracy = {
        v: {c: np.array([[_mean(cells.get((v, s, n)), c) for n in names] for s in seeds]) for c in CONDITIONS}
        for v in variants
    }
    commits = sorted({result.get("commit", "unknown") for found in cells.values() for result in found})
    return SeedSummary(
        names=tuple(names),
        seeds=tuple(seeds),
        accuracy=accuracy,
        commits=tuple(commits),
        versions=next(iter(cells.values()))[0].get("versions", {}),
        recipes=recipes,
    )


def _finite_or_none(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[round(float(v), 4) if np.isfinite(v) else None for v in row] for row in values]


def _mean(folds: list[dict[str, Any]] | None, condition: str) -> float:
    return float(np.mean([fold[condition] for fold in folds])) if folds else float("nan")


def _crossval_seed(result: Mapping[str, Any]) -> int:
    """The seed of the cross-validation. Older results do not have it, and trained fold k with seed + k - 1."""
    settings = result["settings"]
    return int(settings.get("crossval_seed", settings["seed"] - result["fold"] + 1))


def markdown(found: SeedSummary) -> str:
    """The table, the differences from the better single sensor, and those of each gate from naive fusion."""
    head = ["variant", *found.names, "mean of the protocols", "no RGB", "no depth"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name in found.accuracy:
        columns = [found.accuracy[name]["accuracy"][:, i] for i in range(len(found.names))]
        columns += [found.means(name, condition) for condition in CONDITIONS]
        lines.append("| " + " | ".join([name, *map(_cell, columns)]) + " |")
    single = found.better_single()
    seeds = ", ".join(map(str, found.seeds))
    lines += [
        "",
        f"Test accuracy, mean ± standard deviation over {len(found.seeds)} seeds ({seeds}). Commit: {', '.join(found.commits)}.",
    ]
    lines += [
        "",
        f"Differences of the mean of the protocols, in points, paired by seed; the better single sensor is {single}:",
        "",
    ]
    for name in found.accuracy:
        if parse_variant(name).fusion in SINGLE_MODALITIES:
            continue
        lines.append(f"- {_difference(found, name, single)}")
        baseline = parse_variant(name).baseline
        if name != baseline and baseline in found.accuracy:
            lines.append(f"- {_difference(found, name, baseline)}")
    lines += [
        "",
        "p: two-sided paired t-test over the seeds. All seeds have the same data, so it covers the randomness of training,",
        "not other people or sequences.",
    ]
    return "\n".join(lines) + "\n"


def _cell(values: NDArray[np.float64]) -> str:
    if not np.isfinite(values).all():
        return "-"
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def _difference(found: SeedSummary, name: str, baseline: str) -> str:
    both = found.has_protocol(name) & found.has_protocol(baseline)
    points = 100 * (found.means(name, over=both) - found.means(baseline, over=both))
    text = f"{name} - {baseline}: {points.mean():+.1f} (minimum {points.min():+.1f}, maximum {points.max():+.1f})"
    if not both.all():
        text += f", over {', '.join(n for n, in_both in zip(found.names, both, strict=True) if in_both)}"
    if len(points) < 2 or np.allclose(points, points[0]):
        return text
    p = float(require("scipy.stats", extra="train").ttest_1samp(points, 0.0).pvalue)
    return f"{text}, p {p:.2g}"


def main(arguments: Sequence[str]) -> None:
    """OUT.md NAME=FOLDER ..."""
    if len(arguments) < 2 or not all("=" in text for text in arguments[1:]):
        raise UserError(f"got {' '.join(arguments) or 'nothing'}: OUT.md NAME=FOLDER [NAME=FOLDER ...] was expected")
    folders = [(text.split("=", 1)[0], Path(text.split("=", 1)[1])) for text in arguments[1:]]
    found = read_seed_summary(folders)
    text = markdown(found)
    write_json(Path(arguments[0]).with_suffix(".json"), found.to_json())
    with file_replaced(Path(arguments[0])) as temporary:
        write_text(temporary, text)
    print(text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
