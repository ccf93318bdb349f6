"""What a classifier listens to: its gate by class and corruption, each sensor's share of the decision, and examples.

Owns the definitions and the pictures; works on any `Predictor`, looking only at what goes in and what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, IMAGENET_MEAN, InputContract, codes_from_bytes
from edgefuse.data.dataset import RgbdDataset
from edgefuse.evaluation.corruption_benchmark import Row, evaluate_corruptions
from edgefuse.evaluation.metrics import (
    Answers,
    Predictor,
    answers_under,
    as_they_are,
    framed_batches,
    without_depth,
    without_rgb,
)
from edgefuse.io.files import folder_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.matplotlib_io import MAX_NAMED, new_figure, save_figure, shortened
from edgefuse.progress import Progress, no_progress

EXPLANATION_NAME = "explain.json"
GATE_PLOT_NAME = "gate.png"
EXAMPLES_NAME = "examples.png"
MAX_EXAMPLES = 12

CONTRIBUTION_DEFINITION = (
    "For each pair, with k the class that is answered when both sensors are alive: a sensor's support is how far the log-odds "
    "ln(p_k / (1 - p_k)) fall when that sensor is dead (RGB black, depth without measurement) and the other stays; a rise "
    "counts as 0, and p is kept within 1e-6 of 0 and 1. Depth's share is its support over the sum of both, RGB's the rest. "
    "A pair that neither sensor's death makes less sure has no share, and is counted apart."
)
PROBABILITY_MARGIN = 1e-6
KEPT_DEFINITION = (
    "What the pixel gate G of a spatial model leaves of the RGB picture: 1 - G, mean over its pixels; null where there is no such "
    "gate, or where it cannot be seen, as in an exported file."
)

PixelGate = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Depth uint8 [N, S, S, 2] -> what is left of each pixel's colour, 1 - G, float32 [N, S, S]."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What was found on N pairs.

    Attributes:
        answers: with both sensors alive.
        depth_contribution: [N], 0 = the decision came from RGB, 1 = from depth, NaN = from neither; see `SHARE_DEFINITION`.
        rows: scores and mean gate clean and under every corruption.
        kept: [N], the share of the RGB picture that the pixel gate keeps, both sensors alive; None without such a gate.
        kept_by_row: its mean in each of `rows`.
    """

    labels: tuple[str, ...]
    answers: Answers
    depth_contribution: NDArray[np.float64]
    rows: tuple[Row, ...]
    kept: NDArray[np.float64] | None = None
    kept_by_row: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures by class and by corruption."""
        gate = self.answers.gate.mean(axis=1)
        present = [(number, label) for number, label in enumerate(self.labels) if (self.answers.truth == number).any()]
        everything = np.ones(len(gate), bool)
        return {
            "num_pairs": len(gate),
            "accuracy": float((self.answers.probabilities.argmax(axis=1) == self.answers.truth).mean()),
            "gate_meaning": "mean over features; 0 = RGB, 1 = depth",
            "contribution_definition": CONTRIBUTION_DEFINITION,
            "kept_area_definition": KEPT_DEFINITION,
            "all": self._group(everything, gate),
            "by_class": {label: self._group(self.answers.truth == number, gate) for number, label in present},
            "by_corruption": [
                {
                    "corruption": row.corruption,
                    "severity": row.severity,
                    "unit": row.unit,
                    "mean_gate": row.scores.mean_gate,
                    "mean_kept_area": None if self.kept_by_row is None else self.kept_by_row[number],
                    "accuracy": row.scores.accuracy,
                }
                for number, row in enumerate(self.rows)
            ],
        }

    def _group(self, chosen: NDArray[np.bool_], gate: NDArray[np.float32]) -> dict[str, Any]:
        fractions = self.depth_contribution[chosen]
        known = fractions[~np.isnan(fractions)]
        depth = float(known.mean()) if len(known) else None
        return {
            "num_pairs": int(chosen.sum()),
            "mean_gate": float(gate[chosen].mean()),
            "depth_contribution": depth,
            "rgb_contribution": None if depth is None else 1 - depth,
            "num_pairs_without_share": int(len(fractions) - len(known)),
            "mean_kept_area": None if self.kept is None else float(self.kept[chosen].mean()),
        }


def explain(  # long: the order of the work, and what each part leaves
    predictor: Predictor,
    rgbd: RgbdDataset,
    out: Path,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    title: str,
    seed: int = 0,
    pixel_gate: PixelGate | None = None,
    progress: Progress = no_progress,
    on_found: Callable[[Explanation], None] = lambda explanation: None,
) -> Explanation:
    """Look into a predictor on pictures, and leave `explain.json`, `gate.png` and `examples.png` in the folder `out`.

    Args:
        out: replaced when it exists; it appears whole or not at all.
        labels: class names in the order of the predictor's probabilities.
        pixel_gate: of a spatial model, where it can be seen.
        on_found: is given the explanation before it is written.

    Raises:
        UserError: the data does not fit the model.
        MissingPackageError: matplotlib is not installed.
    """
    new_figure(width_in=1, height_in=1)  # a missing matplotlib is better said before the work than after it
    found = answers_under(
        predictor,
        rgbd,
        contract=contract,
        labels=labels,
        changes={"both": as_they_are, "no_rgb": without_rgb, "no_depth": without_depth},
    )
    monitor = None if pixel_gate is None else _KeptArea(predictor, pixel_gate)
    rows = evaluate_corruptions(
        monitor or predictor, rgbd, contract=contract, labels=labels, seed=seed, progress=progress
    )
    kept = None if monitor is None else monitor.by_row(len(rows))
    explanation = Explanation(
        labels=labels,
        answers=found["both"],
        depth_contribution=depth_contributions(
            *(found[condition].probabilities for condition in ("both", "no_rgb", "no_depth"))
        ),
        rows=rows,
        kept=None if kept is None else kept[0],
        kept_by_row=None if kept is None else tuple(float(row.mean()) for row in kept),
    )
    on_found(explanation)
    with folder_replaced(out) as folder:
        write_json(folder / EXPLANATION_NAME, {"title": title, **explanation.to_json()})
        plot_gate(explanation, folder / GATE_PLOT_NAME, title=title)
        path = folder / EXAMPLES_NAME
        plot_examples(explanation, rgbd, path, contract=contract, title=title, pixel_gate=pixel_gate)
    return explanation


class _KeptArea:
    """A predictor that notes what the pixel gate keeps of each pair that is asked about."""

    def __init__(self, predictor: Predictor, pixel_gate: PixelGate) -> None:
        self._predictor = predictor
        self._pixel_gate = pixel_gate
        self._calls: list[NDArray[np.float64]] = []

    def __call__(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._calls.append(self._pixel_gate(depth).mean(axis=(1, 2), dtype=np.float64))
        return self._predictor(rgb, depth)

    def by_row(self, num_rows: int) -> list[NDArray[np.float64]]:
        """[N] of each row: `answers_under` asks about a batch under one change after the other."""
        return [np.concatenate(self._calls[row::num_rows]) for row in range(num_rows)]


def depth_contributions(
    both: NDArray[np.float32], no_rgb: NDArray[np.float32], no_depth: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Depth's share [N] of each decision, by `SHARE_DEFINITION`; NaN where neither sensor supported it.

    Args:
        both, no_rgb, no_depth: probabilities [N, C] of the same pairs with both sensors alive, and with either one dead.
    """
    answered = both.argmax(axis=1)
    available, blind, flat = (_log_odds(p[np.arange(len(p)), answered]) for p in (both, no_rgb, no_depth))
    from_rgb, from_depth = np.maximum(available - blind, 0), np.maximum(available - flat, 0)
    total = from_rgb + from_depth
    fraction = np.full(len(total), np.nan)
    np.divide(from_depth, total, out=fraction, where=total > 0)
    return fraction


def _log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def plot_gate(explanation: Explanation, path: Path, *, title: str) -> None:
    """Mean gate, depth's share and the kept area by class; mean gate and kept area by corruption. Every bar has its value.

    Of more than `MAX_NAMED` classes the ones with most pairs are shown.
    """
    found = explanation.to_json()
    by_pairs = sorted(found["by_class"].items(), key=lambda item: -item[1]["num_pairs"])[:MAX_NAMED]
    by_name = dict(item for item in found["by_class"].items() if item in by_pairs)
    classes, corruptions = list(by_name.values()), found["by_corruption"]
    some = "" if len(by_name) == len(found["by_class"]) else f" ({len(by_name)} of {len(found['by_class'])} classes)"
    names = [row.name for row in explanation.rows]
    has_kept = explanation.kept is not None
    height_in = max(3.5, (0.28 if has_kept else 0.2) * len(corruptions) + 1, 0.5 * len(classes) + 1)
    figure = new_figure(width_in=11, height_in=height_in)
    by_class, by_corruption = figure.subplots(1, 2)
    measures = {"mean_gate": "mean gate", "depth_contribution": "depth's share of the decision"}
    kept = {"mean_kept_area": "RGB kept by the pixel gate"} if has_kept else {}
    _bars(
        by_class,
        [shortened(name) for name in by_name],
        {words: [c[key] for c in classes] for key, words in (measures | kept).items()},
    )
    by_class.set(xlabel="0 = RGB, 1 = depth", title=f"by class, both sensors alive{some}")
    shown = {"mean_gate": measures["mean_gate"], **kept}
    _bars(by_corruption, names, {words: [row[key] for row in corruptions] for key, words in shown.items()})
    by_corruption.axvline(corruptions[0]["mean_gate"], color="tab:blue", linewidth=0.8, linestyle="--")
    by_corruption.tick_params(axis="y", labelsize=7)
    by_corruption.set(xlabel="gate: 0 = RGB, 1 = depth", title="by corruption (dashed: clean)")
    figure.legend(*by_class.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    figure.suptitle(title)
    save_figure(figure, path)


_BAR_COLOURS = {
    "mean gate": "tab:blue",
    "depth's share of the decision": "tab:orange",
    "RGB kept by the pixel gate": "tab:green",
}


def _bars(axes: Any, names: list[str], values_by_label: dict[str, list[float | None]]) -> None:
    """Groups of horizontal bars from 0 to 1 with their values, so that small changes show; "none" where there is no value."""
    height = 0.8 / len(values_by_label)
    for number, (label, values) in enumerate(values_by_label.items()):
        places = np.arange(len(names)) + (number - (len(values_by_label) - 1) / 2) * height
        bars = axes.barh(
            places, [value or 0.0 for value in values], height=height, label=label, color=_BAR_COLOURS[label]
        )
        texts = ["none" if value is None else f"{value:.3f}" for value in values]
        axes.bar_label(bars, texts, padding=2, fontsize=6)
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_xlim(0, 1.1)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")


def plot_examples(
    explanation: Explanation,
    rgbd: RgbdDataset,
    path: Path,
    *,
    contract: InputContract,
    title: str,
    pixel_gate: PixelGate | None = None,
) -> None:
    """A grid of up to `MAX_EXAMPLES` pairs as the model sees them: RGB, what the pixel gate leaves of it, coloured depth."""
    chosen = choose_examples(explanation.answers, count=MAX_EXAMPLES)
    rgb, depth, _ = next(framed_batches(rgbd.subset(chosen), contract=contract, batch_size=len(chosen)))
    left = None if pixel_gate is None else left_of_rgb(rgb, pixel_gate(depth))
    num_columns = min(6, len(chosen))
    num_rows, height = -(-len(chosen) // num_columns), 2 if left is None else 3
    figure = new_figure(width_in=2 * num_columns, height_in=(1 + 2 * height) * num_rows + 0.5)
    axes = figure.subplots(height * num_rows, num_columns, squeeze=False)
    for panel in axes.ravel():
        panel.axis("off")
    for number, position in enumerate(chosen):
        top, column = height * (number // num_columns), number % num_columns
        axes[top, column].imshow(rgb[number])
        axes[top, column].set_title(_caption(explanation, position), fontsize=8, color=_colour(explanation, position))
        if left is not None and explanation.kept is not None:
            axes[top + 1, column].imshow(left[number])
            axes[top + 1, column].set_title(f"RGB as gated, {explanation.kept[position]:.0%} kept", fontsize=7)
        depth_m = np.float32(DEPTH_UNIT_M) * codes_from_bytes(depth[number])
        shown = axes[top + height - 1, column].imshow(
            np.ma.masked_equal(depth_m, 0), cmap=_depth_colours(), vmin=contract.near_m, vmax=contract.far_m
        )
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.4, aspect=40, label="depth in metres; black = none")
    figure.suptitle(title)
    save_figure(figure, path)


def left_of_rgb(rgb: NDArray[np.uint8], kept: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The pictures [n, S, S, 3] as the pixel gate hands them on: what it leaves out has the mean colour. `kept`: [n, S, S]."""
    mean = np.array(IMAGENET_MEAN, np.float32) * 255
    return np.asarray(np.rint(mean + (rgb - mean) * kept[..., None]).clip(0, 255), np.uint8)


def choose_examples(answers: Answers, *, count: int) -> list[int]:
    """Positions of up to `count` pairs: up to half of them wrong answers, surest first; then right ones of every class in turn."""
    answered, confidence = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    surest = np.argsort(-confidence, kind="stable")
    wrong = [int(i) for i in surest if answered[i] != answers.truth[i]][: count // 2]
    by_class = [[int(i) for i in surest if answered[i] == c == answers.truth[i]] for c in np.unique(answers.truth)]
    # Evenly spaced ranks: sure ones and doubtful ones, and not many frames of one take.
    right: list[int] = []
    for turn in (0.0, 0.5, 1.0, 0.25, 0.75):
        right.extend(c[round(turn * (len(c) - 1))] for c in by_class if c)
    return [*dict.fromkeys(right)][: count - len(wrong)] + wrong


def _caption(explanation: Explanation, position: int) -> str:
    probabilities, gate, truth = (part[position] for part in explanation.answers)
    answered = int(probabilities.argmax())
    fraction = explanation.depth_contribution[position]
    verdict = shortened(explanation.labels[answered])
    if answered != truth:
        verdict = f"predicted {verdict},\ntrue {shortened(explanation.labels[truth])}"
    share_text = "no share" if np.isnan(fraction) else f"depth's share {fraction:.0%}"
    return f"{verdict}\n{probabilities[answered]:.1%}\ngate {gate.mean():.2f}, {share_text}"


def _colour(explanation: Explanation, position: int) -> str:
    right = explanation.answers.probabilities[position].argmax() == explanation.answers.truth[position]
    return "black" if right else "tab:red"


def _depth_colours() -> Any:
    from matplotlib import colormaps

    return colormaps["turbo_r"].with_extremes(bad="black")
