"""Scores of a classifier under every corruption and severity, their plot and their report.

Owns the table; `edgefuse.evaluation.corruptions` defines the corruptions. Works on any `Predictor`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract, bytes_from_codes, codes_from_bytes
from edgefuse.data.dataset import RgbdDataset
from edgefuse.evaluation.corruptions import CORRUPTIONS, Corruption, Scene, corrupt
from edgefuse.evaluation.metrics import Answers, Change, Predictor, Scores, answers_under, as_they_are, score
from edgefuse.framing import Framed, fit
from edgefuse.io.files import folder_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.matplotlib_io import COLOURS, draw_chance, label_lines, new_figure, save_figure, shortened
from edgefuse.io.text import by_number, markdown_cell, write_text
from edgefuse.progress import Progress, no_progress

CLEAN = "clean"
REPORT_JSON = "report.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one corruption at one severity; the first row of a table is `CLEAN` at severity 0.

    Attributes:
        gates: mean gate of each pair, [N]; not in the JSON.
    """

    corruption: str
    severity: float
    unit: str
    scores: Scores
    gates: NDArray[np.float32] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """As text, such as "dark rgb, 3 stops less light"."""
        words = self.corruption.replace("_", " ")
        return words if not self.unit else f"{words}, {self.severity:g} {self.unit}"

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            "corruption": self.corruption,
            "severity": self.severity,
            "unit": self.unit,
            "scores": self.scores.to_json(),
        }


def evaluate_corruptions(
    predictor: Predictor,
    rgbd: RgbdDataset,
    *,
    contract: InputContract,
    labels: Sequence[str],
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> tuple[Row, ...]:
    """Score a predictor on unchanged images, and under every corruption at each of its severities.

    The corruptions act on the framed pairs, so pixels are those of the model's input. With the same seed, all models of one
    input size get the same corrupted images. Corruptions that need frames of another sequence are skipped if there is only one.

    Args:
        progress: called with the number of pairs done and in total.

    Raises:
        UserError: as `edgefuse.evaluation.metrics.evaluate`.
    """
    tried = [
        (corruption, severity)
        for corruption in corruptions
        if corruption.stale != "another" or len(_sequences(rgbd)) > 1
        for severity in corruption.severities
    ]
    changes: dict[str, Change] = {CLEAN: as_they_are}
    for corruption, severity in tried:
        frame_stale = _stale_frames(rgbd, corruption, severity=severity, size=contract.size, seed=seed)
        changes[f"{corruption.name} {severity}"] = partial(
            _change, corruption=corruption, severity=severity, frame_stale=frame_stale, seed=seed
        )
    found = answers_under(
        predictor,
        rgbd,
        contract=contract,
        labels=labels,
        changes=changes,
        batch_size=batch_size,
        progress=progress,
    )
    named = [(CLEAN, 0.0, "", found[CLEAN])]
    named += [(c.name, severity, c.unit, found[f"{c.name} {severity}"]) for c, severity in tried]
    return tuple(_row(*row, labels=labels) for row in named)


def _row(corruption: str, severity: float, unit: str, answers: Answers, *, labels: Sequence[str]) -> Row:
    gates = answers.gate.mean(axis=1)
    return Row(corruption=corruption, severity=severity, unit=unit, scores=score(*answers, labels), gates=gates)


def _change(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint8],
    positions: range,
    *,
    corruption: Corruption,
    severity: float,
    frame_stale: Callable[[int], Framed | None],
    seed: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One corruption as an `edgefuse.evaluation.metrics.Change`."""
    all_codes = codes_from_bytes(depth)
    pairs = []
    for image, codes, position in zip(rgb, all_codes, positions, strict=True):
        stale = frame_stale(position)
        scene = (
            Scene(image, codes, image, codes)
            if stale is None
            else Scene(image, codes, stale.rgb, codes_from_bytes(stale.depth))
        )
        pairs.append(corrupt(corruption, scene, severity=severity, seed=(seed, position)))
    return np.stack([pair[0] for pair in pairs]), bytes_from_codes(np.stack([pair[1] for pair in pairs]))


def _sequences(rgbd: RgbdDataset) -> list[list[int]]:
    """Positions of the frames of each sequence of a class, in the order of the numbers in their names."""
    sequences: dict[tuple[int, str], list[int]] = {}
    samples = rgbd.dataset.samples
    for position, sample in enumerate(samples):
        sequences.setdefault((sample.label, sample.sequence), []).append(position)
    return [sorted(sequence, key=lambda position: by_number(samples[position].name)) for sequence in sequences.values()]


def _stale_frames(
    rgbd: RgbdDataset, corruption: Corruption, *, severity: float, size: int, seed: int
) -> Callable[[int], Framed | None]:
    """The frame that a stopped stream still shows at a position; the first of the sequence if the stream stopped before it."""
    if corruption.stale == "no":
        return lambda position: None
    sequences = _sequences(rgbd)
    places = {p: (number, rank) for number, sequence in enumerate(sequences) for rank, p in enumerate(sequence)}

    def framed(position: int) -> Framed:
        mine, rank = places[position]
        if corruption.stale == "late":
            shown = sequences[mine][max(0, rank - round(severity))]
        else:
            rng = np.random.default_rng((seed, position))
            other = sequences[(mine + 1 + int(rng.integers(len(sequences) - 1))) % len(sequences)]
            shown = other[int(rng.integers(len(other)))]
        unit_m = rgbd.dataset.samples[shown].depth_unit_m
        return fit(rgbd.rgb[shown], rgbd.depth[shown], size=size, depth_unit_m=unit_m)

    return framed


MAX_PANELS = 5
_AXES = {
    "dark_rgb": "RGB darker by (stops)",
    "overexposed_rgb": "RGB overexposed by (stops)",
    "blur_rgb": "RGB blurred: sigma (pixels)",
    "warm_light": "warm light: colour temperature (K)",
    "cold_light": "cold light: colour temperature (K)",
    "frozen_rgb": "RGB late by (frames)",
    "depth_holes": "depth missing: fraction of the image",
    "depth_edge_holes": "depth missing along edges: width (pixels)",
    "depth_noise": "depth noise of a camera at (m)",
    "depth_shift": "depth shifted against RGB by (pixels)",
    "frozen_depth": "depth late by (frames)",
}
"""Axis label of the severity of a corruption."""
_TICKS = {
    CLEAN: "clean",
    "no_rgb": "no RGB",
    "no_depth": "no depth",
    "foreign_rgb": "RGB of another\nsequence",
    "foreign_depth": "depth of another\nsequence",
}


def plot_corruptions(rows_by_model: Mapping[str, Sequence[Row]], path: Path, *, title: str) -> None:
    """Accuracy of up to five models: bars for missing or wrong streams, and lines over the severity.

    The corruptions that cost the most accuracy have a panel each, at most `MAX_PANELS` including the bars.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    shown = dict(list(rows_by_model.items())[: len(COLOURS)])
    rows = next(iter(shown.values()))
    num_classes = len(rows[0].scores.confusion)
    ungraded = [row.corruption for row in rows[1:] if not row.unit]
    graded = sorted({row.corruption for row in rows if row.unit}, key=lambda name: (-_cost(shown, name), name))
    lines = graded[: MAX_PANELS - bool(ungraded)]
    cells = ["bars"] * (2 * bool(ungraded)) + lines
    cells += ["."] * (-len(cells) % 3)
    figure = new_figure(width_in=11, height_in=0.6 + len(cells))
    panels = figure.subplot_mosaic([cells[i : i + 3] for i in range(0, len(cells), 3)])
    for panel in panels.values():
        panel.set(ylim=(0, 105), ylabel="accuracy, %")
        panel.grid(alpha=0.3, axis="y")
        draw_chance(panel, num_classes)
    if ungraded:
        _plot_bars(panels["bars"], shown, ungraded)
    for name in lines:
        for (model, of_model), colour in zip(shown.items(), COLOURS, strict=False):
            mine = [row for row in of_model if row.corruption in (CLEAN, name)]
            ticks = [f"{row.severity:g}" if row.unit else CLEAN for row in mine]
            panels[name].plot(ticks, _percent(mine), marker="o", markersize=4, color=colour, label=model)
        panels[name].set_xlabel(_AXES.get(name, f"{name.replace('_', ' ')} ({mine[-1].unit})"))
        label_lines(panels[name], fontsize=8)
    left_out = [f"{len(rows_by_model) - len(shown)} more models"] if len(shown) < len(rows_by_model) else []
    left_out += [f"{len(graded) - len(lines)} corruptions that cost less"] if len(lines) < len(graded) else []
    figure.suptitle(title + (f"\n(not shown: {', '.join(left_out)})" if left_out else ""))
    save_figure(figure, path)


def _cost(rows_by_model: Mapping[str, Sequence[Row]], name: str) -> float:
    """Loss of accuracy at the worst severity of a corruption, mean over the models."""
    return float(
        np.mean(
            [
                rows[0].scores.accuracy - min(row.scores.accuracy for row in rows if row.corruption == name)
                for rows in rows_by_model.values()
            ]
        )
    )


def write_failures(
    rows_by_model: Mapping[str, Sequence[Row]],
    out: Path,
    *,
    title: str,
    command: str,
    facts: Mapping[str, Any],
) -> Path:
    """Write `report.md`, `report.csv`, `report.json` and `report.png` to the folder `out`; return the path of `report.md`.

    Args:
        rows_by_model: rows of models that were scored under the same corruptions.
        out: replaced if it exists; written atomically.
        facts: other information on how the figures were made, in the order of the report: seed, data, commit, versions.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    header = {"title": title, "command": command, **facts}
    with folder_replaced(out) as folder:
        plot_corruptions(rows_by_model, folder / "report.png", title=title)
        models = {name: [row.to_json() for row in rows] for name, rows in rows_by_model.items()}
        write_json(folder / REPORT_JSON, {**header, "models": models})
        with (folder / "report.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["corruption", "severity", "unit", *rows_by_model])
            for same in zip(*rows_by_model.values(), strict=True):
                first = same[0]
                accuracies = [row.scores.accuracy for row in same]
                writer.writerow([first.corruption, f"{first.severity:g}", first.unit, *accuracies])
        lines = [f"# {title}", "", f"    {command}", ""]
        lines += [
            f"- {name.replace('_', ' ')}: {value if isinstance(value, str | int) else _as_text(value)}."
            for name, value in facts.items()
        ]
        lines += [
            "",
            f"| accuracy, % | {' | '.join(map(markdown_cell, rows_by_model))} |",
            f"|---{'|--:' * len(rows_by_model)}|",
        ]
        lines += [
            f"| {same[0].name} | {' | '.join(f'{100 * row.scores.accuracy:.1f}' for row in same)} |"
            for same in zip(*rows_by_model.values(), strict=True)
        ]
        lines += ["", "![accuracy against severity](report.png)"]
        write_text(folder / "report.md", "\n".join(lines) + "\n")
    return out / "report.md"


def _as_text(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _plot_bars(panel: Any, rows_by_model: Mapping[str, Sequence[Row]], names: Sequence[str]) -> None:
    """Accuracy on clean images and under corruptions with a single severity; the first bar of each model has its name."""
    width = 0.84 / len(rows_by_model)
    ticks = (CLEAN, *names)
    for number, ((model, rows), colour) in enumerate(zip(rows_by_model.items(), COLOURS, strict=False)):
        percent = _percent([row for name in ticks for row in rows if row.corruption == name])
        centres = np.arange(len(ticks)) + (number - (len(rows_by_model) - 1) / 2) * width
        panel.bar(centres, percent, width=0.94 * width, color=colour)
        inside = percent[0] > 50
        panel.text(
            centres[0],
            2 if inside else percent[0] + 2,
            shortened(model, most=18),
            rotation=90,
            ha="center",
            va="bottom",
            color="white" if inside else colour,
            fontsize=8,
        )
    panel.set_xticks(range(len(ticks)), [_TICKS.get(name, name.replace("_", " ")) for name in ticks], fontsize=9)
    panel.set_xlim(left=-0.95)


def _percent(rows: Sequence[Row]) -> list[float]:
    return [100 * row.scores.accuracy for row in rows]
