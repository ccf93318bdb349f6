"""Which blocks stay in FP32: ranked by sensitivity, selected until the outputs pass, named in the message if they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_runs import CONTRACT, copy_run, new_model, samples
from numpy.typing import NDArray
from torch import nn

from edgefuse.contract import Outputs
from edgefuse.evaluation.compare_outputs import FP16_TOLERANCE, TOLERANCES, Tolerance
from edgefuse.evaluation.metrics import Predictor
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import open_run, write_weights
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside
from edgefuse_export.onnx.export import export_run
from edgefuse_export.onnx.fp16 import fp32_modules
from edgefuse_export.onnx.layer_sensitivity import (
    MAX_LAYERS,
    Fp32Selection,
    find_blocks,
    measure_sensitivity,
    select_fp32_blocks,
)
from edgefuse_export.onnx.parity_error import ParityError
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
    blocks = find_blocks(model, outside=outside)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and not inside(n, outside)]
    assert all(sum(inside(layer, (block,)) for block in blocks) == 1 for layer in layers)
    assert all(0 < num_layers(model.get_submodule(block)) <= MAX_LAYERS for block in blocks)
    assert not any(inside(block, outside) for block in blocks) and "spatial_gate.W" not in blocks
    if rgb == "mobilenet_v2":
        assert {"rgb_features.backbone.features.1", "depth_features.backbone.features.1.17"} <= set(blocks)


def test_a_block_with_an_fp32_submodule_is_split() -> None:
    blocks = find_blocks(new_model(), outside=("decode", "core.head"))
    assert "core" not in blocks and not any(b.startswith("core.head") for b in blocks)
    assert any(b.startswith("core.fusion") for b in blocks)


SENSITIVE = ("rgb_features.backbone.features.6", "rgb_features.project")


def make_sensitive(model: nn.Module, *, offset: float = 1000.0) -> None:
    """One block adds a large offset to its output, and the next one subtracts it: FP16 keeps few digits of the rest."""
    first, second = (model.get_submodule(name) for name in SENSITIVE)
    assert isinstance(first, nn.Sequential) and isinstance(second, nn.Sequential)
    with torch.no_grad():
        first[1].bias += offset
        second[0].bias -= offset * second[0].weight.sum(1)


def test_the_most_sensitive_block_comes_first() -> None:
    model = new_model()
    noisy = {"a": 0.001, "b": 0.04, "c": np.nan}
    reference = torch_predictor(model)

    def alone(block: str) -> Predictor:
        def predict(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
            found = reference(rgb, depth)
            return found._replace(gate=(found.gate + noisy[block]).astype(np.float32))

        return predict

    rgb, depth = samples(40)
    sensitivity = measure_sensitivity(
        tuple(noisy),
        frames=Frames(rgb=rgb, depth=depth),
        contract=CONTRACT,
        tolerance=LIMITS,
        reference=reference,
        alone=alone,
    )
    assert list(sensitivity) == ["c", "b", "a"] and sensitivity["c"] == np.inf
    assert sensitivity["b"] == pytest.approx(0.4, rel=1e-3) and sensitivity["a"] == pytest.approx(0.01, rel=1e-2)


def test_no_more_blocks_than_needed_stay_in_fp32_and_nothing_is_measured_needlessly() -> None:
    sensitivity = {"a": 3.0, "b": 2.0, "c": 0.1, "d": 0.1, "e": 0.0, "f": 0.0}
    tried: list[tuple[str, ...]] = []

    def prove(blocks: tuple[str, ...]) -> tuple[str, ...]:
        tried.append(blocks)
        return blocks

    def choose(enough: set[str]) -> Fp32Selection[tuple[str, ...]]:
        tried.clear()
        return select_fp32_blocks(prove, passes=lambda kept: enough <= set(kept), measure=lambda: sensitivity)

    assert choose({"a", "b"}).blocks == ("a", "b") and tried == [(), ("a", "b")]  # one alone was not worth a try
    assert choose({"c"}).blocks == ("a", "b", "c") and choose({"c"}).evaluation == ("a", "b", "c")
    sensitivity = {"a": 3.0, **dict.fromkeys("bcdefgh", 0.1)}
    assert choose({"b"}).blocks == ("a", "b") and tried == [(), ("a",), ("a", "b")]  # no more than it takes
    sensitivity = {"a": 3.0, "b": 2.0, "c": 0.1, "d": 0.1, "e": 0.0, "f": 0.0}
    hopeless = choose({"f"})
    assert not hopeless.passes and hopeless.blocks == ("a", "b", "c")
    assert "the most sensitive blocks are a, b, c" in hopeless.next_step(
        ["core"]
    ) and "--keep-fp32 'core' --keep-fp32 'a'" in hopeless.next_step(["core"])
    assert "--keep-fp32 'd'" in hopeless.next_step([])  # more than was tried already
    at_once = select_fp32_blocks(prove, passes=lambda kept: True, measure=lambda: pytest.fail("measured needlessly"))
    assert at_once.blocks == () and at_once.to_json() == {}
    assert not select_fp32_blocks(
        prove, passes=bool, measure=lambda: sensitivity, can_improve=lambda kept: False
    ).passes


def test_sensitive_blocks_of_the_fp16_file_stay_in_fp32(trained_run: Path, tmp_path: Path) -> None:
    run = copy_run(trained_run, tmp_path / "run")
    model = open_run(run).build_model()
    make_sensitive(model)
    write_weights(run, model)
    seen: list[tuple[int, int | None, str]] = []
    with logged() as messages:
        summary = export_run(
            run, tmp_path / "b", precisions=("fp16",), progress=lambda *count, stage="": seen.append((*count, stage))
        )
    num_blocks, stage = len(summary.bundle.manifest.parity["model.fp16.onnx"]["drift"]), "measuring blocks in FP16"
    assert [one for one in seen if one[2] == stage] == [(number + 1, num_blocks, stage) for number in range(num_blocks)]
    entry = summary.bundle.manifest.parity["model.fp16.onnx"]
    assert set(entry["kept_by_drift"]) == set(SENSITIVE) <= set(entry["fp32_modules"])
    assert all(entry["drift"][name] > 1 for name in SENSITIVE)
    assert any("FP16 keeps 2 of" in text and SENSITIVE[0] in text for text in messages)


def test_sensitive_blocks_of_the_int8_file_stay_in_fp32_and_are_logged(trained_run: Path, tmp_path: Path) -> None:
    """The limit is below the difference of the fully quantised file, and passes with a few blocks in FP32."""
    as_made = export_run(trained_run, tmp_path / "a", precisions=("int8",), num_calibration_frames=20)
    off = as_made.reports["model.int8.onnx"][0].together.max_probability_difference
    strict = {**TOLERANCES, "int8": Tolerance(probability=0.7 * off, gate=1.0)}
    with logged() as messages:
        summary = export_run(
            trained_run, tmp_path / "b", precisions=("int8",), num_calibration_frames=20, tolerances=strict
        )
    entry = summary.bundle.manifest.parity["model.int8.onnx"]
    kept = entry["kept_by_drift"]
    assert kept == list(entry["drift"])[: len(kept)] and kept and set(kept) <= set(entry["fp32_modules"])
    assert any(f"INT8 keeps {len(kept)} of" in text and kept[0] in text for text in messages)
    assert "kept_by_drift" not in as_made.bundle.manifest.parity["model.int8.onnx"]


def test_blocks_to_keep_in_fp32_are_named_if_the_search_fails(trained_run: Path, tmp_path: Path) -> None:
    hopeless = {**TOLERANCES, "fp16": replace(FP16_TOLERANCE, probability=1e-9)}
    with pytest.raises(
        ParityError,
        match=r"most sensitive blocks are \w+(.|\n)*; already in FP32: .*\nKeep more in FP32: --keep-fp32 '\w+",
    ):
        export_run(trained_run, tmp_path / "b", precisions=("fp16",), tolerances=hopeless)
    assert list(tmp_path.iterdir()) == []
