"""Batches ahead of time, threads by measured time, and mixed precision with parts of the model in FP32."""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier
from edgefuse.training.batches import Batch, Batches, num_workers, prefetched
from edgefuse.training.faster_threads import FasterThreads, limit_threads
from edgefuse.training.loop import torch_pixel_gate
from edgefuse.training.recipe import TrainConfig

SMALL = TrainConfig(size=32, batch_size=4, seed=3)


def batch(number: int) -> Batch:
    return Batch(*(torch.full((1,), number) for _ in Batch._fields))


def test_batches_keep_their_order_and_the_next_one_is_ready_while_the_last_is_used() -> None:
    prepared: list[int] = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            prepared.append(number)
            yield batch(number)

    seen = []
    for one in prefetched(batches()):
        seen.append(int(one.labels))
        deadline = time.monotonic() + 5
        while len(prepared) < min(len(seen) + 1, 3) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(prepared) == min(len(seen) + 1, 3)
    assert seen == [0, 1, 2]


def test_an_error_of_a_batch_reaches_the_caller() -> None:
    def batches() -> Iterator[Batch]:
        yield batch(0)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(prefetched(batches()))


def test_batches_repeat_by_seed_and_differ_by_epoch(colour_and_range: Path) -> None:
    rgbd = load(scan([colour_and_range]))

    def first_batch(epoch: int) -> torch.Tensor:
        return next(Batches(rgbd, config=SMALL).of_epoch(epoch)).rgb

    assert torch.equal(first_batch(0), first_batch(0)) and not torch.equal(first_batch(0), first_batch(1))


def test_worker_processes_prepare_the_same_batches(colour_and_range: Path) -> None:
    rgbd = load(scan([colour_and_range]))

    def prepared(num_workers: int) -> list[tuple[list[int], bytes]]:
        batches = Batches(rgbd, config=SMALL, num_workers=num_workers)
        return [
            (batch.indices.tolist(), batch.rgb.numpy().tobytes() + batch.depth.numpy().tobytes())
            for epoch in range(3)
            for batch in batches.of_epoch(epoch)
        ]

    alone = prepared(0)
    assert alone == prepared(1) == prepared(2)
    assert len({tuple(indices) for indices, _ in alone}) == len(alone)  # each epoch has an order of its own


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_data_is_raised_as_it_is(
    colour_and_range: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise UserError("a.png changed while it was in use")

    monkeypatch.setattr("edgefuse.training.batches.augment", fails)
    batches = Batches(load(scan([colour_and_range])), config=SMALL, num_workers=num_workers)
    with pytest.raises(UserError, match="^a.png changed while it was in use$"):
        next(batches.of_epoch(0))


def test_batches_for_a_gpu_are_prepared_by_processes_if_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    usage = namedtuple("usage", "free")
    for free, device, expected in ((2**40, "cuda", 3), (2**40, "cpu", 0), (2**10, "cuda", 0)):
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: usage(free))
        assert num_workers(torch.device(device), config=SMALL) == expected


def test_a_limit_of_threads_is_one_for_opencv_too() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        limit_threads(3)
        limit_threads(None)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize("faster", [1, 3])
def test_evaluation_uses_the_number_of_threads_that_is_faster_and_restores_it(faster: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run, used = FasterThreads(), list[int]()

        def call() -> None:
            used.append(torch.get_num_threads())
            time.sleep(0.001 if used[-1] == faster else 0.02)

        for _ in range(8):
            run(call)
        assert used[:3] == [3, 3, 1]
        assert set(used[3:]) == {faster}
        with pytest.raises(ZeroDivisionError):
            run(lambda: 1 / 0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_failed_call_and_other_numbers_of_threads_do_not_count() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        run, used = FasterThreads(), list[int]()

        def call() -> None:
            used.append(torch.get_num_threads())
            time.sleep(0.02 if used[-1] == 1 else 0.001)

        run(call)
        run(call)
        with pytest.raises(ZeroDivisionError):
            run(lambda: 1 / 0)  # with one thread, in no time
        run(call)
        assert used == [4, 4, 4]
        torch.set_num_threads(2)
        for _ in range(4):
            run(call)
        assert used[3:] == [2, 2, 1, 2]
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def model() -> FusionClassifier:
    torch.manual_seed(0)
    config = ModelConfig(
        contract=InputContract(size=32),
        num_classes=3,
        fusion="spatial",
        encoding="relative",
        auxiliary_heads=True,
        frame_gate=True,
        temperature_no_rgb=2.0,
    )
    model = build_classifier(config).eval()
    assert model.frame_gate is not None
    torch.nn.init.normal_(model.frame_gate.W.weight)
    return model


def test_the_pixel_gate_of_explain_uses_the_faster_number_of_threads_too(model: FusionClassifier) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (2, 32, 32, n), dtype=torch.uint8, generator=generator).numpy() for n in (3, 2)]
    used = list[int]()
    model.decode.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    kept, before = torch_pixel_gate(model), torch.get_num_threads()
    assert kept is not None
    torch.set_num_threads(3)
    try:
        found = [kept(*images) for _ in range(3)]
        assert used == [3, 3, 1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found[0].shape == (2, 32, 32) and 0 <= found[0].min() <= found[0].max() <= 1
    assert np.abs(found[2] - found[0]).max() < 1e-6


def test_under_autocast_the_parts_in_fp32_compute_as_without_it(model: FusionClassifier) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (2, 32, 32, n), dtype=torch.uint8, generator=generator) for n in (3, 2)]
    inputs: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    outputs: dict[str, list[torch.Tensor]] = {}
    for name in FusionClassifier.fp32_modules:
        model.get_submodule(name).register_forward_hook(
            lambda module, arguments, output, name=name: (
                (
                    inputs.setdefault(name, []).append(arguments),
                    outputs.setdefault(name, []).append(output),
                )[2:]
                or None
            )
        )
    model(*images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*images)[0]
    assert logits.dtype == torch.float32
    for name, (_, mixed) in outputs.items():
        assert mixed.dtype == torch.float32, name
        arguments = inputs[name][1]
        again = model.get_submodule(name).forward(*(one.float() for one in arguments))
        torch.testing.assert_close(mixed, again, rtol=0, atol=0)
    for name in ("spatial_gate", "frame_gate"):  # their inputs do not pass a layer in bfloat16
        torch.testing.assert_close(outputs[name][1], outputs[name][0], rtol=0, atol=0)
    assert outputs["core.weighted_sum"][0].ne(outputs["core.weighted_sum"][1]).any(), "autocast had no effect"
