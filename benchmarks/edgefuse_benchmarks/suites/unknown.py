"""How many objects of classes that were not trained on are answered with `unknown`, while 95 % of the known ones are kept.

The confidence is the calibrated probability of the most likely class, as `edgefuse live --min-confidence` uses it. Owns the protocol and its
tables: train without some classes, then score held-out pairs of the others (known) and pairs of the left-out classes (foreign).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.answers import BACKGROUND, confidence
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.data.splits import matching, split
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import framed_batches
from edgefuse.io.environment import git_revision_text
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.text import some_of, write_text
from edgefuse.progress import Progress, no_progress
from edgefuse.synth.rendered_set import write_dataset
from edgefuse.training.fold_frozen_batchnorm import for_prediction
from edgefuse.training.loop import best_device, torch_predictor
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train_on_dataset
from edgefuse_benchmarks import machine

KEPT = 0.95
"""Fraction of the known pairs that the threshold keeps."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UnknownResult:
    """One training.

    Attributes:
        left_out: the foreign classes.
        background: classes that were trained as the background.
        num_known, num_foreign: pairs scored: held-out pairs of the known classes, and pairs of the foreign ones.
        accuracy: on the known pairs, without a threshold.
        accuracy_kept: on the known pairs that `threshold` keeps.
        threshold: keeps `KEPT` of the known pairs.
        refused: fraction of the foreign pairs below it.
        threshold_validation, kept_validation, refused_validation: the same with the threshold from the validation pairs, as a user would
            choose it, and the fraction of the known test pairs that it keeps; None without validation pairs.
        auc: probability that a known pair has a higher confidence than a foreign one.
        curve: threshold -> fraction of the known pairs kept, and of the foreign pairs refused.
    """

    left_out: tuple[str, ...]
    background: tuple[str, ...]
    seed: int
    num_known: int
    num_foreign: int
    accuracy: float
    accuracy_kept: float
    threshold: float
    refused: float
    threshold_validation: float | None
    kept_validation: float | None
    refused_validation: float | None
    auc: float
    curve: dict[str, tuple[float, float]]


def split_classes(
    rgbd: RgbdDataset, *, left_out: Sequence[str], background: Sequence[str] = ()
) -> tuple[RgbdDataset, RgbdDataset]:
    """A data set without some classes, and these classes.

    Args:
        background: classes that become `BACKGROUND` in the first one.

    Raises:
        UserError: a class that the data does not have, or fewer than two classes left.
    """
    dataset = rgbd.dataset
    missing = [label for label in (*left_out, *background) if label not in dataset.labels]
    if missing or not left_out:
        raise UserError(f"classes to leave out: {some_of(missing or ['none'])}; the data has {some_of(dataset.labels)}")
    shown = [BACKGROUND if label in background else label for label in dataset.labels]
    labels = tuple(sorted({label for label in shown if label not in left_out}))
    if len(labels) < 2:
        raise UserError(f"{len(labels)} class is left to train on: two or more were expected")
    kept = [i for i, sample in enumerate(dataset.samples) if shown[sample.label] in labels]
    foreign = [i for i, sample in enumerate(dataset.samples) if dataset.labels[sample.label] in left_out]
    known = rgbd.subset(kept)
    samples = tuple(replace(s, label=labels.index(shown[s.label])) for s in known.dataset.samples)
    return replace(known, dataset=replace(known.dataset, labels=labels, samples=samples)), rgbd.subset(foreign)


def bench_one(  # long: the steps of the protocol in order
    rgbd: RgbdDataset,
    run: Path,
    *,
    config: TrainConfig,
    left_out: tuple[str, ...],
    background: tuple[str, ...] = (),
) -> UnknownResult:
    """Train without `left_out`, and score. With `config.exclude`, the foreign pairs are of the excluded sequences too.

    Raises:
        UserError: as `split_classes` and training; or no test pairs.
    """
    known, foreign = split_classes(rgbd, left_out=left_out, background=background)
    dataset = known.dataset
    parts = split(
        dataset,
        exclude=config.exclude,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
    )
    if config.exclude:
        foreign = foreign.subset(matching(foreign.dataset, config.exclude))
    is_object = np.array([dataset.labels[sample.label] != BACKGROUND for sample in dataset.samples])
    tested = [i for i in parts.test if is_object[i]]
    checked = [i for i in parts.validation if is_object[i]]
    if not tested or not foreign.rgb:
        raise UserError("no known or no foreign pair is held out: use --exclude, or a test_fraction above 0")
    train_on_dataset(known, run, config=config, parts=parts)
    truth = np.array([dataset.samples[i].label for i in tested])
    probabilities = [_probabilities(run, some) for some in (known.subset(tested), foreign)]
    of_known, of_foreign = (confidence(some, dataset.labels) for some in probabilities)
    right = probabilities[0].argmax(axis=1) == truth
    threshold = _threshold(of_known)
    chosen = _threshold(confidence(_probabilities(run, known.subset(checked)), dataset.labels)) if checked else None
    return UnknownResult(
        left_out=left_out,
        background=background,
        seed=config.seed,
        num_known=len(tested),
        num_foreign=len(foreign.rgb),
        accuracy=float(right.mean()),
        accuracy_kept=float(right[of_known >= threshold].mean()),
        threshold=threshold,
        refused=float((of_foreign < threshold).mean()),
        threshold_validation=chosen,
        kept_validation=None if chosen is None else float((of_known >= chosen).mean()),
        refused_validation=None if chosen is None else float((of_foreign < chosen).mean()),
        auc=area_under_curve(of_known, of_foreign),
        curve={f"{t:g}": (float((of_known >= t).mean()), float((of_foreign < t).mean())) for t in THRESHOLDS},
    )


def area_under_curve(known: NDArray[np.float32], foreign: NDArray[np.float32]) -> float:
    """Probability that a known pair has the higher confidence; ties count half."""
    ordered = np.sort(foreign)
    below, up_to = (np.searchsorted(ordered, known, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(foreign))


def _threshold(confidences: NDArray[np.float32]) -> float:
    """The largest threshold that keeps `KEPT` of the pairs."""
    return float(np.sort(confidences)[int((1 - KEPT) * len(confidences))])


def _probabilities(run: Path, rgbd: RgbdDataset) -> NDArray[np.float32]:
    opened = open_run(run)
    model = opened.build_model().to(best_device())
    with for_prediction(model):
        predictor = torch_predictor(model)
        batches = framed_batches(rgbd, contract=opened.model_config.contract, batch_size=32)
        return np.concatenate([predictor(rgb, depth).probabilities for rgb, depth, _ in batches])


@dataclass(frozen=True, kw_only=True)
class UnknownReport:
    """The results of all trainings."""

    results: tuple[UnknownResult, ...]
    data: str
    config: TrainConfig
    hardware: dict[str, Any]

    @property
    def name(self) -> str:
        """Stem of the files, such as unknown-gestures-2026-01-31."""
        return f"unknown-{self.data.split(',')[0]}-{str(self.hardware['date_utc'])[:10]}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without paths."""
        config = self.config.to_json()
        config |= {name: Path(config[name]).name for name in ("rgb_weights", "depth_weights")}
        results = [asdict(result) for result in self.results]
        return {
            "benchmark": "unknown",
            "data": self.data,
            "hardware": self.hardware,
            "config": config,
            "results": results,
        }

    def to_markdown(self) -> str:
        """The tables: one row per training, then the mean over all for each threshold."""
        lines = [
            f"Foreign objects answered with `unknown` while {KEPT:.0%} of the known ones are kept. Data: {self.data}. Confidence: the calibrated "
            "probability of the most likely class.",
            "",
            "| not trained on | background | seed | known | foreign | accuracy | accuracy of the kept | threshold | **refused** | AUC "
            "| threshold from validation | keeps | refuses |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for r in self.results:
            chosen = "- | - | -"
            if r.threshold_validation is not None:
                chosen = f"{r.threshold_validation:.2f} | {r.kept_validation:.1%} | {r.refused_validation:.1%}"
            lines.append(
                f"| {', '.join(r.left_out)} | {', '.join(r.background) or '-'} | {r.seed} | {r.num_known} | {r.num_foreign} | {r.accuracy:.1%} "
                f"| {r.accuracy_kept:.1%} | {r.threshold:.2f} | **{r.refused:.1%}** | {r.auc:.3f} | {chosen} |"
            )
        refused = [r.refused for r in self.results]
        spread = f" ± {np.std(refused, ddof=1):.1%}" if len(refused) > 1 else ""
        lines += ["", f"Refused, mean over {len(refused)} trainings: {np.mean(refused):.1%}{spread}.", ""]
        lines += ["| `--min-confidence` | known kept | foreign refused |", "|--:|--:|--:|"]
        for t in self.results[0].curve:
            kept, gone = np.mean([r.curve[t] for r in self.results], axis=0)
            lines.append(f"| {t} | {kept:.1%} | {gone:.1%} |")
        cpu = self.hardware["cpu"]
        lines += [
            "",
            f"`{self.hardware['command']}` on {str(self.hardware['date_utc'])[:10]}: {cpu['model']}; torch "
            f"{self.hardware['versions'].get('torch')}; commit {git_revision_text(self.hardware['commit'])}.",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> Path:
        """Write the report as JSON and Markdown; returns the path of the `.md` file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", self.to_json())
        with file_replaced(folder / f"{self.name}.md") as temporary:
            write_text(temporary, self.to_markdown())
        return folder / f"{self.name}.md"


def bench_unknown(
    data: Sequence[Path],
    *,
    left_out: Sequence[tuple[str, ...]],
    background: tuple[str, ...] = (),
    config: TrainConfig,
    seeds: Sequence[int],
    num_pairs: int = 1000,
    progress: Progress = no_progress,
) -> UnknownReport:
    """One training for each seed and each tuple of left-out classes.

    Args:
        data: data set folders; empty = the built-in data set, with `num_pairs` new pairs for every seed.
        progress: called with trainings done and in total.
    """
    hardware = machine.describe()
    given = load(scan(data)) if data else None
    results: list[UnknownResult] = []
    for seed in seeds:
        with TemporaryDirectory() as folder:
            rgbd = given or load(
                scan([write_dataset(Path(folder) / "data", num_pairs=num_pairs, seed=seed, num_workers=1)])
            )
            for classes in left_out:
                own = replace(config, seed=seed)
                result = bench_one(rgbd, Path(folder) / "run", config=own, left_out=classes, background=background)
                results.append(result)
                _log.info("seed %d, without %s: %.3f refused", seed, ", ".join(classes), result.refused)
                progress(len(results), len(seeds) * len(left_out), stage="training")
    names = ", ".join(folder.name for folder in data) or f"built-in, {num_pairs} pairs for each seed"
    return UnknownReport(results=tuple(results), data=names, config=config, hardware=hardware)
