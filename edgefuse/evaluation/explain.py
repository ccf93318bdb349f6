"""Explanations of a classifier: its gate by class and corruption, the contribution of each sensor, and examples.

Owns the definitions and the plots. Works on any `Predictor`, from its inputs and outputs only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, IMAGENET_MEAN, InputContract, Outputs, codes_from_bytes
from edgefuse.data.check import closest_twins, thumbnail
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
from edgefuse.io.matplotlib_io import COLOURS, GREY, MAX_NAMED, new_figure, save_figure, shortened
from edgefuse.progress import Progress, no_progress

EXPLANATION_NAME = "explain.json"
GATE_PLOT_NAME = "gate.png"
EXAMPLES_NAME = "examples.png"
MAX_EXAMPLES = 12

CONTRIBUTION_DEFINITION = (
    "For each pair, let k be the class predicted with both sensors. The support of a sensor is the decrease of the log-odds "
    "ln(p_k / (1 - p_k)) when only that sensor is missing (RGB black, depth without measurement); an increase counts as 0, and p is "
    "clipped to 1e-6 .. 1 - 1e-6. The contribution of depth is its support divided by the sum of both; that of RGB is the rest. "
    "A pair where no sensor has support has no contribution and is counted separately."
)
PROBABILITY_MARGIN = 1e-6
KEPT_DEFINITION = (
    "Fraction of the RGB image that the pixel gate G of a spatial model keeps: 1 - G, mean over the pixels; null without such a "
    "gate, and for exported files, which do not output it."
)

PixelGate = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""Framed rgb uint8 [N, S, S, 3] and depth uint8 [N, S, S, 2] -> kept fraction of each RGB pixel, 1 - G, float32 [N, S, S]."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Results on N pairs.

    Attributes:
        answers: outputs with both sensors available.
        depth_contribution: [N], 0 = only RGB contributed, 1 = only depth, NaN = neither; see `CONTRIBUTION_DEFINITION`.
        rows: scores and mean gate, clean and under every corruption.
        kept: [N], fraction of the RGB image that the pixel gate keeps, with both sensors available; None without such a gate.
        kept_by_row: mean kept fraction in each of `rows`.
    """

    labels: tuple[str, ...]
    answers: Answers
    depth_contribution: NDArray[np.float64]
    rows: tuple[Row, ...]
    kept: NDArray[np.float64] | None = None
    kept_by_row: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The results by class and by corruption."""
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


def explain(  # long: the order of the steps
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
    """Explain a predictor on a data set: write `explain.json`, `gate.png` and `examples.png` to the folder `out`.

    Args:
        out: replaced if it exists; written atomically.
        labels: class names in the order of the predictor's probabilities.
        pixel_gate: of a spatial model, if accessible.
        on_found: called with the explanation before it is written.

    Raises:
        UserError: the data does not fit the model.
        MissingPackageError: matplotlib is not installed.
    """
    new_figure(width_in=1, height_in=1)  # fails early if matplotlib is missing
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
    """A predictor that records the fraction that the pixel gate keeps of each pair."""

    def __init__(self, predictor: Predictor, pixel_gate: PixelGate) -> None:
        self._predictor = predictor
        self._pixel_gate = pixel_gate
        self._calls: list[NDArray[np.float64]] = []

    def __call__(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Outputs:
        self._calls.append(self._pixel_gate(rgb, depth).mean(axis=(1, 2), dtype=np.float64))
        return self._predictor(rgb, depth)

    def by_row(self, num_rows: int) -> list[NDArray[np.float64]]:
        """[N] for each row: `answers_under` calls the predictor on a batch once per change, in order."""
        return [np.concatenate(self._calls[row::num_rows]) for row in range(num_rows)]


def depth_contributions(
    both: NDArray[np.float32], no_rgb: NDArray[np.float32], no_depth: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Contribution of depth [N] by `CONTRIBUTION_DEFINITION`; NaN if no sensor has support.

    Args:
        both, no_rgb, no_depth: probabilities [N, C] of the same pairs with both sensors, and with either one missing.
    """
    predicted = both.argmax(axis=1)
    odds, odds_no_rgb, odds_no_depth = (_log_odds(p[np.arange(len(p)), predicted]) for p in (both, no_rgb, no_depth))
    from_rgb, from_depth = np.maximum(odds - odds_no_rgb, 0), np.maximum(odds - odds_no_depth, 0)
    total = from_rgb + from_depth
    fraction = np.full(len(total), np.nan)
    np.divide(from_depth, total, out=fraction, where=total > 0)
    return fraction


def _log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def plot_gate(explanation: Explanation, path: Path, *, title: str) -> None:
    """Gate, kept area and contribution of depth by class; below, the first two under corruptions.

    With more than `MAX_NAMED` classes, the ones with the most pairs are shown.
    """
    found = explanation.to_json()
    by_pairs = sorted(found["by_class"].items(), key=lambda item: -item[1]["num_pairs"])[:MAX_NAMED]
    classes = {"all pairs": found["all"], **{k: v for k, v in found["by_class"].items() if (k, v) in by_pairs}}
    conditions = changed_conditions(explanation)
    measures = [key for key in _AXES if key != "mean_kept_area" or explanation.kept is not None]
    has_changes = len(conditions) > 1
    heights = [len(classes) + 1, len(conditions) + 1][: 1 + has_changes]
    figure = new_figure(width_in=1 + 3.3 * len(measures), height_in=1.8 * len(heights) + 0.24 * sum(heights))
    panels = figure.subplots(
        len(heights), len(measures), sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    for row, groups in zip(panels, (classes, conditions), strict=False):
        for panel, key in zip(row, measures, strict=True):
            if key in next(iter(groups.values())):
                _dots(panel, {name: group[key] for name, group in groups.items()})
                panel.set_xlabel(_AXES[key])
                panel.tick_params(labelbottom=True)
            else:
                panel.axis("off")
    panels[0, 0].set_title("by class, both sensors available", loc="left")
    if has_changes:
        panels[1, 0].set_title(f"corruptions that move it most (by {MIN_CHANGE:g} or more)", loc="left")
    else:
        title += f"\n(no corruption moves the gate by {MIN_CHANGE:g} or more)"
    figure.suptitle(title)
    save_figure(figure, path)


MIN_CHANGE = 0.02
MAX_CONDITIONS = 8
_AXES = {
    "mean_gate": "mean gate\n0 = RGB only, 1 = depth only",
    "mean_kept_area": "RGB kept by the spatial gate\n0 = nothing, 1 = the complete image",
    "depth_contribution": "contribution of depth\n0 = RGB decided, 1 = depth decided",
}


def changed_conditions(explanation: Explanation) -> dict[str, dict[str, float]]:
    """The clean condition, then the `MAX_CONDITIONS` corruptions that change a mean most, from the lowest gate to the highest.

    Each is shown at the severity with the largest change, which is at least `MIN_CHANGE`.
    """
    measures = {"mean_gate": [row.scores.mean_gate for row in explanation.rows]}
    if explanation.kept_by_row is not None:
        measures["mean_kept_area"] = list(explanation.kept_by_row)
    values = np.array(list(measures.values()))
    change = np.abs(values - values[:, :1]).max(axis=0)
    strongest: dict[str, int] = {}
    for number in np.argsort(-change, kind="stable"):
        if change[number] >= MIN_CHANGE:
            strongest.setdefault(explanation.rows[number].corruption, int(number))
    shown = sorted(list(strongest.values())[:MAX_CONDITIONS], key=lambda number: measures["mean_gate"][number])
    return {
        explanation.rows[number].name: {key: float(of_key[number]) for key, of_key in measures.items()}
        for number in (0, *shown)
    }


def _dots(panel: Any, values: dict[str, float | None]) -> None:
    """A labelled dot from 0 to 1 for each name, and a line to the value of the first; "none" for None."""
    reference = next(iter(values.values()))
    for row, value in enumerate(values.values()):
        if value is not None:
            colour = GREY if row == 0 else COLOURS[0]
            panel.plot([value if reference is None else reference, value], [row, row], color=colour, alpha=0.5)
            panel.plot(value, row, "o", color=colour)
        text, place = ("none", 0.0) if value is None else (f"{value:.2f}", value)
        side = -1 if value is not None and reference is not None and value < reference else 1
        panel.annotate(
            text,
            (place, row),
            xytext=(6 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8,
        )
    if reference is not None:
        panel.axvline(reference, color=GREY, linestyle="--", linewidth=0.8)
    panel.set_yticks(range(len(values)), [shortened(name, most=40) for name in values])
    panel.set(xlim=(-0.16, 1.16), ylim=(len(values) - 0.4, -0.6), xticks=(0, 0.25, 0.5, 0.75, 1))
    panel.grid(alpha=0.3, axis="x")


def plot_examples(
    explanation: Explanation,
    rgbd: RgbdDataset,
    path: Path,
    *,
    contract: InputContract,
    title: str,
    pixel_gate: PixelGate | None = None,
) -> None:
    """A grid of up to `MAX_EXAMPLES` pairs as model input: RGB, RGB masked by the pixel gate, coloured depth."""
    chosen = choose_examples(explanation.answers, rgbd, count=MAX_EXAMPLES)
    rgb, depth, _ = next(framed_batches(rgbd.subset(chosen), contract=contract, batch_size=len(chosen)))
    masked = None if pixel_gate is None else masked_rgb(rgb, pixel_gate(rgb, depth))
    num_columns = min(6, len(chosen))
    num_rows, height = -(-len(chosen) // num_columns), 2 if masked is None else 3
    figure = new_figure(width_in=2 * num_columns, height_in=(1 + 2 * height) * num_rows + 0.5)
    axes = figure.subplots(height * num_rows, num_columns, squeeze=False)
    for panel in axes.ravel():
        panel.axis("off")
    for number, position in enumerate(chosen):
        top, column = height * (number // num_columns), number % num_columns
        axes[top, column].imshow(rgb[number])
        axes[top, column].set_title(_caption(explanation, position), fontsize=8, color=_colour(explanation, position))
        if masked is not None and explanation.kept is not None:
            axes[top + 1, column].imshow(masked[number])
            axes[top + 1, column].set_title(f"RGB after the gate, {explanation.kept[position]:.0%} kept", fontsize=7)
        axes[top + height - 1, column].set_title("depth", fontsize=7)
        depth_m = np.float32(DEPTH_UNIT_M) * codes_from_bytes(depth[number])
        shown = axes[top + height - 1, column].imshow(
            np.ma.masked_equal(depth_m, 0), cmap=_depth_colours(), vmin=contract.near_m, vmax=contract.far_m
        )
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.4, aspect=40, label="depth in metres; black = none")
    figure.suptitle(title)
    save_figure(figure, path)


def masked_rgb(rgb: NDArray[np.uint8], kept: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The images [n, S, S, 3] after the pixel gate: masked pixels have the mean colour. `kept`: [n, S, S]."""
    mean = np.array(IMAGENET_MEAN, np.float32) * 255
    return np.asarray(np.rint(mean + (rgb - mean) * kept[..., None]).clip(0, 255), np.uint8)


def choose_examples(answers: Answers, rgbd: RgbdDataset, *, count: int) -> list[int]:
    """Positions of up to `count` pairs: correct ones of each class in turn, then up to half wrong ones, most confident first.

    Sequences that are not shown yet come first; near-duplicates are skipped.
    """
    predicted, confidence = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    is_right = predicted == answers.truth
    most_confident = [int(i) for i in np.argsort(-confidence, kind="stable") if not is_right[i]]
    wrong = _different(_new_sequences_first(most_confident, rgbd), rgbd, count=count // 2)
    shuffled = np.random.default_rng(0).permutation(len(is_right))
    by_class = [[int(i) for i in shuffled if is_right[i] and predicted[i] == c] for c in np.unique(answers.truth)]
    turns = zip_longest(*(_new_sequences_first(of_class, rgbd, shown=wrong) for of_class in by_class))
    right = [i for turn in turns for i in turn if i is not None]
    return [*_different(right, rgbd, count=count, shown=wrong), *wrong]


def _new_sequences_first(positions: list[int], rgbd: RgbdDataset, shown: Sequence[int] = ()) -> list[int]:
    """Sort stably by rank within the sequence, counting the shown pairs: first pairs, then second pairs, and so on."""
    samples, seen, rank = rgbd.dataset.samples, Counter[tuple[int, str]](), dict[int, int]()
    for position in (*shown, *positions):
        sequence = (samples[position].label, samples[position].sequence)
        rank[position] = seen[sequence]
        seen[sequence] += 1
    return sorted(positions, key=rank.__getitem__)


def _different(positions: list[int], rgbd: RgbdDataset, *, count: int, shown: Sequence[int] = ()) -> list[int]:
    """The first positions whose images differ from each other and from those shown, up to `count` including the shown ones."""
    chosen = list(shown)
    for position in positions:
        if len(chosen) < count:
            thumbnails = np.stack([thumbnail(rgbd.rgb[i]) for i in (*chosen, position)])
            if not closest_twins(thumbnails, [str(i) for i in range(len(thumbnails))]):
                chosen.append(position)
    return chosen[len(shown) :]


def _caption(explanation: Explanation, position: int) -> str:
    probabilities, gate, truth = (part[position] for part in explanation.answers)
    predicted = int(probabilities.argmax())
    fraction = explanation.depth_contribution[position]
    verdict = shortened(explanation.labels[predicted])
    if predicted != truth:
        verdict = f"predicted {verdict},\ntrue {shortened(explanation.labels[truth])}"
    contribution = "depth: none" if np.isnan(fraction) else f"depth contributes {fraction:.0%}"
    return f"{verdict}\nprobability {probabilities[predicted]:.0%}\ngate {gate.mean():.2f}, {contribution}"


def _colour(explanation: Explanation, position: int) -> str:
    right = explanation.answers.probabilities[position].argmax() == explanation.answers.truth[position]
    return "black" if right else "tab:red"


def _depth_colours() -> Any:
    from matplotlib import colormaps

    return colormaps["turbo_r"].with_extremes(bad="black")
