"""Reproduces tables 1, 3 and 4 of the paper from the original data sets: conversion, folds, nine rows, report.

    OUT/data/                 the selected pairs in the folder layout
    OUT/table3-by-frame/      the cross-validation and its report; another table or protocol has its own folder

Owns the paper's protocol, and the assumptions where the paper does not state it (`Protocol.remarks`).
Source: Oyedotun, Aouada, Ottersten, "Learning to Fuse Latent Representations for Multimodal Data", section 4.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgefuse.data.augmentation import Augmentation
from edgefuse.data.dataset import DATASET_NAME
from edgefuse.data.description import is_made_by_command
from edgefuse.data.folds import BY_SEQUENCE, BY_TRIALS, make_folds
from edgefuse.data.layouts.bu3dfe import read_bu3dfe
from edgefuse.data.layouts.source import LEFT_OUT_NAME, Source, write_source
from edgefuse.data.layouts.washington import PAPER_NUM_SAMPLES, read_washington
from edgefuse.errors import UserError
from edgefuse.io.files import real_path, refuse_existing
from edgefuse.io.json_files import read_json
from edgefuse.model.choices import WEIGHTS_NONE
from edgefuse.progress import Progress, no_progress
from edgefuse.training.callbacks import Callback
from edgefuse.training.recipe import TrainConfig
from edgefuse_benchmarks.paper.crossval import CrossValidation, Failure, FoldResult, cross_validate
from edgefuse_benchmarks.paper.reports import write_report
from edgefuse_benchmarks.paper.variants import PAPER_ROWS, checked_variants, paper_accuracy

_log = logging.getLogger(__name__)

PaperBy = Literal["frame", "sequence", "trials"]
NUM_NAMED_LEFT_OUT = 5
EARLY_STOP_FRACTION = 0.15
"""Fraction of the training pairs that are held out for early stopping."""

BU3DFE_LEVELS = (3, 4)
BU3DFE_NUM_SUBJECTS = 60
"""All accuracies of table 1 are multiples of 1/720, and of no smaller count: 60 subjects, six expressions, two levels."""

FILES_KEY = "files_sha256"
"""Key in the source of `dataset.json`: `Source.files_sha256` of the converted files."""

QUICK_NUM_SAMPLES = 120
QUICK_NUM_SUBJECTS = 4
QUICK_NUM_FOLDS = 2


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The protocol of one table.

    Attributes:
        by: how the folds are made by default.
        near_m, far_m: depth range of the data set.
        remarks: what the paper does not state, and what is assumed here.
    """

    table: int
    num_folds: int
    by: PaperBy
    title: str
    near_m: float
    far_m: float
    remarks: tuple[str, ...]


_SILENT = (
    "The paper does not state input size, batch size, feature width or augmentation; here there is no augmentation, all weights have "
    "the same learning rate, and the statistics of pretrained BatchNorm layers are frozen."
)
_WASHINGTON = (
    "The paper does not state how it selected the 4,500 samples (here: evenly over categories, then object instances), nor whether "
    "folds are by frame; its accuracies near 99 % suggest frames.",
    _SILENT,
)
_BU3DFE = (
    "The paper does not name its subjects; all accuracies of its table are multiples of 1/720, so here there are 60 subjects selected "
    "by seed, six expressions, levels 3 and 4.",
    "RGB and depth are rendered from the textured mesh in one view. The paper does not state whether folds are by subject; here they "
    "are.",
    _SILENT,
)

_TABLE_3 = Protocol(
    table=3,
    num_folds=10,
    by="frame",
    title="Table 3: Washington",
    near_m=0.2,
    far_m=2.0,
    remarks=_WASHINGTON,
)
PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "bu3dfe": (
        Protocol(
            table=1,
            num_folds=10,
            by="sequence",
            title="Table 1: BU-3DFE",
            near_m=0.45,
            far_m=0.75,
            remarks=_BU3DFE,
        ),
    ),
    "washington": (_TABLE_3, replace(_TABLE_3, table=4, num_folds=5, title="Table 4: Washington")),
}
"""The tables of each data set; the first is the default."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A finished table: its folder, its results, and the path of its report."""

    folder: Path
    done: CrossValidation
    report: Path


def paper_config(protocol: Protocol, **changes: Any) -> TrainConfig:
    """The paper's training: at most 400 epochs of Adam from 1e-3 to 1e-5, end to end, without augmentation.

    Args:
        changes: fields of `TrainConfig`, such as `epochs=2`; None = as in the paper or the protocol.
    """
    no_augmentation: dict[str, Any] = {field.name: 0.0 for field in fields(Augmentation)} | {"flip": False}
    config = TrainConfig(
        size=224,
        near_m=protocol.near_m,
        far_m=protocol.far_m,
        epochs=400,
        batch_size=32,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        pretrained_rate_scale=1.0,
        frozen_fraction=0.0,
        label_smoothing=0.0,
        feature_dropout=0.0,
        aux_loss_weight=0.0,
        warm_up=0.0,
        encoding="absolute",
        validation_fraction=0.0,
        augmentation=Augmentation(**no_augmentation),
    )
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def reproduce(  # long: the steps of the work in order
    name: str,
    tree: Path,
    out: Path,
    *,
    table: int | None = None,
    by: str | None = None,
    variants: Sequence[str] = PAPER_ROWS,
    epochs: int | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    weights: Sequence[str] = (),
    seed: int = 0,
    samples: int | Literal["all"] | None = None,
    early_stop: int | None = None,
    num_jobs: int = 1,
    quick: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    progress: Progress = no_progress,
    on_done: Callable[[FoldResult | Failure, int, int], None] = lambda result, done, total: None,
    on_found: Callable[[CrossValidation], None] = lambda done: None,
    callback: Callback | None = None,
) -> Reproduction:
    """Reproduce a table of the paper from the original data set. The same call with the same `out` resumes.

    Args:
        name: "washington" or "bu3dfe".
        table: 1 for bu3dfe; 3 (default) or 4 for washington.
        by: "frame", "sequence", or "trials" (the official ones of washington); default: that of the protocol.
        samples: pairs of washington or subjects of bu3dfe to select; default: the paper's number.
        early_stop: as in `cross_validate`, on 15 % of the training pairs; default: off, as in the paper.
        quick: a few pairs, two folds, no pretrained weights: tests that everything runs, not how good the method is.
        progress: called with (pairs converted, pairs in total).
        on_found: called with the results before the report is written.
        callback: called at each batch and epoch if num_jobs is 1.

    Raises:
        UserError: an unknown data set or table, a folder with another layout, data in `out` that was converted from something
            else, or an error of `cross_validate`.
    """
    protocol = _protocol(name, table)
    by = by or protocol.by
    if by not in get_args(PaperBy) or (by == BY_TRIALS and name != "washington"):
        raise UserError(f"--by is {by!r}: frame, sequence, or, for washington, trials was expected")
    config = paper_config(protocol, epochs=epochs, size=size, batch_size=batch_size, seed=seed)
    weights_used = [WEIGHTS_NONE, *weights] if quick else list(weights)
    checked_variants(variants, config, weights=weights_used)  # before the conversion, which takes long
    data = out / "data"
    _convert(
        _source(name, tree, seed=seed, quick=quick, samples=samples),
        data,
        skip_bad=skip_bad,
        force=force,
        progress=progress,
    )
    folder = out / f"table{protocol.table}-by-{by}"
    num_folds = QUICK_NUM_FOLDS if quick else protocol.num_folds
    done = cross_validate(
        [data],
        folder,
        variants=variants,
        folds_of=partial(
            make_folds,
            num_folds=num_folds,
            by=by,
            seed=seed,
            validation_fraction=0.0 if early_stop is None else EARLY_STOP_FRACTION,
        ),
        config=config,
        weights=weights_used,
        early_stop=early_stop,
        num_jobs=num_jobs,
        force=force,
        on_done=on_done,
        callback=callback,
    )
    command = ["edgefuse", "reproduce", name, str(tree), "--out", str(out), "--table", str(protocol.table)]
    more = ["--epochs", str(config.epochs), "--size", str(config.size)]
    more += ["--batch-size", str(config.batch_size), "--seed", str(seed)]
    more += [word for value in weights for word in ("--rgb-weights", str(value))]
    more += [] if tuple(variants) == PAPER_ROWS else ["--variants", ",".join(variants)]
    more += [] if samples is None else ["--samples", str(samples)]
    more += [] if early_stop is None else ["--early-stop", str(early_stop)]
    more += [word for word, is_on in (("--quick", quick), ("--skip-bad", skip_bad)) if is_on]
    remarks = (*_deviations(data, tree, samples=samples, early_stop=early_stop), *protocol.remarks)
    if quick:
        remarks = (
            "**--quick**: a few pairs, two folds, untrained backbones. These accuracies say nothing about the method.",
            *remarks,
        )
    on_found(done)
    report = write_report(
        done,
        folder,
        title=f"{protocol.title}, {done.num_folds} folds by {by}" + (" (quick)" if quick else ""),
        paper=paper_accuracy(protocol.table),
        command=shlex.join([*command, "--by", by, *more]),
        leak_free=f"`{shlex.join([*command, '--by', BY_SEQUENCE, *more])}`",
        remarks=remarks,
    )
    return Reproduction(folder=folder, done=done, report=report)


def _protocol(name: str, table: int | None) -> Protocol:
    if name not in PROTOCOLS:
        raise UserError(f"the data set is {name!r}: {' or '.join(PROTOCOLS)} was expected")
    known = PROTOCOLS[name]
    for protocol in known:
        if table in (None, protocol.table):
            return protocol
    raise UserError(f"{name} has no table {table}: {' or '.join(str(p.table) for p in known)} was expected")


def _deviations(
    data: Path, tree: Path, *, samples: int | Literal["all"] | None, early_stop: int | None
) -> tuple[str, ...]:
    """Deviations from the paper because of options or bad pairs."""
    found = []
    if samples is not None:
        found.append(f"Not the paper's selection: --samples {samples}.")
    if early_stop is not None:
        fraction = f"{EARLY_STOP_FRACTION:.0%} of the training pairs"
        found.append(f"Not as in the paper: early stopping on {fraction}, held out by the same groups.")
    if (data / LEFT_OUT_NAME).is_file():
        problems = read_json(
            data / LEFT_OUT_NAME, what="the list of pairs that were left out", spec={"left_out": list}
        )["left_out"]
        named = [str(problem).replace(f"{tree}/", "") for problem in problems[:NUM_NAMED_LEFT_OUT]]
        more = f"; and {len(problems) - len(named)} more" if len(problems) > len(named) else ""
        found.append(
            f"{len(problems)} bad pair(s) of the tree were left out (all in data/{LEFT_OUT_NAME}): {'; '.join(named)}{more}."
        )
    return tuple(found)


def _source(name: str, tree: Path, *, seed: int, quick: bool, samples: int | Literal["all"] | None) -> Source:
    """The pairs of the data set, selected as in the paper, or as many as `samples`."""
    if name == "washington":
        num_samples: int | None = PAPER_NUM_SAMPLES
        if samples is not None:
            num_samples = samples if isinstance(samples, int) else None
        elif quick:
            num_samples = min(QUICK_NUM_SAMPLES, len(read_washington(tree).items))
        found = read_washington(tree, num_samples=num_samples, seed=seed)
    else:
        found = read_bu3dfe(tree, levels=BU3DFE_LEVELS)
        subjects = sorted({item.sequence for item in found.items})
        wanted = QUICK_NUM_SUBJECTS if quick else BU3DFE_NUM_SUBJECTS
        if samples is not None:
            wanted = samples if isinstance(samples, int) else len(subjects)
        if len(subjects) < wanted and not (quick and samples is None):
            source = " as in the paper" if samples is None else ""
            raise UserError(
                f"{tree} has {len(subjects)} subject(s), {wanted} were expected{source}; "
                "use fewer with --samples N or --samples all, or a few with --quick"
            )
        drawn = {subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))[:wanted]}
        items = tuple(item for item in found.items if item.sequence in drawn)
        found = replace(found, items=items, notes=(), origin={**found.origin, "subjects": sorted(drawn)})
    return replace(found, origin={"layout": name, "folder": real_path(tree).name, **found.origin})


def _convert(
    source: Source,
    data: Path,
    *,
    skip_bad: bool,
    force: bool,
    progress: Progress,
) -> None:
    """Convert the pairs to the folder layout, unless this was done before.

    Raises:
        UserError: `data` was converted from something else, without `force`; the message has the differences.
    """
    source = replace(source, origin={**source.origin, "skip_bad": skip_bad, FILES_KEY: source.files_sha256()})
    if (data / DATASET_NAME).is_file():
        stored = read_json(data / DATASET_NAME, what="the data set's description").get("source")
        other = _differences(stored if isinstance(stored, dict) else {}, source.origin)
        if not other:
            return
        if not force:
            raise UserError(
                f"{data} exists already and was converted from something else ({'; '.join(other)}): give another --out, "
                "or add --force to convert again"
            )
    refuse_existing(data, force=force, marker=DATASET_NAME, is_ours=is_made_by_command)
    done = write_source(source, data, skip_bad=skip_bad, progress=progress)
    for warning in done.warnings:
        _log.warning("%s", warning)
    for text in (*done.notes, *(f"left out: {problem}" for problem in done.left_out)):
        _log.info("note: %s", text)


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Differences of an existing conversion from the requested one, as text."""
    found = []
    for key, value in asked.items():
        there = stored.get(key)
        if key == "skip_bad":
            # Without bad pairs the option has no effect.
            if stored.get("left_out") and not value:
                found.append(f"{stored['left_out']} bad pair(s) were left out, and --skip-bad is not given")
        elif there != value:
            if key == FILES_KEY:
                found.append(
                    "files of the tree were added, removed or changed" if there else "it does not list its files"
                )
            elif isinstance(value, list | tuple):
                found.append(f"{key} differ")
            else:
                found.append(f"{key} was {there}, now {value}")
    return found
