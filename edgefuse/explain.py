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

from edgefuse.contract import DEPTH_UNIT_M, InputContract, codes_from_bytes
from edgefuse.data.folder import Pictures
from edgefuse.evaluation import (
    Answers,
    Predictor,
    answers_under,
    as_they_are,
    framed_batches,
    without_depth,
    without_rgb,
)
from edgefuse.figures import new_figure, save_figure
from edgefuse.files import folder_replaced, write_json
from edgefuse.robustness import Row, evaluate_corruptions

EXPLANATION_NAME = "explain.json"
GATE_PLOT_NAME = "gate.png"
EXAMPLES_NAME = "examples.png"
MAX_EXAMPLES = 12

SHARE_DEFINITION = (
    "For each pair, with k the class that is answered when both sensors are alive: a sensor's support is how far the log-odds "
    "ln(p_k / (1 - p_k)) fall when that sensor is dead (RGB black, depth without measurement) and the other stays; a rise "
    "counts as 0, and p is kept within 1e-6 of 0 and 1. Depth's share is its support over the sum of both, RGB's the rest. "
    "A pair that neither sensor's death makes less sure has no share, and is counted apart."
)
PROBABILITY_MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What was found on N pairs.

    Attributes:
        answers: with both sensors alive.
        depth_share: [N], 0 = the decision came from RGB, 1 = from depth, NaN = from neither; see `SHARE_DEFINITION`.
        rows: scores and mean gate clean and under every corruption.
    """

    labels: tuple[str, ...]
    answers: Answers
    depth_share: NDArray[np.float64]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures by class and by corruption."""
        gate = self.answers.gate.mean(axis=1)
        present = [(number, label) for number, label in enumerate(self.labels) if (self.answers.truth == number).any()]
        everything = np.ones(len(gate), bool)
        return {
            "num_pairs": len(gate),
            "accuracy": float((self.answers.probabilities.argmax(axis=1) == self.answers.truth).mean()),
            "gate_meaning": "mean over features; 0 = RGB, 1 = depth",
            "share_definition": SHARE_DEFINITION,
            "all": self._group(everything, gate),
            "by_class": {label: self._group(self.answers.truth == number, gate) for number, label in present},
            "by_corruption": [
                {
                    "corruption": row.corruption,
                    "severity": row.severity,
                    "unit": row.unit,
                    "mean_gate": row.scores.mean_gate,
                    "accuracy": row.scores.accuracy,
                }
                for row in self.rows
            ],
        }

    def _group(self, chosen: NDArray[np.bool_], gate: NDArray[np.float32]) -> dict[str, Any]:
        shares = self.depth_share[chosen]
        known = shares[~np.isnan(shares)]
        depth = float(known.mean()) if len(known) else None
        return {
            "num_pairs": int(chosen.sum()),
            "mean_gate": float(gate[chosen].mean()),
            "share_of_depth": depth,
            "share_of_rgb": None if depth is None else 1 - depth,
            "num_pairs_without_share": int(len(shares) - len(known)),
        }


def explain(
    predictor: Predictor,
    pictures: Pictures,
    out: Path,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    title: str,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Look into a predictor on pictures, and leave `explain.json`, `gate.png` and `examples.png` in the folder `out`.

    Args:
        out: replaced when it exists; it appears whole or not at all.
        labels: class names in the order of the predictor's probabilities.

    Raises:
        UserError: the data does not fit the model.
        MissingPackageError: matplotlib is not installed.
    """
    new_figure(width_in=1, height_in=1)  # a missing matplotlib is better said before the work than after it
    found = answers_under(
        predictor,
        pictures,
        contract=contract,
        labels=labels,
        changes={"both": as_they_are, "no_rgb": without_rgb, "no_depth": without_depth},
    )
    rows = evaluate_corruptions(
        predictor, pictures, contract=contract, labels=labels, seed=seed, on_progress=on_progress
    )
    explanation = Explanation(
        labels=labels,
        answers=found["both"],
        depth_share=depth_shares(*(found[condition].probabilities for condition in ("both", "no_rgb", "no_depth"))),
        rows=rows,
    )
    with folder_replaced(out) as folder:
        write_json(folder / EXPLANATION_NAME, {"title": title, **explanation.to_json()})
        plot_gate(explanation, folder / GATE_PLOT_NAME, title=title)
        plot_examples(explanation, pictures, folder / EXAMPLES_NAME, contract=contract, title=title)
    return explanation


def depth_shares(
    both: NDArray[np.float32], no_rgb: NDArray[np.float32], no_depth: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Depth's share [N] of each decision, by `SHARE_DEFINITION`; NaN where neither sensor supported it.

    Args:
        both, no_rgb, no_depth: probabilities [N, C] of the same pairs with both sensors alive, and with either one dead.
    """
    answered = both.argmax(axis=1)
    alive, blind, flat = (_log_odds(p[np.arange(len(p)), answered]) for p in (both, no_rgb, no_depth))
    from_rgb, from_depth = np.maximum(alive - blind, 0), np.maximum(alive - flat, 0)
    total = from_rgb + from_depth
    share = np.full(len(total), np.nan)
    np.divide(from_depth, total, out=share, where=total > 0)
    return share


def _log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def plot_gate(explanation: Explanation, path: Path, *, title: str) -> None:
    """Mean gate and depth's share by class, and mean gate by corruption."""
    found = explanation.to_json()
    classes, corruptions = found["by_class"], explanation.rows
    height_in = max(3.5, 0.17 * len(corruptions) + 1, 0.4 * len(classes) + 1)
    figure = new_figure(width_in=11, height_in=height_in)
    by_class, by_corruption = figure.subplots(1, 2)
    positions = np.arange(len(classes))
    by_class.barh(positions - 0.2, [c["mean_gate"] for c in classes.values()], height=0.4, label="mean gate")
    shares = [np.nan if c["share_of_depth"] is None else c["share_of_depth"] for c in classes.values()]
    by_class.barh(positions + 0.2, shares, height=0.4, label="depth's share of the decision")
    by_class.set_yticks(positions, list(classes))
    by_class.set(xlabel="0 = RGB, 1 = depth", title="by class, both sensors alive")
    rows = np.arange(len(corruptions))
    by_corruption.barh(rows, [row.scores.mean_gate for row in corruptions], color="tab:blue")
    by_corruption.axvline(corruptions[0].scores.mean_gate, color="black", linewidth=0.8, linestyle="--")
    by_corruption.set_yticks(rows, [row.name for row in corruptions], fontsize=7)
    by_corruption.set(xlabel="mean gate: 0 = RGB, 1 = depth", title="by corruption (dashed: clean)")
    for axes in (by_class, by_corruption):
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        axes.grid(alpha=0.3, axis="x")
    figure.legend(*by_class.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_examples(
    explanation: Explanation, pictures: Pictures, path: Path, *, contract: InputContract, title: str
) -> None:
    """A grid of up to `MAX_EXAMPLES` pairs as the model sees them: RGB above, coloured depth below."""
    chosen = choose_examples(explanation.answers, count=MAX_EXAMPLES)
    rgb, depth, _ = next(framed_batches(pictures.subset(chosen), contract=contract, batch_size=len(chosen)))
    num_columns = min(6, len(chosen))
    num_rows = -(-len(chosen) // num_columns)
    figure = new_figure(width_in=2 * num_columns, height_in=5 * num_rows + 0.5)
    axes = figure.subplots(2 * num_rows, num_columns, squeeze=False)
    for panel in axes.ravel():
        panel.axis("off")
    for number, position in enumerate(chosen):
        top, column = 2 * (number // num_columns), number % num_columns
        axes[top, column].imshow(rgb[number])
        axes[top, column].set_title(_caption(explanation, position), fontsize=8, color=_colour(explanation, position))
        depth_m = np.float32(DEPTH_UNIT_M) * codes_from_bytes(depth[number])
        axes[top + 1, column].set_facecolor("black")
        shown = axes[top + 1, column].imshow(
            np.ma.masked_equal(depth_m, 0), cmap=_depth_colours(), vmin=contract.near_m, vmax=contract.far_m
        )
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.4, aspect=40, label="depth in metres; black = none")
    figure.suptitle(title)
    save_figure(figure, path)


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
    share = explanation.depth_share[position]
    verdict = explanation.labels[answered] + ("" if answered == truth else f" (is {explanation.labels[truth]})")
    share_text = "no share" if np.isnan(share) else f"depth's share {share:.0%}"
    return f"{verdict}\n{probabilities[answered]:.1%}\ngate {gate.mean():.2f}, {share_text}"


def _colour(explanation: Explanation, position: int) -> str:
    right = explanation.answers.probabilities[position].argmax() == explanation.answers.truth[position]
    return "black" if right else "tab:red"


def _depth_colours() -> Any:
    from matplotlib import colormaps

    return colormaps["turbo_r"].with_extremes(bad="black")
