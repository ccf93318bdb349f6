"""One training, from data folders to a finished run folder. Used by the command, the demo and the benchmarks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgefuse.contract import InputContract
from edgefuse.data.dataset import Dataset, RgbdDataset, load, scan, spread_evenly
from edgefuse.data.people import pairs_of_people, people_of, short_sequences_note
from edgefuse.data.splits import Split, split
from edgefuse.errors import UserError, is_out_of_memory, require
from edgefuse.evaluation.metrics import framed_batches
from edgefuse.io.environment import TRAINING_PACKAGES, versions
from edgefuse.io.files import NewFolder, folder_begun, refuse_existing
from edgefuse.model.choices import model_in_words
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier, count_parameters
from edgefuse.progress import Progress, no_progress
from edgefuse.training import run as run_folder
from edgefuse.training.background_check import background_line
from edgefuse.training.callbacks import Callback, NullCallback
from edgefuse.training.faster_threads import limit_threads
from edgefuse.training.final_scores import fit_temperatures, measure, plot_metrics
from edgefuse.training.fold_frozen_batchnorm import for_prediction
from edgefuse.training.frame_gate import train_frame_gate
from edgefuse.training.loop import EpochResult, NotFiniteError, best_device, train_epochs
from edgefuse.training.model_card import model_card
from edgefuse.training.plots import loss_in_words
from edgefuse.training.preflight import fitting_augmentation, opening_line, warnings_before
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.tensorboard_log import Board

NUM_STORED_SAMPLES = 16

_log = logging.getLogger(__name__)


class NothingLearnedError(UserError):
    """The training was interrupted before its first epoch ended, so there is no model."""


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """Result of a training.

    Attributes:
        metrics: contents of `metrics.json`: metrics by held-out part ("validation", "test") and condition.
        interrupted: stopped by Ctrl-C; the run has the last finished epoch.
        not_written: error of writing files after the last epoch, such as a plot on a full disk; `metrics` is complete.
    """

    folder: Path
    metrics: dict[str, Any]
    interrupted: bool
    not_written: str = ""


def train(
    roots: Sequence[Path],
    out: Path,
    *,
    config: TrainConfig,
    force: bool = False,
    skip_bad: bool = False,
    strict: bool = False,
    callback: Callback | None = None,
    progress: Progress = no_progress,
) -> TrainSummary:
    """Train one model and write a run folder.

    Args:
        roots: data set folders, used together.
        out: the run folder to create; after each epoch it is a valid run.
        force: overwrite a run that exists at `out`.
        skip_bad: skip unreadable pairs.
        strict: raise an error instead of warnings, before the first epoch.
        callback: called at each batch and each epoch.
        progress: called with the number of epochs done and in total.

    Raises:
        UserError: bad data, an existing folder, weights that cannot be loaded, a loss, gradient or weight that is not finite, or a
            file that cannot be written.
    """
    refuse_existing(out, force=force, marker=run_folder.RUN_NAME, contents=run_folder.CONTENTS)
    require("matplotlib", extra="train")  # for the plots at the end
    # Before the data is read, so that a second training with the same output fails immediately.
    with folder_begun(out) as place:
        dataset = scan(roots, skip_bad=skip_bad)
        if config.person is not None:
            people_of(dataset, person=config.person)  # refuses a wrong expression before the images are read
        rgbd = load(dataset, skip_bad=skip_bad)
        return train_on_dataset(
            rgbd, out, config=config, strict=strict, callback=callback, progress=progress, begun=place
        )


def train_on_dataset(  # long: calls each part of a training in order
    rgbd: RgbdDataset,
    out: Path,
    *,
    config: TrainConfig,
    strict: bool = False,
    callback: Callback | None = None,
    progress: Progress = no_progress,
    parts: Split | None = None,
    early_stop: int | None = None,
    begun: NewFolder | None = None,
) -> TrainSummary:
    """`train` on a loaded data set; an existing `out` is overwritten.

    Args:
        begun: the run folder, if it was already begun.
        parts: a ready-made split; the fractions and `exclude` of the configuration are then ignored.
        early_stop: stop after this many epochs without a better validation accuracy, and keep the weights of the best epoch.

    Raises:
        UserError: as `train`; or early stop without validation samples.
    """
    callback = callback if callback is not None else NullCallback()
    dataset = rgbd.dataset
    if parts is None:
        parts = split(
            dataset,
            exclude=config.exclude,
            test_fraction=config.test_fraction,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
        )
    if early_stop is not None and not parts.validation:
        raise UserError("early stop needs validation samples, and the split has none: set validation_fraction above 0")
    _log.info("%s", opening_line(dataset, parts, asked_flip=config.augmentation.flip))
    background = background_line(rgbd, parts.train, config=config)
    for line in [background, *dataset.left_out_lines(), *filter(None, [short_sequences_note(dataset)])]:
        _log.info("%s", line)
    warnings = [*dataset.warnings, *warnings_before(rgbd, parts, config=config)]
    if strict and warnings:
        raise UserError(f"{len(warnings)} warning(s), which --strict makes errors: {'; '.join(warnings)}")
    for text in warnings:
        _log.warning("%s", text)
    config = replace(config, augmentation=fitting_augmentation(config, dataset))
    torch.manual_seed(config.seed)
    limit_threads(config.num_threads)
    contract = InputContract(size=config.size, near_m=config.near_m, far_m=config.far_m, align=dataset.align)
    model_config = model_config_of(config, contract, num_classes=len(dataset.labels))
    model = build_classifier(model_config, rgb_weights=config.rgb_weights, depth_weights=config.depth_weights)
    held_out = {
        name: rgbd.subset(indices)
        for name, indices in (("validation", parts.validation), ("test", parts.test))
        if indices
    }
    train_rgbd = rgbd.subset(parts.train)
    device = best_device()
    size_m = count_parameters(model) / 1e6
    words = model_in_words(fusion=config.fusion, rgb=config.rgb, depth=config.depth)
    _log.info("%s, %.2f M parameters, on %s", words, size_m, device)
    info = {
        "training": config.to_json(),
        "data": _describe_data(dataset, parts, person=config.person),
        "versions": versions(TRAINING_PACKAGES),
        "warnings": warnings,
    }
    with folder_begun(out) if begun is None else nullcontext(begun) as place:
        try:
            _store_samples(place.path, held_out.get("test") or held_out.get("validation") or train_rgbd, contract)
        except run_folder.CannotWriteError as error:
            raise UserError(str(error).replace(str(place.path), str(out))) from error
        history, interrupted = _run_epochs(
            model,
            place,
            out,
            train_rgbd=train_rgbd,
            validation=held_out.get("validation"),
            config=config,
            model_config=model_config,
            labels=dataset.labels,
            info=info,
            device=device,
            callback=callback,
            progress=progress,
            early_stop=early_stop,
        )
        if not history:
            raise NothingLearnedError(
                f"stopped before the end of the first epoch: nothing was written to {out}; train again"
            )
        place.keep()
        metrics, not_written = _finish(
            place.path, train_rgbd, held_out, history, config=config, info=info, device=device
        )
    return TrainSummary(folder=out, metrics=metrics, interrupted=interrupted, not_written=not_written)


def _run_epochs(  # long: all that follows an epoch
    model: FusionClassifier,
    place: NewFolder,
    out: Path,
    *,
    train_rgbd: RgbdDataset,
    validation: RgbdDataset | None,
    config: TrainConfig,
    model_config: ModelConfig,
    labels: tuple[str, ...],
    info: dict[str, Any],
    device: torch.device,
    callback: Callback,
    progress: Progress,
    early_stop: int | None,
) -> tuple[list[EpochResult], bool]:
    """Train and save after every epoch (with early stop: every best one); return the history, and whether Ctrl-C ended it."""
    history, best_epoch, best_accuracy = list[EpochResult](), -1, -1.0
    board = Board()
    try:
        callback.on_train_start(config.epochs)
        for result in train_epochs(
            model,
            train=train_rgbd,
            validation=validation,
            config=config,
            contract=model_config.contract,
            device=device,
            on_step=callback.on_batch_end,
        ):
            accuracy = result.validation_accuracy or 0.0
            if early_stop is None or accuracy > best_accuracy:
                if place.is_kept:
                    place.keep()  # fails if another process replaced the folder
                run_folder.write_weights(place.path, model)
                kept = {**info, **_epochs(result.epoch + 1)}
                run_folder.write_run(place.path, labels=labels, model_config=model_config, info=kept)
                place.keep()
                best_epoch, best_accuracy = result.epoch, accuracy
            history.append(result)
            board.log(result, place.path)
            callback.on_epoch_end(result)
            progress(result.epoch + 1, config.epochs, stage="training")
            if early_stop is not None and result.epoch - best_epoch >= early_stop:
                break
    except KeyboardInterrupt:
        return history, True
    except Exception as error:
        message = _message(error, place, out, epoch=best_epoch, config=config)
        if message is None:
            raise
        raise (NotFiniteError if isinstance(error, NotFiniteError) else UserError)(message) from error
    finally:
        callback.on_train_end()
    return history, False


def _message(error: Exception, place: NewFolder, out: Path, *, epoch: int, config: TrainConfig) -> str | None:
    """Error message: the cause, what was saved, and the next step; None for internal errors."""
    saved = (
        f"{out} has the weights of epoch {epoch + 1}" if place.is_kept else "no epoch was finished, nothing was saved"
    )
    if isinstance(error, NotFiniteError):
        return f"{error}: {saved}; try a smaller learning rate than {config.learning_rate:g}"
    if is_out_of_memory(error):
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        return (
            f"not enough memory ({reason}): {saved}; try a smaller --batch-size than {config.batch_size}, or a smaller --size "
            f"than {config.size}"
        )
    if isinstance(error, UserError | OSError):
        return f"{str(error).replace(str(place.path), str(out))}; {saved}"
    return None


def _epochs(kept: int, *, done: int = 0) -> dict[str, int]:
    """Epoch counts in `run.json`: epochs trained, and the epoch (from 1) whose weights are stored (with early stop: the best)."""
    return {"epochs_done": max(kept, done), "epoch_kept": kept}


def model_config_of(config: TrainConfig, contract: InputContract, *, num_classes: int) -> ModelConfig:
    """Architecture of the model of a recipe.

    Raises:
        UserError: it cannot be built, such as a torchvision backbone with too small an input.
    """
    return ModelConfig(
        contract=contract,
        num_classes=num_classes,
        fusion=config.fusion,
        rgb=config.rgb,
        depth=config.depth,
        encoding=config.encoding,
        depth_window_m=config.depth_window_m,
        num_features=config.num_features,
        num_hidden=config.num_hidden,
        dropout=config.dropout,
        feature_dropout=config.feature_dropout,
        auxiliary_heads=config.aux_loss_weight > 0,
        frame_gate=config.fusion == "spatial" and config.aux_loss_weight > 0,
    )


def _describe_data(dataset: Dataset, parts: Split, *, person: str | None) -> dict[str, Any]:
    groups = dataset.groups()
    return {
        "roots": [str(root.absolute()) for root in dataset.roots],
        "digest": dataset.digest,
        "region": dataset.region,
        "num_train": len(parts.train),
        "num_validation": len(parts.validation),
        "num_test": len(parts.test),
        "num_left_out": dataset.num_left_out,
        "train_instances": dataset.subset(parts.train).sequence_digests(),
        "validation_groups": sorted({groups[i] for i in parts.validation}),
        "test_groups": sorted({groups[i] for i in parts.test}),
        "people": {} if person is None else pairs_of_people(dataset, parts, person=person),
    }


def _store_samples(out: Path, rgbd: RgbdDataset, contract: InputContract) -> None:
    """Store framed pairs, spread over the classes, for parity checks in later steps."""
    count = len(rgbd.rgb)
    chosen = spread_evenly(count, NUM_STORED_SAMPLES)
    rgb, depth, _ = next(framed_batches(rgbd.subset(chosen), contract=contract, batch_size=NUM_STORED_SAMPLES))
    run_folder.write_samples(out, rgb=rgb, depth=depth)


def _finish(  # long: all that follows the last epoch
    out: Path,
    train_rgbd: RgbdDataset,
    held_out: dict[str, RgbdDataset],
    history: list[EpochResult],
    *,
    config: TrainConfig,
    info: dict[str, Any],
    device: torch.device,
) -> tuple[dict[str, Any], str]:
    """Train the frame gate of the run at `out`, calibrate and evaluate it; return the metrics, and an error message if a file could not be written.

    `metrics.json` is written before `run.json` with the temperature, and is valid once `run.json` has its digest. The metrics are
    returned even if writing fails.
    """
    run = run_folder.open_run(out)
    model = run.build_model().to(device)
    contract, labels = run.model_config.contract, run.labels
    if model.frame_gate is not None:
        clean = held_out.get("validation", train_rgbd)
        train_frame_gate(
            model, train_rgbd, clean, contract=contract, augmentation=config.augmentation, seed=config.seed
        )
    with for_prediction(model):
        temperatures = fit_temperatures(
            model,
            held_out.get("validation"),
            contract=contract,
            labels=labels,
            augmentation=config.augmentation,
            depth_window_m=config.depth_window_m,
            seed=config.seed,
        )
        metrics = measure(model, held_out, history, temperatures=temperatures, contract=contract, labels=labels)
    info = {**info, **_epochs(run.info["epoch_kept"], done=len(history))}
    try:
        if model.frame_gate is not None:
            run_folder.write_weights(out, model)
        run_folder.write_metrics(out, metrics)
        run_folder.write_run(
            out,
            labels=labels,
            model_config=replace(
                run.model_config,
                temperature=temperatures.both,
                temperature_no_rgb=temperatures.no_rgb,
                temperature_no_depth=temperatures.no_depth,
            ),
            info=info,
        )
    except UserError as error:
        return (
            metrics,
            f"{error}; {out} has the weights of epoch {run.info['epoch_kept']}, without metrics and temperature",
        )
    model_config = run.model_config
    card = model_card(out.name, labels=labels, model_config=model_config, info=info, metrics=metrics)
    try:
        run_folder.write_card(out, card)
    except UserError as error:
        return metrics, f"{error}; the run is complete except for its model card and plots"
    try:
        text = model_in_words(fusion=model_config.fusion, rgb=model_config.rgb, depth=model_config.depth)
        title = f"{text}; run {out.name}"
        loss = loss_in_words(
            has_auxiliary_heads=model.core.auxiliary_heads is not None, label_smoothing=config.label_smoothing
        )
        plot_metrics(metrics, history, out, labels=labels, title=title, loss=loss)
    except (OSError, UserError, MemoryError) as error:
        return (
            metrics,
            f"the plots in {out} cannot be written ({getattr(error, 'strerror', None) or error}); the run is complete",
        )
    return metrics, ""
