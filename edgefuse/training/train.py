"""One training from data folders to a finished run folder. Called by the command, the demo and the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from edgefuse.contract import InputContract
from edgefuse.data.augment import labels_allow_flip
from edgefuse.data.folder import Dataset, Pictures, load, scan
from edgefuse.data.splits import Split, split
from edgefuse.errors import UserError
from edgefuse.evaluation import framed_batches
from edgefuse.io.environment import TRAINING_PACKAGES, versions
from edgefuse.io.files import NewFolder, folder_begun, refuse_existing
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier, count_parameters
from edgefuse.model.names import SINGLE_MODALITIES
from edgefuse.training import run as run_folder
from edgefuse.training.loop import EpochResult, NotFiniteError, StepReport, best_device, train_epochs
from edgefuse.training.measure import calibrate, measure
from edgefuse.training.recipe import TrainConfig

NUM_STORED_SAMPLES = 16


class NothingLearnedError(UserError):
    """A training was interrupted before its first epoch ended, so there is no model."""


class Listener(Protocol):
    """Who wants to watch a training."""

    def started(self, text: str) -> None: ...
    def stepped(self, report: StepReport) -> None: ...
    def epoch_done(self, result: EpochResult, num_epochs: int) -> None: ...
    def ended(self) -> None:
        """No further epoch comes: the last one was, or early stop, Ctrl-C or an error ended the training."""


class Silence:
    """A listener that says nothing."""

    def started(self, text: str) -> None: ...
    def stepped(self, report: StepReport) -> None: ...
    def epoch_done(self, result: EpochResult, num_epochs: int) -> None: ...
    def ended(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training ended with.

    Attributes:
        metrics: what stands in `metrics.json`: figures by held-out part ("validation", "test") and condition.
        interrupted: stopped by Ctrl-C; the run holds the last finished epoch.
    """

    folder: Path
    metrics: dict[str, Any]
    interrupted: bool


def train(
    roots: Sequence[Path],
    out: Path,
    *,
    config: TrainConfig,
    force: bool = False,
    skip_bad: bool = False,
    listener: Listener | None = None,
) -> TrainSummary:
    """Train one model and leave a run folder.

    Args:
        roots: data set folders, used together.
        out: the run folder to make; after each epoch it holds a usable run.
        force: replace a run that stands at `out`.
        skip_bad: leave unreadable pairs out.

    Raises:
        UserError: bad data, an existing folder, weights that cannot be had, or a loss, gradient or weight that is not finite.
    """
    refuse_existing(out, force=force, marker=run_folder.RUN_NAME)
    return train_on_pictures(
        load(scan(roots, skip_bad=skip_bad), skip_bad=skip_bad), out, config=config, listener=listener
    )


def train_on_pictures(  # long: every part of a training is put together here, and each is a call
    pictures: Pictures,
    out: Path,
    *,
    config: TrainConfig,
    listener: Listener | None = None,
    parts: Split | None = None,
    early_stop: int | None = None,
) -> TrainSummary:
    """`train` on pictures that are in memory already; what stands at `out` is replaced.

    Args:
        parts: a ready-made split; the configuration's own shares and `exclude` then do not count.
        early_stop: stop after this many epochs without a better validation accuracy, and keep the best epoch's weights.

    Raises:
        UserError: as `train`; or early stop without validation samples.
    """
    listener = listener if listener is not None else Silence()
    dataset = pictures.dataset
    config = replace(config, augmentation=_fitting_augmentation(config, dataset))
    if parts is None:
        parts = split(
            dataset,
            exclude=config.exclude,
            test_share=config.test_share,
            validation_share=config.validation_share,
            seed=config.seed,
        )
    if early_stop is not None and not parts.validation:
        raise UserError("early stop watches validation samples, and the split holds none out")
    torch.manual_seed(config.seed)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    contract = InputContract(size=config.size, near_m=config.near_m, far_m=config.far_m, align=dataset.align)
    model_config = model_config_of(config, contract, num_classes=len(dataset.labels))
    model = build_classifier(model_config, rgb_weights=config.rgb_weights, depth_weights=config.depth_weights)
    held_out = {
        name: pictures.subset(indices)
        for name, indices in (("validation", parts.validation), ("test", parts.test))
        if indices
    }
    train_pictures = pictures.subset(parts.train)
    device = best_device()
    listener.started(_opening_line(dataset, parts, config, model, device))

    info = {
        "training": config.to_json(),
        "data": _describe_data(dataset, parts),
        "versions": versions(TRAINING_PACKAGES),
    }
    with folder_begun(out) as place:
        _store_samples(place.path, held_out.get("test") or held_out.get("validation") or train_pictures, contract)
        history, interrupted = _run_epochs(
            model,
            place,
            train_pictures=train_pictures,
            validation=held_out.get("validation"),
            config=config,
            model_config=model_config,
            labels=dataset.labels,
            info=info,
            device=device,
            listener=listener,
            early_stop=early_stop,
        )
        if not history:
            raise NothingLearnedError(
                f"stopped before the first epoch ended: nothing was written to {out}, start again"
            )
    metrics = _finish(out, held_out, history, info=info, device=device)
    return TrainSummary(folder=out, metrics=metrics, interrupted=interrupted)


def _run_epochs(
    model: FusionClassifier,
    place: NewFolder,
    *,
    train_pictures: Pictures,
    validation: Pictures | None,
    config: TrainConfig,
    model_config: ModelConfig,
    labels: tuple[str, ...],
    info: dict[str, Any],
    device: torch.device,
    listener: Listener,
    early_stop: int | None,
) -> tuple[list[EpochResult], bool]:
    """Train, saving after every epoch (with early stop: every best one); the history, and whether Ctrl-C ended it."""
    history, best_epoch, best_accuracy = list[EpochResult](), -1, -1.0
    with _Board(place) as board:
        try:
            for result in train_epochs(
                model,
                train=train_pictures,
                validation=validation,
                config=config,
                contract=model_config.contract,
                labels=labels,
                device=device,
                on_step=listener.stepped,
            ):
                accuracy = result.validation_accuracy or 0.0
                if early_stop is None or accuracy > best_accuracy:
                    best_epoch, best_accuracy = result.epoch, accuracy
                    run_folder.write_weights(place.path, model)
                    kept = {**info, **_epochs(result.epoch + 1)}
                    run_folder.write_run(place.path, labels=labels, model_config=model_config, info=kept)
                    place.keep()
                history.append(result)
                board.log(result)
                listener.epoch_done(result, config.epochs)
                if early_stop is not None and result.epoch - best_epoch >= early_stop:
                    break
        except NotFiniteError as error:
            raise _with_what_is_kept(
                error, place.path if place.is_kept else None, epoch=best_epoch, config=config
            ) from error
        except KeyboardInterrupt:
            return history, True
        finally:
            listener.ended()
    return history, False


def _with_what_is_kept(
    error: NotFiniteError, folder: Path | None, *, epoch: int, config: TrainConfig
) -> NotFiniteError:
    kept = f"{folder} holds the weights of epoch {epoch + 1}" if folder else "no epoch was finished, nothing is kept"
    return NotFiniteError(f"{error}: {kept}; try a smaller learning rate than {config.learning_rate:g}")


def _epochs(kept: int, *, done: int = 0) -> dict[str, int]:
    """How `run.json` counts: epochs that were trained, and the one, from 1, whose weights are stored (early stop's best)."""
    return {"epochs_done": max(kept, done), "epoch_kept": kept}


class _Board:
    """TensorBoard's log of a run, begun with its first epoch: it opens its file again at each write, by a name that must stay."""

    def __init__(self, place: NewFolder) -> None:
        self._place = place
        self._writer: Any = None

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def log(self, result: EpochResult) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._place.path / "tensorboard"))
        self._writer.add_scalar("loss/train", result.train_loss, result.epoch)
        self._writer.add_scalar("accuracy/train", result.train_accuracy, result.epoch)
        self._writer.add_scalar("learning_rate", result.learning_rate, result.epoch)
        if result.validation_accuracy is not None:
            self._writer.add_scalar("accuracy/validation", result.validation_accuracy, result.epoch)


def _fitting_augmentation(config: TrainConfig, dataset: Dataset) -> Any:
    """Take away what the labels or the fusion do not allow: mirrored pictures, and dropping the only modality there is."""
    augmentation = config.augmentation
    if not labels_allow_flip(dataset.labels):
        augmentation = replace(augmentation, flip=False)
    if config.fusion in SINGLE_MODALITIES:
        augmentation = replace(augmentation, rgb_dropout=0.0, depth_dropout=0.0)
    return augmentation


def model_config_of(config: TrainConfig, contract: InputContract, *, num_classes: int) -> ModelConfig:
    """What a recipe's model is made of.

    Raises:
        UserError: it cannot be built, such as a deep backbone on too few pixels.
    """
    return ModelConfig(
        contract=contract,
        num_classes=num_classes,
        fusion=config.fusion,
        rgb=config.rgb,
        depth=config.depth,
        encoding=config.encoding,
        reach_m=config.reach_m,
        num_features=config.num_features,
        num_hidden=config.num_hidden,
        dropout=config.dropout,
        feature_dropout=config.feature_dropout,
        votes=config.vote_weight > 0,
    )


def _opening_line(
    dataset: Dataset, parts: Split, config: TrainConfig, model: FusionClassifier, device: torch.device
) -> str:
    groups = dataset.groups()
    counts = ", ".join(
        f"{len(part)} {name} ({len({groups[i] for i in part})} groups)"
        for name, part in (("training", parts.train), ("validation", parts.validation), ("test", parts.test))
        if part
    )
    left_out = f"; {dataset.num_left_out} bad pair(s) left out" if dataset.left_out else ""
    flip = "" if config.augmentation.flip else "; not mirrored, the labels speak of sides"
    return (
        f"{len(dataset.labels)} classes, {counts}{left_out}{flip}; {config.fusion} of {config.rgb} and {config.depth}, "
        f"{count_parameters(model) / 1e6:.2f} M parameters, on {device}"
    )


def _describe_data(dataset: Dataset, parts: Split) -> dict[str, Any]:
    groups = dataset.groups()
    return {
        "roots": [str(root.absolute()) for root in dataset.roots],
        "digest": dataset.digest,
        "region": dataset.region,
        "num_train": len(parts.train),
        "num_validation": len(parts.validation),
        "num_test": len(parts.test),
        "num_left_out": dataset.num_left_out,
        "train_instances": dataset.subset(parts.train).instance_digests(),
        "validation_groups": sorted({groups[i] for i in parts.validation}),
        "test_groups": sorted({groups[i] for i in parts.test}),
    }


def _store_samples(out: Path, pictures: Pictures, contract: InputContract) -> None:
    """Keep framed pairs, spread over the classes, for the parity checks of later steps."""
    count = len(pictures.rgb)
    chosen = np.unique(np.linspace(0, count - 1, min(NUM_STORED_SAMPLES, count)).astype(int)).tolist()
    rgb, depth, _ = next(framed_batches(pictures.subset(chosen), contract=contract, batch_size=NUM_STORED_SAMPLES))
    run_folder.write_samples(out, rgb=rgb, depth=depth)


def _finish(
    out: Path,
    held_out: dict[str, Pictures],
    history: list[EpochResult],
    *,
    info: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Calibrate the run that stands at `out`, and measure it as it will be used."""
    run = run_folder.open_run(out)
    model = run.build_model().to(device)
    calibration = calibrate(model, held_out, contract=run.model_config.contract, labels=run.labels)
    run_folder.write_run(
        out,
        labels=run.labels,
        model_config=replace(run.model_config, temperature=model.temperature),
        info={**info, **_epochs(run.info["epoch_kept"], done=len(history))},
    )
    return measure(
        model,
        out,
        held_out,
        history,
        calibration=calibration,
        contract=run.model_config.contract,
        labels=run.labels,
        fusion=run.model_config.fusion,
    )
