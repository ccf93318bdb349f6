"""The training loop: Adam, learning rate annealed along a cosine, one epoch after the other.

Owns the updates of the weights; does not access files. Callbacks report each step and each epoch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.console.interrupts import raise_if_interrupted
from edgefuse.contract import InputContract, Outputs
from edgefuse.data.dataset import Dataset, RgbdDataset
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Predictor, framed_batches
from edgefuse.model.backbones import Backbone
from edgefuse.model.classifier import FusionClassifier, not_finite, predict
from edgefuse.training.batches import Batch, Batches, num_workers, prefetched
from edgefuse.training.faster_threads import FasterThreads, Result
from edgefuse.training.fold_frozen_batchnorm import fold_frozen_batchnorm
from edgefuse.training.recipe import TrainConfig

NUM_NAMED_PAIRS = 3


class NotFiniteError(UserError):
    """Loss, gradients or weights are not finite, so the training ends; the message names the batch."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Metrics of one epoch; those of validation are None without validation samples."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float


class StepReport:
    """Progress after each step: step, epoch (from 1), smoothed loss and accuracy."""

    def __init__(self, num_steps: int, *, num_epochs: int = 1) -> None:
        self.num_steps = num_steps
        self.num_epochs = num_epochs
        self.step = 0
        self.epoch = 1
        self.loss = math.nan
        self.accuracy = math.nan

    def update(self, loss: float, accuracy: float, *, epoch: int) -> StepReport:
        self.step += 1
        self.epoch = epoch
        first = math.isnan(self.loss)
        self.loss = loss if first else 0.95 * self.loss + 0.05 * loss
        self.accuracy = accuracy if first else 0.95 * self.accuracy + 0.05 * accuracy
        return self


def best_device() -> torch.device:
    """CUDA if available, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_epochs(
    model: FusionClassifier,
    *,
    train: RgbdDataset,
    validation: RgbdDataset | None,
    config: TrainConfig,
    contract: InputContract,
    device: torch.device,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Iterator[EpochResult]:
    """Train in place and yield after each epoch, with the model in eval mode and all its weights finite.

    Raises:
        NotFiniteError: a loss or a gradient is not finite, before it reaches the weights; or a weight or a statistic, after an epoch.
        KeyboardInterrupt: a signal has arrived, even if its exception was swallowed.
    """
    prepare(model, device=device, frozen_fraction=config.frozen_fraction)
    workers = num_workers(device, config=config)
    batches = Batches(train, config=config, num_workers=workers)
    report = StepReport(num_steps=config.epochs * len(batches), num_epochs=config.epochs)
    optimizer, schedule = annealed_adam(model, config, num_steps=report.num_steps)
    criterion = partial(loss_and_logits, config=config)
    spare = device.type != "cpu" or torch.get_num_threads() < len(os.sched_getaffinity(0))
    in_thread = prefetched if spare and not workers else iter
    with fold_frozen_batchnorm(model):
        for epoch in range(config.epochs):
            set_training(model)
            losses, num_right, num_seen = list[float](), 0, 0
            for number, batch in enumerate(in_thread(batches.of_epoch(epoch)), start=1):
                raise_if_interrupted()
                where = partial(_where, batch, train.dataset, number=number, num_batches=len(batches), epoch=epoch)
                loss, right = training_step(model, batch, criterion=criterion, optimizer=optimizer, where=where)
                schedule.step()
                losses.append(loss)
                num_right, num_seen = num_right + right, num_seen + len(batch.labels)
                on_step(report.update(loss, right / len(batch.labels), epoch=epoch + 1))
            model.eval()
            refuse_not_finite(model, where)
            validation_loss, validation_accuracy = _validate(model, validation, contract=contract, criterion=criterion)
            yield EpochResult(
                epoch=epoch,
                train_loss=float(np.mean(losses)),
                train_accuracy=num_right / num_seen,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
                learning_rate=float(schedule.get_last_lr()[0]),
            )


def annealed_adam(
    model: FusionClassifier, config: TrainConfig, *, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam and its schedule, stepped after each batch: linear warm-up times cosine.

    LambdaLR scales the learning rate of each parameter group; CosineAnnealingLR has one final rate for all groups.
    """
    optimizer = torch.optim.Adam(parameter_groups(model, config), weight_decay=config.weight_decay, fused=True)
    end = config.final_learning_rate / config.learning_rate
    num_warm = max(1, round(config.warm_up * num_steps))

    def rate(step: int) -> float:
        cosine = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        return min(1.0, (step + 1) / num_warm) * cosine

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def training_step(
    model: FusionClassifier,
    batch: Batch,
    *,
    criterion: Callable[[FusionClassifier, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    where: Callable[[], str],
) -> tuple[float, int]:
    """One update of the weights; returns the loss, and how many pairs of the batch were classified correctly.

    Raises:
        NotFiniteError: the loss or a gradient is not finite; the weights are those of before. The message ends with `where()`.
    """
    device = next(model.parameters()).device
    rgb, depth, truth = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
    loss, logits = criterion(model, rgb, depth, truth)
    value = _finite(loss, "the loss", where)
    _update(model, loss, optimizer, where)
    return value, int((logits.argmax(dim=1) == truth).sum())


def _update(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, where: Callable[[], str]) -> None:
    """One optimizer step, if all gradients are finite."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    _finite(torch.nn.utils.get_total_norm(gradients), "the gradient norm", where)
    optimizer.step()


def refuse_not_finite(model: nn.Module, where: Callable[[], str]) -> None:
    """Check every weight and statistic of a model. BatchNorm's statistics do not affect the training loss.

    Raises:
        NotFiniteError: one contains NaN or infinity; the message names the first.
    """
    if names := not_finite(model):
        raise NotFiniteError(f"{names[0]} contains values that are not finite after {where()}")


def _finite(tensor: Tensor, what: str, where: Callable[[], str]) -> float:
    value = float(tensor.item())
    if not math.isfinite(value):
        raise NotFiniteError(f"{what} is {value} in {where()}")
    return value


def _where(batch: Batch, dataset: Dataset, *, number: int, num_batches: int, epoch: int) -> str:
    """The batch as text: its number and its first pairs."""
    samples = [dataset.samples[i] for i in batch.indices[:NUM_NAMED_PAIRS].tolist()]
    names = ", ".join(f"{dataset.labels[sample.label]}/{sample.sequence}/{sample.name}" for sample in samples)
    return f"batch {number} of {num_batches} in epoch {epoch + 1} (first pairs {names})"


def prepare(model: FusionClassifier, *, device: torch.device, frozen_fraction: float) -> None:
    """Move the model to its device in train mode, and freeze the first `frozen_fraction` of the stages of each pretrained backbone.

    The first stages detect edges and textures, which need no retraining. With channels-last memory, MobileNetV2 trains a quarter faster
    on a CPU.
    """
    model.to(device).to(memory_format=torch.channels_last)
    for backbone in _pretrained_backbones(model):
        for stage in backbone.stages[: round(frozen_fraction * len(backbone.stages))]:
            stage.requires_grad_(False)
    if model.frame_gate is not None:
        model.frame_gate.requires_grad_(False)  # trained afterwards, see `edgefuse.training.frame_gate`
    if model.spatial_gate is not None:
        model.spatial_gate.requires_grad_(False)  # else the gradient would pass the frozen stages of the RGB backbone
    set_training(model)


def parameter_groups(model: FusionClassifier, config: TrainConfig) -> list[dict[str, object]]:
    """Parameter groups for Adam: new layers at the full learning rate, pretrained backbones at a fraction of it."""
    slow = [p for backbone in _pretrained_backbones(model) for p in backbone.parameters() if p.requires_grad]
    slow_ids = {id(p) for p in slow}
    fast = [p for p in model.parameters() if p.requires_grad and id(p) not in slow_ids]
    groups: list[dict[str, object]] = [{"params": fast, "lr": config.learning_rate}]
    if slow:
        groups.append({"params": slow, "lr": config.learning_rate * config.pretrained_rate_scale})
    return groups


def set_training(model: FusionClassifier) -> None:
    """Set train mode, except for BatchNorm in pretrained backbones: small data sets give poor statistics."""
    model.train()
    for backbone in _pretrained_backbones(model):
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def torch_predictor(model: FusionClassifier) -> Predictor:
    """The model as an `edgefuse.evaluation.metrics.Predictor`, on its current device; on the CPU with the number of threads that is faster."""
    device = next(model.parameters()).device
    run = _with_faster_threads(device)

    def predict_arrays(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
        outputs = run(lambda: predict(model, torch.from_numpy(rgb).to(device), torch.from_numpy(depth).to(device)))
        return Outputs(*(tensor.cpu().numpy() for tensor in outputs))

    return predict_arrays


def _with_faster_threads(device: torch.device) -> Callable[[Callable[[], Result]], Result]:
    return FasterThreads() if device.type == "cpu" else lambda call: call()


def torch_pixel_gate(
    model: FusionClassifier,
) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]] | None:
    """The kept fraction of each RGB pixel in a spatial model: framed rgb and depth -> 1 - G, float32 [N, S, S].

    None if the model has no spatial gate. On the CPU with the number of threads that is faster.
    """
    spatial_gate, decode, device = model.spatial_gate, model.decode, next(model.parameters()).device
    if spatial_gate is None:
        return None
    run = _with_faster_threads(device)

    @torch.inference_mode()
    def kept_on_device(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Tensor:
        image, decoded = decode(torch.from_numpy(rgb).to(device), torch.from_numpy(depth).to(device))
        frame_gate = None if model.frame_gate is None else model.frame_gate(image, decoded)
        return (1 - spatial_gate.mask(decoded, model.nearest_surface(decoded), frame_gate))[:, 0]

    def kept(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(run(lambda: kept_on_device(rgb, depth)).float().cpu().numpy(), np.float32)

    return kept


def _pretrained_backbones(model: FusionClassifier) -> list[Backbone]:
    extractors = (model.rgb_features, model.depth_features)
    return [e.backbone for e in extractors if e is not None and e.backbone.pretrained]


def loss_and_logits(
    model: FusionClassifier, rgb: Tensor, depth: Tensor, truth: Tensor, *, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """The training loss and the logits [N, C]. The loss is the cross-entropy of the logits plus the weighted ones of the auxiliary heads."""
    with torch.autocast(rgb.device.type, torch.bfloat16, enabled=config.amp):
        outputs = model(rgb, depth, with_auxiliary_heads=config.aux_loss_weight > 0)
    logits, _, _, *auxiliary = (tensor.float() for tensor in outputs)
    criterion = partial(functional.cross_entropy, target=truth, label_smoothing=config.label_smoothing)
    return criterion(logits) + config.aux_loss_weight * sum(criterion(one) for one in auxiliary), logits


@torch.inference_mode()
def _validate(
    model: FusionClassifier,
    rgbd: RgbdDataset | None,
    *,
    contract: InputContract,
    criterion: Callable[[FusionClassifier, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[float, float] | tuple[None, None]:
    """Loss and accuracy on the validation pairs, in eval mode."""
    if rgbd is None:
        return None, None
    device, sums = next(model.parameters()).device, np.zeros(2)
    for batch in framed_batches(rgbd, contract=contract, batch_size=32):
        rgb, depth, truth = (torch.from_numpy(array).to(device) for array in batch)
        loss, logits = criterion(model, rgb, depth, truth)
        sums += len(truth) * loss.item(), int((logits.argmax(dim=1) == truth).sum())
    return tuple((sums / len(rgbd.rgb)).tolist())
