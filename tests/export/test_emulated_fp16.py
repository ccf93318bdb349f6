"""Emulated FP16 finds the same as PyTorch's own FP16 kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_runs import CONTRACT, new_model, overflowing
from test_layer_sensitivity import SENSITIVE, make_sensitive
from torch import Tensor
from torch.nn import functional

from edgefuse.evaluation.compare_outputs import FP16_TOLERANCE, check_parity, predicted_in_batches
from edgefuse.model.classifier import FusionClassifier
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import open_run
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.emulated_fp16 import EmulatedFp16
from edgefuse_export.onnx.fp16 import fp16_from_model
from edgefuse_export.onnx.fp16_search import Fp16Evaluation, Fp16Search
from edgefuse_export.onnx.layer_sensitivity import Fp32Selection, measure_sensitivity, select_fp32_blocks

KERNELS: tuple[Callable[[], AbstractContextManager[Any]], ...] = (EmulatedFp16, nullcontext)


def searched(
    model: FusionClassifier, frames: Frames, kernels: Callable[[], AbstractContextManager[Any]]
) -> tuple[Fp16Search, Fp32Selection[Fp16Evaluation]]:
    """The search of `export`, on FP16 by these kernels."""
    arrays: dict[str, Any] = {"rgb": frames.rgb, "depth": frames.depth, "contract": CONTRACT}
    reference = torch_predictor(model)
    search = Fp16Search(
        model=model,
        frames=frames,
        keep_fp32=(),
        compare=lambda predictor, name: check_parity(
            reference=reference,
            candidate=predicted_in_batches(predictor, **arrays),
            reference_name="FP32",
            candidate_name=name,
            tolerance=FP16_TOLERANCE,
            **arrays,
        ),
        kernels=kernels,
    )
    measure = partial(
        measure_sensitivity,
        frames=frames,
        contract=CONTRACT,
        tolerance=FP16_TOLERANCE,
        reference=reference,
        alone=search.alone,
        batch_size=16,
    )
    kept = select_fp32_blocks(
        search.evaluate,
        passes=lambda found: not found.report.failures(),
        measure=lambda: measure(search.blocks),
        can_improve=lambda found: found.report.is_finite,
    )
    return search, kept


def frames_of(run: Path) -> Frames:
    rgb, depth = open_run(run).samples()
    return Frames(rgb=rgb, depth=depth)


def test_it_finds_the_layers_and_the_changed_predictions_of_fp16_kernels(trained_run: Path) -> None:
    model = open_run(trained_run).build_model()
    make_sensitive(model)
    (_, emulated), (_, true) = (searched(model, frames_of(trained_run), kernels) for kernels in KERNELS)
    assert emulated.blocks == true.blocks and set(true.blocks) == set(SENSITIVE)
    for block, fraction in true.sensitivity.items():
        assert emulated.sensitivity[block] == pytest.approx(fraction, rel=0.25, abs=0.1)
    a, b = emulated.evaluation.report.together, true.evaluation.report.together
    assert (a.top1_flips, a.near_tie_flips) == (b.top1_flips, b.near_tie_flips)
    assert 0 < a.max_probability_difference == pytest.approx(b.max_probability_difference, rel=0.5)


def test_it_finds_the_changed_predictions_of_a_model_that_loses_its_digits(trained_run: Path) -> None:
    """Without layers in FP32: FP16 changes predictions, and both change the same ones."""
    model = open_run(trained_run).build_model()
    make_sensitive(model, offset=20_000.0)
    frames = frames_of(trained_run)
    predictor = torch_predictor(model)
    classes = [predictor(frames.rgb, frames.depth)[0].argmax(axis=1)]
    for kernels in KERNELS:
        fp16 = fp16_of(model, frames)
        with kernels():
            classes.append(torch_predictor(fp16)(frames.rgb, frames.depth)[0].argmax(axis=1))
    assert (classes[1] != classes[0]).any()
    np.testing.assert_array_equal(classes[1], classes[2])


def fp16_of(model: FusionClassifier, frames: Frames) -> FusionClassifier:
    first = {"rgb_NHWC": torch.from_numpy(frames.rgb[:1]), "depth_NHW2": torch.from_numpy(frames.depth[:1])}
    return fp16_from_model(model, **first).model


def test_it_finds_the_layers_that_overflow(trained_run: Path) -> None:
    model = overflowing(open_run(trained_run).build_model())
    found = [searched(model, frames_of(trained_run), kernels) for kernels in KERNELS]
    (emulated, a), (true, b) = ((search, kept.evaluation) for search, kept in found)
    assert not a.report.is_finite and not b.report.is_finite
    assert a.report.activations is not None and b.report.activations is not None
    assert a.report.activations["not_finite"] == b.report.activations["not_finite"] != {}
    assert emulated.overflows(a) == true.overflows(b) and "rgb_features.project.0" in emulated.overflows(a)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, w: functional.conv2d(x, w, padding=1),
        lambda x, w: functional.linear(x.flatten(1)[:, :27], w.flatten(1)),
        lambda x, w: torch.sigmoid(x) * (1 - x) + x / 3,
        lambda x, w: x.mean((2, 3)),
        lambda x, w: functional.avg_pool2d(x, 2),
        lambda x, w: functional.hardswish(x),
        lambda x, w: torch.cat([functional.relu6(x, inplace=True), x[:, :1] * 7], dim=1),
    ],
)
def test_operations_round_like_fp16_kernels(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 3, 8, 8).half(), torch.randn(4, 3, 3, 3).half()
    true = operation(x.clone(), w)
    with EmulatedFp16():
        emulated = operation(x.clone(), w)
    assert emulated.dtype == torch.float16
    torch.testing.assert_close(emulated, true, rtol=2**-10, atol=1e-3)


def test_large_values_become_infinite_and_fp32_is_untouched() -> None:
    x = torch.full((4,), 60_000.0)
    with EmulatedFp16():
        assert torch.isinf(x.half() + x.half()).all() and torch.isinf((2 * x).half()).all()
        assert (x + x == 120_000.0).all() and (x.half().float() * 2 == x.half().float() + x.half().float()).all()
        assert (
            x.half().float().dtype == torch.float32 and torch.softmax(x.half(), 0, dtype=torch.float32).dtype == x.dtype
        )
        y = x.half()
        y[1:].fill_(0.0)  # a view
        assert y.tolist() == [60_000.0, 0.0, 0.0, 0.0]


def test_every_operation_of_the_model_keeps_its_type() -> None:
    """A cast that the emulation lost or added would change the type of an output."""
    model = new_model("spatial", encoding="relative")
    rgb, depth = (np.zeros((1, 32, 32, channels), np.uint8) for channels in (3, 2))
    fp16 = fp16_of(model, Frames(rgb=rgb, depth=depth))
    types: list[list[torch.dtype]] = []
    for kernels in KERNELS:
        seen: list[torch.dtype] = []
        handles = [
            module.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out.dtype))
            for name, module in fp16.named_modules()
            if name.startswith(("spatial_gate", "rgb_features", "depth_features", "core.head"))
        ]
        with kernels(), torch.inference_mode():
            fp16(torch.from_numpy(rgb), torch.from_numpy(depth))
        for handle in handles:
            handle.remove()
        types.append(seen)
    assert types[0] == types[1] and {torch.float16, torch.float32} == set(types[0])
