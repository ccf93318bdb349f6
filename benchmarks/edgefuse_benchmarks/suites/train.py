"""Scope "training step": one update of the weights on the training device, by precision and memory layout, and the preparation of a batch.

A step is measured on batches that are on the device already, so that it shows what a faster preparation could gain. The epochs are
those of `edgefuse train`, with the preparation; two are measured, because the first one selects kernels.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edgefuse.contract import InputContract
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.measure import Plan, Variant, measure, ratio
from edgefuse.model.classifier import FusionClassifier, build_classifier
from edgefuse.training.batches import Batch, Batches, num_workers
from edgefuse.training.fold_frozen_batchnorm import fold_frozen_batchnorm
from edgefuse.training.loop import annealed_adam, best_device, loss_and_logits, prepare, train_epochs, training_step
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import model_config_of
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report

NUM_BATCHES = 8
NUM_EPOCHS = 2
PLAN = Plan(warmup_s=1.0, min_warmup_calls=5, measure_s=20.0, min_rounds=20, max_rounds=300)
QUICK_PLAN = Plan(warmup_s=0.2, min_warmup_calls=2, measure_s=4.0, min_rounds=5, max_rounds=50)
PREPARE = "prepare a batch, one thread"


class _Kind(NamedTuple):
    amp: bool
    memory_format: torch.memory_format

    @property
    def name(self) -> str:
        layout = "channels-last" if self.memory_format is torch.channels_last else "contiguous"
        return f"step, {'bf16 autocast' if self.amp else 'FP32'}, {layout}"


KINDS = tuple(
    itertools.starmap(_Kind, itertools.product((False, True), (torch.channels_last, torch.contiguous_format)))
)


def bench_train(  # long: the steps of the measurement in order
    data: Sequence[Path], *, config: TrainConfig, plan: Plan = PLAN
) -> Report:
    """Measure the training of a recipe on a data set.

    Args:
        data: folders, as for `edgefuse train`.
        config: the recipe; its split is not used, all pairs are trained on.

    Raises:
        UserError: the data cannot be read, or a model cannot be built.
        NotFiniteError: a loss is not finite.
    """
    described = machine.describe()
    device = best_device()
    rgbd = load(scan(data))
    contract = InputContract(size=config.size, near_m=config.near_m, far_m=config.far_m, align=rgbd.dataset.align)
    model_config = model_config_of(config, contract, num_classes=len(rgbd.dataset.labels))
    build = partial(build_classifier, model_config, rgb_weights=config.rgb_weights, depth_weights=config.depth_weights)
    batches = [
        Batch(*(tensor.to(device) for tensor in batch))
        for batch in itertools.islice(_forever(rgbd, config), NUM_BATCHES)
    ]
    losses: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
    with ExitStack() as stack:
        variants = []
        for kind in KINDS:
            torch.manual_seed(config.seed)
            model = build()
            prepare(model, device=device, frozen_fraction=config.frozen_fraction)
            model.to(memory_format=kind.memory_format)
            stack.enter_context(fold_frozen_batchnorm(model))
            step = _steps(
                model, itertools.cycle(batches), config=replace(config, amp=kind.amp), losses=losses[kind.name]
            )
            variants.append(Variant(name=kind.name, call=step))
        variants.append(Variant(name=PREPARE, call=partial(next, _forever(rgbd, config))))
        series = measure(variants, plan=plan, check=list)
    epochs_s = _epochs_s(build(), rgbd, config=config, contract=contract, device=device)
    pairs_per_s = {one.name: round(config.batch_size / one.summary().p50_ns * 1e9, 1) for one in series}
    first, *others = series
    facts = {
        "device": str(device),
        "num_workers": num_workers(device, config=config),
        "num_pairs": len(rgbd.rgb),
        "pairs_per_s": pairs_per_s,
        "epoch_s": epochs_s,
        "epoch_pairs_per_s": round(len(rgbd.rgb) / epochs_s[-1], 1),
        "loss_first_and_last": {
            name: [round(float(np.mean(part)), 4) for part in (of[:NUM_BATCHES], of[-NUM_BATCHES:])]
            for name, of in losses.items()
        },
    }
    group = Group(
        scope="training step",
        name=f"batch of {config.batch_size}, {config.size} px",
        series=series,
        ratios=tuple(ratio(one, first) for one in others),
        facts=facts,
    )
    return Report(
        benchmark="train",
        machine=described,
        parameters={
            "config": config.to_json(),
            "torch_threads": torch.get_num_threads(),
            "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
            "plan": asdict(plan),
        },
        parity=(),
        groups=(group,),
        notes=(
            f"an epoch of {len(rgbd.rgb)} pairs with their preparation, on {device}: {epochs_s[-1]:.1f} s, {facts['epoch_pairs_per_s']} pairs/s",
            f"pairs/s on ready batches: {', '.join(f'{name} {value}' for name, value in pairs_per_s.items() if name != PREPARE)}",
        ),
    )


def _steps(
    model: FusionClassifier, batches: Iterator[Batch], *, config: TrainConfig, losses: list[float]
) -> Callable[[], None]:
    """A function that trains on the next batch. It reads the loss from the device, so the step is complete when it returns."""
    optimizer, _ = annealed_adam(model, config, num_steps=1)  # the schedule is not stepped: the full rate
    criterion = partial(loss_and_logits, config=config)

    def step() -> None:
        batch = next(batches)
        losses.append(training_step(model, batch, criterion=criterion, optimizer=optimizer, where=lambda: "a step")[0])

    return step


def _forever(rgbd: RgbdDataset, config: TrainConfig) -> Iterator[Batch]:
    batches = Batches(rgbd, config=config)
    for epoch in itertools.count():
        yield from batches.of_epoch(epoch)


def _epochs_s(
    model: FusionClassifier, rgbd: RgbdDataset, *, config: TrainConfig, contract: InputContract, device: torch.device
) -> list[float]:
    """Seconds of each of `NUM_EPOCHS` epochs."""
    config, start_s, ended_s = replace(config, epochs=NUM_EPOCHS), time.monotonic(), list[float]()
    for _ in train_epochs(model, train=rgbd, validation=None, config=config, contract=contract, device=device):
        ended_s.append(time.monotonic())
    return [round(end - begin, 3) for begin, end in itertools.pairwise((start_s, *ended_s))]
