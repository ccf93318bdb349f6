"""Which blocks stay in FP32: found by what they do to the answers, kept until the proof holds, named where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_runs import CONTRACT, copy_run, new_model, samples
from numpy.typing import NDArray
from torch import nn

from edgefuse.evaluation.metrics import Predictor
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import open_run, write_weights
from edgefuse_export.compare_outputs import FP16_TOLERANCE, TOLERANCES, Tolerance
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside
from edgefuse_export.onnx.export import ParityError, export_run
from edgefuse_export.onnx.fp16 import fp32_modules
from edgefuse_export.onnx.layer_sensitivity import MAX_LAYERS, Kept, blocks_of, keep_until_it_holds, measure_drift
from logs import logged

LIMITS = Tolerance(probability=0.1, gate=0.1)


def num_layers(module: nn.Module) -> int:
    return sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in module.modules())


@pytest.mark.parametrize(
    ("rgb", "depth"), [("small", "scratch"), ("mobilenet_v2", "mobilenet_v2"), ("resnet18", "scratch")]
)
def test_every_layer_is_in_one_small_block(rgb: str, depth: str) -> None:
    model = new_model("spatial", rgb=rgb, depth=depth, encoding="relative")
    outside = fp32_modules(model)
    blocks = blocks_of(model, outside=outside)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and not inside(n, outside)]
    assert all(sum(inside(layer, (block,)) for block in blocks) == 1 for layer in layers)
    assert all(0 < num_layers(model.get_submodule(block)) <= MAX_LAYERS for block in blocks)
    assert not any(inside(block, outside) for block in blocks) and "spatial_gate.W" not in blocks
    if rgb == "mobilenet_v2":
        assert {"rgb_features.backbone.features.1", "depth_features.backbone.features.1.17"} <= set(blocks)


def test_a_block_with_a_part_in_fp32_is_taken_apart() -> None:
    blocks = blocks_of(new_model(), outside=("decode", "core.head"))
    assert "core" not in blocks and not any(b.startswith("core.head") for b in blocks)
    assert any(b.startswith("core.fusion") for b in blocks)


SPOILT = ("rgb_features.backbone.features.6", "rgb_features.project")


def spoilt(model: nn.Module, *, offset: float = 1000.0) -> None:
    """One block gives its values on top of a large offset, which the next takes away: half keeps few digits of them."""
    gives, sequences = (model.get_submodule(name) for name in SPOILT)
    assert isinstance(gives, nn.Sequential) and isinstance(sequences, nn.Sequential)
    with torch.no_grad():
        gives[1].bias += offset
        sequences[0].bias -= offset * sequences[0].weight.sum(1)


def test_the_block_that_drifts_comes_first() -> None:
    model = new_model()
    noisy = {"a": 0.001, "b": 0.04, "c": np.nan}
    reference = torch_predictor(model)

    def alone(block: str) -> Predictor:
        def answer(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            probabilities, gate = reference(rgb, depth)
            return probabilities, (gate + noisy[block]).astype(np.float32)

        return answer

    rgb, depth = samples(40)
    drift = measure_drift(
        tuple(noisy),
        frames=Frames(rgb=rgb, depth=depth),
        contract=CONTRACT,
        tolerance=LIMITS,
        reference=reference,
        alone=alone,
    )
    assert list(drift) == ["c", "b", "a"] and drift["c"] == np.inf
    assert drift["b"] == pytest.approx(0.4, rel=1e-3) and drift["a"] == pytest.approx(0.01, rel=1e-2)


def test_no_more_is_kept_than_does_and_nothing_is_measured_in_vain() -> None:
    drift = {"a": 3.0, "b": 2.0, "c": 0.1, "d": 0.1, "e": 0.0, "f": 0.0}
    tried: list[tuple[str, ...]] = []

    def prove(blocks: tuple[str, ...]) -> tuple[str, ...]:
        tried.append(blocks)
        return blocks

    def choose(enough: set[str]) -> Kept[tuple[str, ...]]:
        tried.clear()
        return keep_until_it_holds(prove, holds=lambda kept: enough <= set(kept), measure=lambda: drift)

    assert choose({"a", "b"}).blocks == ("a", "b") and tried == [(), ("a", "b")]  # one alone was not worth a try
    assert choose({"c"}).blocks == ("a", "b", "c") and choose({"c"}).proof == ("a", "b", "c")
    drift = {"a": 3.0, **dict.fromkeys("bcdefgh", 0.1)}
    assert choose({"b"}).blocks == ("a", "b") and tried == [(), ("a",), ("a", "b")]  # no more than it takes
    drift = {"a": 3.0, "b": 2.0, "c": 0.1, "d": 0.1, "e": 0.0, "f": 0.0}
    hopeless = choose({"f"})
    assert not hopeless.holds and hopeless.blocks == ("a", "b", "c")
    assert "drift most in a, b, c" in hopeless.next_step(
        ["core"]
    ) and "--keep-fp32 'core' --keep-fp32 'a'" in hopeless.next_step(["core"])
    assert "--keep-fp32 'd'" in hopeless.next_step([])  # more than was tried already
    at_once = keep_until_it_holds(prove, holds=lambda kept: True, measure=lambda: pytest.fail("measured in vain"))
    assert at_once.blocks == () and at_once.to_json() == {}
    assert not keep_until_it_holds(prove, holds=bool, measure=lambda: drift, worth_it=lambda kept: False).holds


def test_fp16_keeps_the_block_in_which_it_drifts(trained_run: Path, tmp_path: Path) -> None:
    run = copy_run(trained_run, tmp_path / "run")
    model = open_run(run).build_model()
    spoilt(model)
    write_weights(run, model)
    seen: list[tuple[int, int | None, str]] = []
    with logged() as said:
        summary = export_run(
            run, tmp_path / "b", precisions=("fp16",), progress=lambda *count, stage="": seen.append((*count, stage))
        )
    num_blocks = len(summary.bundle.manifest.parity["model.fp16.onnx"]["drift"])
    assert seen == [(number + 1, num_blocks, "measuring layers in FP16") for number in range(num_blocks)]
    entry = summary.bundle.manifest.parity["model.fp16.onnx"]
    assert set(entry["kept_by_drift"]) == set(SPOILT) <= set(entry["fp32_modules"])
    assert all(entry["drift"][name] > 1 for name in SPOILT)
    assert any("FP16 keeps 2 of" in text and SPOILT[0] in text for text in said)


def test_int8_keeps_what_drifts_most_and_says_so(trained_run: Path, tmp_path: Path) -> None:
    """Limits under which the file as made fails, whatever it is off by, and a few blocks in FP32 pass."""
    as_made = export_run(trained_run, tmp_path / "a", precisions=("int8",), num_calibration_frames=20)
    off = as_made.reports["model.int8.onnx"][0].together.max_probability_difference
    strict = {**TOLERANCES, "int8": Tolerance(probability=0.7 * off, gate=1.0)}
    with logged() as said:
        summary = export_run(
            trained_run, tmp_path / "b", precisions=("int8",), num_calibration_frames=20, tolerances=strict
        )
    entry = summary.bundle.manifest.parity["model.int8.onnx"]
    kept = entry["kept_by_drift"]
    assert kept == list(entry["drift"])[: len(kept)] and kept and set(kept) <= set(entry["fp32_modules"])
    assert any(f"INT8 keeps {len(kept)} of" in text and kept[0] in text for text in said)
    assert "kept_by_drift" not in as_made.bundle.manifest.parity["model.int8.onnx"]


def test_what_cannot_be_kept_is_named(trained_run: Path, tmp_path: Path) -> None:
    hopeless = {**TOLERANCES, "fp16": replace(FP16_TOLERANCE, probability=1e-9)}
    with pytest.raises(
        ParityError, match=r"drift most in \w+(.|\n)*in FP32 already\nKeep more in FP32: --keep-fp32 '\w+"
    ):
        export_run(trained_run, tmp_path / "b", precisions=("fp16",), tolerances=hopeless)
    assert list(tmp_path.iterdir()) == []
