"""The search for blocks to keep in FP32 runs what the INT8 file would compute, without writing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_runs import CONTRACT, LABELS, new_model, samples

import edgefuse_export.onnx.int8_search
from edgefuse.bundle import model_metadata
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.workers import map_in_threads
from edgefuse_export.onnx.activation_statistics import OnnxActivationObserver
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.int8 import int8_from_onnx, measured_ranges
from edgefuse_export.onnx.int8_search import Int8Search
from edgefuse_export.onnx.layer_sensitivity import find_blocks
from edgefuse_export.onnx.torch_to_onnx import Batch, onnx_from_model, save_model
from edgefuse_export.ort_reference import reference_predictor

New = Callable[..., Int8Search]


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> New:
    def searched(*, batch: Batch = 1, share_weights: bool = False, **options: Any) -> Int8Search:
        model = new_model(**options)
        if share_weights:
            assert model.rgb_features is not None and model.depth_features is not None
            for first, second in zip(
                model.rgb_features.backbone.stages, model.depth_features.backbone.stages, strict=True
            ):
                second.load_state_dict(first.state_dict())
        path = tmp_path_factory.mktemp("fp32") / "model.onnx"
        onnx_from_model(model, path, contract=CONTRACT, labels=LABELS, batch=batch)
        rgb, depth = samples(6)
        ranges = measured_ranges(path, frames=Frames(rgb=rgb, depth=depth), num_threads=2)
        outside = ("decode", *getattr(model, "fp32_modules", ()))

        def never(*_: object) -> Any:
            raise AssertionError

        blocks = find_blocks(model, outside=outside)
        more = {"write": never, "compare": never, "compare_live": never}
        return Int8Search(fp32=path, ranges=ranges, fp32_modules=outside, blocks=blocks, **more)

    return searched


def same(found: Predictor, quantised: Any, *, num_pairs: int = 1) -> None:
    expected = reference_predictor(quantised.SerializeToString())
    for seed in range(3):
        rgb, depth = samples(num_pairs, seed)
        for a, b in zip(found(rgb, depth), expected(rgb, depth), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def of_file(search: Int8Search, *, keep: tuple[str, ...] = (), only: tuple[str, ...] | None = None) -> Any:
    return int8_from_onnx(search.fp32, ranges=search.ranges, fp32_modules=(*search.fp32_modules, *keep), only=only)


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "gated"},
        {"fusion": "spatial", "encoding": "relative", "batch": "dynamic"},
        {"fusion": "spatial", "encoding": "relative", "auxiliary_heads": True, "batch": 4},
    ],
)
def test_one_block_in_int8_is_what_the_quantiser_writes(new: New, options: dict[str, Any]) -> None:
    search = new(**options)
    num_pairs = {"dynamic": 3, 4: 4}.get(options.get("batch", 1), 1)
    for block in search.blocks:
        same(search.alone(block), of_file(search, only=(block,)), num_pairs=num_pairs)
    for kept in (search.blocks[:1], search.blocks[1::2]):
        same(search.predictor(kept), of_file(search, keep=kept), num_pairs=num_pairs)


@pytest.mark.parametrize("max_known_bytes", [2**21, 2000, 0])
def test_shared_weights_and_tensors_that_are_too_large(
    new: New, monkeypatch: pytest.MonkeyPatch, max_known_bytes: int
) -> None:
    """A weight that two blocks share is quantised in both; tensors that are not remembered are computed again."""
    monkeypatch.setattr(edgefuse_export.onnx.int8_search, "MAX_KNOWN_BYTES", max_known_bytes)
    search = new(fusion="spatial", encoding="relative", rgb="mobilenet_v2", depth="mobilenet_v2", share_weights=True)
    for block in search.blocks[3:30:9]:
        same(search.alone(block), of_file(search, only=(block,)))


def test_what_comes_before_a_block_does_not_run(new: New) -> None:
    search = new(fusion="gated")
    sizes = {block: len(nodes) for block, (nodes, _) in search._changed_by.items()}
    depth = [block for block in search.blocks if block.startswith("depth_features")]
    assert sizes[depth[0]] > sizes[depth[-1]] > sizes[search.blocks[-1]]


def test_threads_observe_the_same(new: New, tmp_path: Path) -> None:
    search = new(fusion="gated")
    metadata = model_metadata(labels=LABELS, contract=CONTRACT, precision="int8", temperature=1.0)
    path = save_model(of_file(search), tmp_path / "m.onnx", metadata=metadata)
    rgb, depth = samples(8)
    observers = [OnnxActivationObserver(path) for _ in range(2)]
    for observer, num_threads in zip(observers, (1, 4), strict=True):
        pairs = [(rgb[i : i + 1], depth[i : i + 1]) for i in range(len(rgb))]
        assert len(list(map_in_threads(lambda pair, run=observer: run(*pair), pairs, num_threads=num_threads))) == 8
    assert observers[0].activations == observers[1].activations and observers[0].largest == observers[1].largest
    assert any("Dequantize" in name for name in observers[0].largest)
