"""How a classifier does while a sensor fails: its scores under every corruption and severity, their plot and their report.

Owns the table; what each corruption does stands in `edgefuse.evaluation.corruptions`. Works on any `Predictor`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract, bytes_from_codes, codes_from_bytes
from edgefuse.data.dataset import RgbdDataset
from edgefuse.evaluation.corruptions import CORRUPTIONS, Corruption, Scene, corrupt
from edgefuse.evaluation.metrics import Change, Predictor, Scores, answers_under, as_they_are, score
from edgefuse.framing import Framed, fit
from edgefuse.io.files import folder_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.matplotlib_io import new_figure, save_figure
from edgefuse.io.text import by_number, markdown_cell, write_text
from edgefuse.progress import Progress, no_progress

CLEAN = "clean"
REPORT_JSON = "report.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one corruption at one severity; the first row of a table is `CLEAN` at severity 0."""

    corruption: str
    severity: float
    unit: str
    scores: Scores

    @property
    def name(self) -> str:
        """In words, such as "dark rgb, 3 stops less light"."""
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
    """Score a predictor on pictures as they are, and under every corruption at each of its severities.

    The corruptions act on the framed pairs, so their pixels are those of the model's input. The same seed gives every
    model of one input size the same corrupted pictures. Frames of another take need one: with a single take, those
    corruptions are left out.

    Args:
        progress: called with the pairs done and their number.

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
    rows = [Row(corruption=CLEAN, severity=0.0, unit="", scores=score(*found[CLEAN], labels))]
    for corruption, severity in tried:
        scores = score(*found[f"{corruption.name} {severity}"], labels)
        rows.append(Row(corruption=corruption.name, severity=severity, unit=corruption.unit, scores=scores))
    return tuple(rows)


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
    """Positions of the frames of each take (class and instance), in the order of the numbers in their names."""
    sequences: dict[tuple[int, str], list[int]] = {}
    samples = rgbd.dataset.samples
    for position, sample in enumerate(samples):
        sequences.setdefault((sample.label, sample.sequence), []).append(position)
    return [sorted(sequence, key=lambda position: by_number(samples[position].name)) for sequence in sequences.values()]


def _stale_frames(
    rgbd: RgbdDataset, corruption: Corruption, *, severity: float, size: int, seed: int
) -> Callable[[int], Framed | None]:
    """What a stopped stream still shows at a position; a take's first frame when it stopped longer ago than the take is old."""
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


def plot_corruptions(rows_by_model: Mapping[str, Sequence[Row]], path: Path, *, title: str) -> None:
    """Accuracy against severity, one panel for each corruption and one for those without degrees; a line for each model.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(row.corruption for rows in rows_by_model.values() for row in rows[1:]))
    graded = [n for n in names if sum(row.corruption == n for row in next(iter(rows_by_model.values()))) > 1]
    ungraded = [n for n in names if n not in graded]
    num_panels = len(graded) + bool(ungraded)
    num_columns = min(4, num_panels)
    num_rows = -(-num_panels // num_columns)
    figure = new_figure(width_in=3.4 * num_columns, height_in=2.7 * num_rows + 0.6)
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for panel in panels[num_panels:]:
        panel.set_visible(False)
    if ungraded:
        _plot_bars(panels[0], rows_by_model, ungraded)
    for panel, name in zip(panels[bool(ungraded) :], graded, strict=False):
        for model, rows in rows_by_model.items():
            mine = [row for row in rows if row.corruption in (CLEAN, name)]
            panel.plot(
                [f"{r.severity:g}" if r.unit else CLEAN for r in mine], _percent(mine), marker="o", ms=3, label=model
            )
        panel.set(title=name.replace("_", " "), xlabel=next(r.unit for r in mine if r.corruption == name))
    for panel in panels[:num_panels]:
        panel.set_ylim(0, 103)
        panel.grid(alpha=0.3)
    for panel in panels[:num_panels:num_columns]:
        panel.set_ylabel("accuracy, %")
    handles, model_names = panels[0].get_legend_handles_labels()
    figure.legend(handles, model_names, loc="outside lower center", ncols=min(6, len(model_names)))
    figure.suptitle(title)
    save_figure(figure, path)


def write_failures(
    rows_by_model: Mapping[str, Sequence[Row]],
    out: Path,
    *,
    title: str,
    command: str,
    facts: Mapping[str, Any],
) -> Path:
    """Leave the table as `report.md`, `report.csv` and `report.json` with `report.png` in the folder `out`; the path of the first.

    Args:
        rows_by_model: the models were scored under the same corruptions.
        out: replaced when it exists; it appears whole or not at all.
        facts: what else made the figures, in the order in which it is told: seed, data, commit, versions.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    told = {"title": title, "command": command, **facts}
    with folder_replaced(out) as folder:
        plot_corruptions(rows_by_model, folder / "report.png", title=title)
        models = {name: [row.to_json() for row in rows] for name, rows in rows_by_model.items()}
        write_json(folder / REPORT_JSON, {**told, "models": models})
        with (folder / "report.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["corruption", "severity", "unit", *rows_by_model])
            for same in zip(*rows_by_model.values(), strict=True):
                first = same[0]
                accuracies = [row.scores.accuracy for row in same]
                writer.writerow([first.corruption, f"{first.severity:g}", first.unit, *accuracies])
        lines = [f"# {title}", "", f"    {command}", ""]
        lines += [
            f"- {name.replace('_', ' ')}: {value if isinstance(value, str | int) else _in_words(value)}."
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


def _in_words(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _plot_bars(panel: Any, rows_by_model: Mapping[str, Sequence[Row]], names: Sequence[str]) -> None:
    """Accuracy clean and under corruptions that have one severity."""
    width = 0.8 / len(rows_by_model)
    shown = (CLEAN, *names)
    for number, (model, rows) in enumerate(rows_by_model.items()):
        percent = [_percent([row for row in rows if row.corruption == name])[0] for name in shown]
        centres = np.arange(len(shown)) + (number - (len(rows_by_model) - 1) / 2) * width
        panel.bar(centres, percent, width=width, label=model)
    panel.set_xticks(range(len(shown)), [name.replace("_", "\n") for name in shown], fontsize=8)
    panel.set_title("one stream dead, or from another take", fontsize=10)


def _percent(rows: Sequence[Row]) -> list[float]:
    return [100 * row.scores.accuracy for row in rows]
