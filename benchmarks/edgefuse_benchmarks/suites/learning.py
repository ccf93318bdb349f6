"""Accuracy of each fusion on the built-in data set, with new images, a new split and new weights for every seed.

Owns the protocol and its table. All accuracies are on held-out sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgefuse.data.dataset import load, scan
from edgefuse.evaluation.metrics import CONDITIONS, Condition
from edgefuse.io.environment import git_revision_text
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.text import write_text
from edgefuse.model.choices import FusionKind
from edgefuse.progress import Progress, no_progress
from edgefuse.synth.rendered_set import write_dataset
from edgefuse.training.recipe import TrainConfig, demo_rgbd
from edgefuse.training.trainer import train_on_dataset
from edgefuse_benchmarks import machine

FUSIONS: tuple[FusionKind, ...] = ("rgb", "depth", "naive", "gated", "joint", "spatial")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LearningReport:
    """Accuracies of every seed.

    Attributes:
        accuracy: fusion -> condition -> one accuracy per seed, in the order of `seeds`.
        hardware: from `machine.describe`, before the first training.
    """

    seeds: tuple[int, ...]
    num_pairs: int
    config: TrainConfig
    accuracy: dict[str, dict[Condition, list[float]]]
    hardware: dict[str, Any]

    @property
    def date(self) -> str:
        """Date of the measurement, UTC, as 2026-01-31."""
        return str(self.hardware["date_utc"])[:10]

    def gains(self) -> list[float]:
        """Accuracy of gated minus that of the better single sensor of the same seed, in points, with both sensors."""
        singles = np.maximum(self.accuracy["rgb"]["both"], self.accuracy["depth"]["both"])
        return (100 * (np.array(self.accuracy["gated"]["both"]) - singles)).tolist()  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "benchmark": "learning",
            "hardware": self.hardware,
            "seeds": list(self.seeds),
            "num_pairs": self.num_pairs,
            "config": self.config.to_json(),
            "accuracy": self.accuracy,
            "gated_gain_points": self.gains(),
        }

    def to_markdown(self) -> str:
        """The table: mean and standard deviation over the seeds, and each seed's accuracy with both sensors."""
        lines = [
            f"Accuracy on held-out sequences of the built-in data set: mean ± standard deviation over {len(self.seeds)} seeds "
            f"({self.num_pairs} pairs each; every seed has new objects, a new split and new initial weights).",
            "",
            "| fusion | both sensors | no RGB | no depth | both sensors, by seed |",
            "|---|---|---|---|---|",
        ]
        for fusion, by_condition in self.accuracy.items():
            cells = [f"{np.mean(by_condition[c]):.3f} ± {_deviation(by_condition[c]):.3f}" for c in CONDITIONS]
            each = " ".join(f"{value:.3f}" for value in by_condition["both"])
            lines.append(f"| {fusion} | {' | '.join(cells)} | {each} |")
        gains, cpu = self.gains(), self.hardware["cpu"]
        lines += [
            "",
            f"Gated minus the better single sensor of the same seed: mean {np.mean(gains):+.1f} points, "
            f"minimum {min(gains):+.1f}.",
            "",
            f"`{self.hardware['command']}` on {self.date}: {cpu['model']}, {cpu['cores_usable']} cores, no GPU used; "
            f"torch {self.hardware['versions'].get('torch')}; commit {git_revision_text(self.hardware['commit'])}.",
        ]
        return "\n".join(lines) + "\n"


def bench_learning(
    *,
    seeds: Sequence[int],
    num_pairs: int = 1000,
    epochs: int | None = None,
    fusions: Sequence[FusionKind] = FUSIONS,
    progress: Progress = no_progress,
) -> LearningReport:
    """Train every fusion on the images of every seed, with the recipe of the demo.

    Args:
        fusions: must include rgb, depth and gated.
        epochs: None = those of the recipe.
        progress: called with (trainings done, trainings in total).
    """
    assert {"rgb", "depth", "gated"} <= set(fusions)
    hardware = machine.describe()
    recipe = demo_rgbd() if epochs is None else replace(demo_rgbd(), epochs=epochs)
    accuracy: dict[str, dict[Condition, list[float]]] = {f: {c: [] for c in CONDITIONS} for f in fusions}
    done = 0
    for seed in seeds:
        with TemporaryDirectory() as folder:
            rgbd = load(scan([write_dataset(Path(folder) / "data", num_pairs=num_pairs, seed=seed)]))
            for fusion in fusions:
                config = replace(recipe, fusion=fusion, seed=seed)
                scores = train_on_dataset(rgbd, Path(folder) / "run", config=config).metrics["test"]
                for condition in CONDITIONS:
                    accuracy[fusion][condition].append(scores[condition]["accuracy"])
                _log.info("seed %d, %s: %.3f", seed, fusion, scores["both"]["accuracy"])
                done += 1
                progress(done, len(seeds) * len(fusions), stage="training")
    return LearningReport(seeds=tuple(seeds), num_pairs=num_pairs, config=recipe, accuracy=accuracy, hardware=hardware)


def save_learning(report: LearningReport, folder: Path) -> Path:
    """Write `learning-<date>.json` and `.md` to `folder`; returns the path of the `.md` file."""
    stem = f"learning-{report.date}"
    write_json(folder / f"{stem}.json", report.to_json())
    with file_replaced(folder / f"{stem}.md") as temporary:
        write_text(temporary, report.to_markdown())
    return folder / f"{stem}.md"


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
