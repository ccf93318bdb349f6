"""The report of a cross-validation: Markdown, CSV and plot, with the paper's accuracies and tests of gated against naive fusion.

Owns the format of the report and its statistics; trains nothing.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefuse.errors import require
from edgefuse.io.environment import TRAINING_PACKAGES, versions
from edgefuse.io.files import file_replaced
from edgefuse.io.matplotlib_io import COLOURS, GREY, new_figure, save_figure
from edgefuse.io.text import write_text
from edgefuse.model.choices import SINGLE_MODALITIES
from edgefuse_benchmarks.paper.crossval import CrossValidation, FoldResult, fold_seed
from edgefuse_benchmarks.paper.variants import NAIVE, PAPER_TITLES, parse_variant

MIN_FOLDS_WILCOXON = 6
"""With fewer folds, the smallest possible p of the signed-rank test is above 0.05."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A fused variant compared with naive fusion of the same backbones, over the folds that both have.

    Attributes:
        mean_difference: mean accuracy of `variant` minus that of `baseline`.
        t, p: corrected resampled t-test, two-sided; None with one fold, or if all differences are equal and not 0.
        p_wilcoxon: signed-rank test, two-sided; None with fewer than `MIN_FOLDS_WILCOXON` differences that are not 0.
    """

    variant: str
    baseline: str
    num_folds: int
    mean_difference: float
    t: float | None
    p: float | None
    p_wilcoxon: float | None


def corrected_t_test(differences: Sequence[float], *, test_to_train: float) -> tuple[float, float] | None:
    """t and two-sided p of k paired differences from overlapping training sets.

    Source: Nadeau and Bengio, "Inference for the Generalization Error", 2003: the variance of the mean is (1/k + n_test/n_train)
    times that of the differences, because folds have most of their training samples in common.

    Args:
        test_to_train: n_test / n_train.

    Returns:
        None if the test is not applicable: one difference, or all equal and not 0. All 0 gives t = 0, p = 1.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return None
    variance = float(values.var(ddof=1))
    if math.isclose(variance, 0.0, abs_tol=1e-18):
        return (0.0, 1.0) if math.isclose(float(values.mean()), 0.0, abs_tol=1e-9) else None
    t = float(values.mean()) / math.sqrt((1 / len(values) + test_to_train) * variance)
    stats = require("scipy.stats", extra="train")
    return t, float(2 * stats.t.sf(abs(t), df=len(values) - 1))


def paired_tests(results: Mapping[str, Sequence[FoldResult]]) -> list[PairedTest]:
    """Tests of each fused variant against naive fusion of the same backbones, if there are results of both."""
    tests = []
    for name in results:
        variant = parse_variant(name)
        baseline = variant.baseline
        if _is_plain(name) or baseline not in results:
            continue
        ours = {result.fold: result for result in results[name]}
        theirs = {result.fold: result for result in results[baseline]}
        common = sorted(ours.keys() & theirs.keys())
        if not common:
            continue
        differences = [ours[fold].accuracy - theirs[fold].accuracy for fold in common]
        ratio = float(np.mean([ours[fold].num_test / ours[fold].num_train for fold in common]))
        found = corrected_t_test(differences, test_to_train=ratio)
        tests.append(
            PairedTest(
                variant=name,
                baseline=baseline,
                num_folds=len(common),
                mean_difference=float(np.mean(differences)),
                t=found[0] if found else None,
                p=found[1] if found else None,
                p_wilcoxon=_wilcoxon(differences),
            )
        )
    return tests


def _wilcoxon(differences: Sequence[float]) -> float | None:
    moved = [value for value in differences if not math.isclose(value, 0.0, abs_tol=1e-12)]
    if len(moved) < MIN_FOLDS_WILCOXON:
        return None
    return float(require("scipy.stats", extra="train").wilcoxon(moved).pvalue)


def write_report(
    done: CrossValidation,
    out: Path,
    *,
    title: str,
    paper: Mapping[str, float] | None = None,
    command: str = "",
    leak_free: str = "",
    remarks: Sequence[str] = (),
) -> Path:
    """Write `report.md`, `report.csv` and `report.png` to `out`; returns the path of `report.md`.

    Args:
        paper: the paper's accuracy, 0..1, of each variant.
        command: the command line of the cross-validation.
        leak_free: for folds that leak: the command that tests on unseen sequences.
        remarks: sentences about the protocol.
    """
    paper = paper or {}
    _write_csv(done, out / "report.csv", paper=paper)
    _plot(done, out / "report.png", paper=paper, title=title)
    lines = [f"# {title}", ""]
    if command:
        lines += [f"    {command}", ""]
    lines += [*_protocol(done, leak_free=leak_free, remarks=remarks), "", *_table(done, paper=paper), ""]
    lines += _test_lines(paired_tests(done.results), num_folds=done.num_folds)
    if done.failures:
        lines += ["", "## Not finished", *(f"- {f.variant}, fold {f.fold}: {f.message}" for f in done.failures)]
    lines += ["", "![accuracy of each variant](report.png)"]
    with file_replaced(out / "report.md") as temporary:
        write_text(temporary, "\n".join(lines) + "\n")
    return out / "report.md"


def mean_and_spread(results: Sequence[FoldResult]) -> tuple[float, float | None] | None:
    """Mean accuracy, and its standard deviation over the folds (n - 1; None with one fold); None without results."""
    values = [result.accuracy for result in results]
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _protocol(done: CrossValidation, *, leak_free: str, remarks: Sequence[str]) -> list[str]:
    config, data = done.config, done.data
    lines = [
        f"- {data['num_pairs']} pairs, {len(data['labels'])} classes, {data['num_groups']} sequences; data {data['digest'][:12]}.",
        f"- {done.num_folds} folds by {_code(done.by)}, seed {config.seed} (fold k trains with seed {fold_seed(config.seed, 0)} + k), "
        f"inputs of {config.size} px, {_epochs(done)} of batches of {config.batch_size}, Adam "
        f"{config.learning_rate:g} to {config.final_learning_rate:g}.",
    ]
    if done.num_leaking:
        how = f" To test on unseen sequences: {leak_free}." if leak_free else ""
        lines.append(
            f"- **Leaks**: {done.num_leaking} of {done.num_folds} folds have frames of the same sequence in training and test, so "
            f"these accuracies do not show how well new sequences are recognised.{how}"
        )
    else:
        lines.append("- No fold has frames of the same sequence in training and test.")
    lines += [f"- {remark}" for remark in remarks]
    lines += [f"- Note: {note}." for note in done.notes]
    used = versions(TRAINING_PACKAGES)
    lines.append(f"- {', '.join(f'{name} {used[name]}' for name in ('edgefuse', 'torch', 'torchvision', 'numpy'))}.")
    return [*lines, f"- {_commits(done)}."]


def _epochs(done: CrossValidation) -> str:
    many = f"{done.config.epochs} epoch" + ("s" if done.config.epochs > 1 else "")
    if done.early_stop is None:
        return many
    return f"at most {many} (early stopping after {done.early_stop} without a better validation accuracy)"


def _commits(done: CrossValidation) -> str:
    """The commit of the source; if there are several, with the number of trainings of each."""
    counts = Counter(result.commit for results in done.results.values() for result in results)
    if len(counts) <= 1:
        return f"Commit: {next(iter(counts), 'no training was finished')}"
    return "Commits: " + ", ".join(f"{name} ({count} trainings)" for name, count in counts.most_common())


def _code(by: str) -> str:
    return by if by.isalpha() else f"`{by}`"


def _table(done: CrossValidation, *, paper: Mapping[str, float]) -> list[str]:
    with_paper = any(name in paper for name in done.results)
    lines = [
        "Test accuracy in %: mean ± standard deviation over the folds.",
        "",
        f"| variant |{' paper |' if with_paper else ''} ours | without RGB | without depth | folds |",
        f"|---|{'--:|' if with_paper else ''}--:|--:|--:|--:|",
    ]
    for name, results in done.results.items():
        title = f"{name} ({PAPER_TITLES[name]})" if with_paper and name in PAPER_TITLES else name
        cells = [title, f"{100 * paper[name]:.2f}" if name in paper else "-"] if with_paper else [title]
        found = mean_and_spread(results)
        if found is None:
            cells += ["-", "-", "-"]
        else:
            spread = "" if found[1] is None else f" ± {100 * found[1]:.2f}"
            one_sensor = [
                np.mean([getattr(r, field) for r in results]) for field in ("accuracy_no_rgb", "accuracy_no_depth")
            ]
            cells += [f"{100 * found[0]:.2f}{spread}", *(f"{100 * value:.2f}" for value in one_sensor)]
        lines.append(f"| {' | '.join(cells)} | {len(results)} of {done.num_folds} |")
    return lines


def _test_lines(tests: Sequence[PairedTest], *, num_folds: int) -> list[str]:
    if not tests:
        return ["No test: there is no pair of a fused variant and naive fusion of the same backbones."]
    lines = [
        "Paired over folds, in points; t: corrected resampled t-test (Nadeau and Bengio 2003); Wilcoxon: signed-rank test, from "
        f"{MIN_FOLDS_WILCOXON} folds that differ; both two-sided.",
        "",
        "| pair | difference | t | p | p (Wilcoxon) | folds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for test in tests:
        cells = [
            f"{test.variant} - {test.baseline}",
            f"{100 * test.mean_difference:+.2f}",
            _number(test.t, ".2f"),
            _number(test.p, ".3f"),
            _number(test.p_wilcoxon, ".3f"),
            f"{test.num_folds} of {num_folds}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _write_csv(done: CrossValidation, path: Path, *, paper: Mapping[str, float]) -> None:
    """One row per variant; missing accuracies are empty cells."""
    numbers = range(1, done.num_folds + 1)
    with (
        file_replaced(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["variant", "paper", "mean", "standard_deviation", *(f"fold_{number}" for number in numbers)])
        for name, results in done.results.items():
            mean, spread = mean_and_spread(results) or ("", None)
            by_fold = {result.fold: result.accuracy for result in results}
            values = [by_fold.get(number, "") for number in numbers]
            writer.writerow([name, paper.get(name, ""), mean, "" if spread is None else spread, *values])


def _is_plain(name: str) -> bool:
    return parse_variant(name).fusion in (*SINGLE_MODALITIES, NAIVE)


def _plot(done: CrossValidation, path: Path, *, paper: Mapping[str, float], title: str) -> None:
    """Bars with the standard deviation over folds, and the paper's figures as diamonds."""
    names = list(done.results)
    figure = new_figure(width_in=8, height_in=1.6 + 0.42 * len(names))
    axes = figure.subplots()
    kinds = {"gated fusion": COLOURS[0], "naive fusion or one sensor": COLOURS[1]}
    for kind, colour in kinds.items():
        rows = [i for i, name in enumerate(names) if _is_plain(name) == (kind != "gated fusion")]
        found = [mean_and_spread(done.results[names[i]]) for i in rows]
        means, spreads = [100 * f[0] if f else 0.0 for f in found], [100 * (f[1] or 0.0) if f else 0.0 for f in found]
        if rows:
            axes.barh(rows, means, xerr=spreads, height=0.6, capsize=3, color=colour, label=kind)
        for row, mean, one in zip(rows, means, found, strict=True):
            axes.text(1, row, f"{mean:.1f}" if one else "none", color="white" if one else GREY, va="center", fontsize=9)
    known = [i for i, name in enumerate(names) if name in paper]
    if known:
        axes.plot([100 * paper[names[i]] for i in known], known, "D", color="black", label="paper")
    axes.axvline(100 / len(done.data["labels"]), color=GREY, linestyle=":", label="chance")
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlim=(0, 103), ylim=(len(names) - 0.4, -0.6), xlabel="test accuracy, % (mean ± standard deviation over folds)"
    )
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower right", fontsize=9, ncols=4, frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)
