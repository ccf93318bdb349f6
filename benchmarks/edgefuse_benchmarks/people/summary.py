"""Tables of a finished protocol: accuracy by split, calibration and gate by condition, and accuracy while sensors fail.

Owns `summary.json` and `summary.md`. Reads the files of finished folds; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.evaluation.corruption_summary import EXPECTED_ACCURACY_DEFINITION, FAILURE_PROBABILITIES
from edgefuse.evaluation.metrics import CONDITIONS
from edgefuse.io.json_files import write_json
from edgefuse.io.text import printable, write_text
from edgefuse_benchmarks.paper.crossval import read_result

Fold = Mapping[str, Any]


def write_summary(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str,
    command: str,
    fold_names: Sequence[str],
    notes: Sequence[str],
    facts: Mapping[str, Any],
) -> Path:
    """Write `summary.json` and `summary.md` of the cross-validations in `folders`, one for each seed; returns the path of `summary.md`."""
    folds = [read_result(path) for folder in folders for path in sorted((folder / "folds").glob("*.json"))]
    by_variant: dict[str, list[Fold]] = {}
    for fold in folds:
        by_variant.setdefault(fold["variant"], []).append(fold)
    commits = sorted({fold.get("commit", "unknown") for fold in folds})
    facts = {"trained_on": ", ".join(sorted({fold.get("device", "unknown") for fold in folds})), **facts}
    header = {
        "title": title,
        "command": command,
        "folds": list(fold_names),
        "commits": commits,
        "notes": list(notes),
        **facts,
    }
    # The settings are the same in every fold of a variant, except for seed and split.
    write_json(out / "summary.json", {**header, "results": [_for_summary(fold) for fold in folds]})
    lines = [f"# {title}", "", f"    {command}", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {value}." for name, value in {"commit": ", ".join(commits), **facts}.items()
    ]
    lines += [f"- Note: {printable(note)}." for note in notes]
    lines += ["", *_accuracy_table(by_variant, fold_names), "", *_condition_table(by_variant)]
    if any("corruption_summary" in fold for fold in folds):
        lines += ["", *_failure_table(by_variant), "", EXPECTED_ACCURACY_DEFINITION, "", *_corruption_table(by_variant)]
    write_text(out / "summary.md", "\n".join(lines) + "\n")
    return out / "summary.md"


_PER_CLASS = ("recall", "confusion")


def _for_summary(fold: Fold) -> dict[str, Any]:
    """A fold's result without its settings, and without figures of each class under each corruption, which the fold's file has."""
    found = {k: v for k, v in fold.items() if k not in ("settings", "versions")}
    for row in (rows := [dict(row) for row in fold.get("corruptions", ())]):
        row["scores"] = {k: v for k, v in row["scores"].items() if k not in _PER_CLASS}
    return {"seed": fold["settings"]["crossval_seed"], **found, **({"corruptions": rows} if rows else {})}


def _accuracy_table(by_variant: Mapping[str, Sequence[Fold]], fold_names: Sequence[str]) -> list[str]:
    head = ["accuracy", *fold_names, "mean", "no RGB", "no depth"]
    lines = [_row(head), _rule(len(head))]
    for name, folds in by_variant.items():
        cells = [_cell([f for f in folds if f["fold"] == k], "accuracy") for k in range(1, len(fold_names) + 1)]
        cells += [_cell(folds, "scores", c, "accuracy") for c in CONDITIONS]
        lines.append(_row([name, *cells]))
    return [*lines, "", "Mean ± standard deviation over the seeds; the mean of a seed is over its splits."]


def _condition_table(by_variant: Mapping[str, Sequence[Fold]]) -> list[str]:
    words = ["both", "no RGB", "no depth"]
    head = ["", *(f"calibration error, {w}" for w in words), *(f"mean gate, {w}" for w in words)]
    lines = [_row(head), _rule(len(head))]
    for name, folds in by_variant.items():
        cells = [
            _cell(folds, "scores", c, key) for key in ("expected_calibration_error", "mean_gate") for c in CONDITIONS
        ]
        lines.append(_row([name, *cells]))
    return lines


def _failure_table(by_variant: Mapping[str, Sequence[Fold]]) -> list[str]:
    kinds = (("missing", "missing"), ("any_corruption", "any corruption"))
    columns = [(key, f"{words}, p = {p:g}", str(p)) for key, words in kinds for p in FAILURE_PROBABILITIES]
    head = ["expected accuracy", *(title for _, title, _ in columns), "gate AUC", "gate AUC, visible"]
    lines = [_row(head), _rule(len(head))]
    for name, folds in _with_corruptions(by_variant).items():
        cells = [_cell(folds, "corruption_summary", key, p) for key, _, p in columns]
        cells += [_cell(folds, "corruption_summary", k) for k in ("gate_auc", "gate_auc_visible")]
        lines.append(_row([name, *cells]))
    return lines


def _corruption_table(by_variant: Mapping[str, Sequence[Fold]]) -> list[str]:
    """Accuracy and mean gate under every corruption, mean over splits and seeds."""
    found = _with_corruptions(by_variant)
    lines = [_row(["accuracy (mean gate), %", *found]), _rule(len(found) + 1)]
    for number, row in enumerate(next(iter(found.values()))[0]["corruptions"]):
        severity = f", {row['severity']:g} {row['unit']}" if row["unit"] else ""
        cells = []
        for folds in found.values():
            scores = [fold["corruptions"][number]["scores"] for fold in folds]
            accuracy, gate = (float(np.mean([s[key] for s in scores])) for key in ("accuracy", "mean_gate"))
            cells.append(f"{100 * accuracy:.1f} ({100 * gate:.0f})")
        lines.append(_row([f"{row['corruption'].replace('_', ' ')}{severity}", *cells]))
    return lines


def _with_corruptions(by_variant: Mapping[str, Sequence[Fold]]) -> dict[str, list[Fold]]:
    found = {name: [f for f in folds if "corruption_summary" in f] for name, folds in by_variant.items()}
    return {name: folds for name, folds in found.items() if folds}


def _cell(folds: Sequence[Fold], *keys: str) -> str:
    """A figure of each fold, at `keys`: the mean over the splits, then mean ± standard deviation over the seeds."""
    of_seed: dict[int, list[float]] = {}
    for fold in folds:
        found: Any = fold
        for key in keys:
            found = found[key]
        if found is not None:
            of_seed.setdefault(fold["settings"]["crossval_seed"], []).append(found)
    if not of_seed:
        return "-"
    means = [np.mean(values) for values in of_seed.values()]
    spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
    return f"{np.mean(means):.3f}{spread}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(num_columns: int) -> str:
    return "|---" + "|--:" * (num_columns - 1) + "|"
