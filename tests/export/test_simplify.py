"""What the exported graphs consist of: no operator that a reader could remove, and no shape arithmetic in NVIDIA's parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_runs import CONTRACT, LABELS, new_model, tensors
from torch import Tensor, nn

from edgefuse.model.classifier import FusionClassifier
from edgefuse_export.onnx.check_precision import module_of
from edgefuse_export.onnx.fp16 import fp16_from_model
from edgefuse_export.onnx.simplify import simplify
from edgefuse_export.onnx.torch_to_onnx import Batch, onnx_from_model, proto_from_module
from edgefuse_export.ort_reference import reference_session
from edgefuse_runtime.engines.openvino import config_of, openvino_core

MODELS: dict[str, dict[str, Any]] = {
    "gated": {"fusion": "gated", "encoding": "relative"},
    "naive": {"fusion": "naive"},
    "log": {"fusion": "depth", "encoding": "log"},
    "spatial, gate of features": {"fusion": "spatial", "encoding": "relative", "auxiliary_heads": True},
    "spatial": {
        "fusion": "spatial",
        "encoding": "relative",
        "auxiliary_heads": True,
        "frame_gate": True,
        "temperature_no_rgb": 3.0,
    },
}
POOLING = {
    "gated": {"encode": 2},
    "spatial, gate of features": {"encode": 2, "spatial_gate": 2},
    "spatial": {"encode": 2, "spatial_gate": 2, "frame_gate.statistics": 8},
}
"""Transpositions, by module: two for each window of `edgefuse.model.pooling`, which is pooled along the rows, then along the columns."""
NEVER = ("Gather", "Shape", "Expand", "Squeeze", "Identity", "Range", "ConstantOfShape", "ScatterND", "Tile", "Size")
MOST_INT64 = {1: 1, "dynamic": 220}
"""Layers in INT64 of any of the models. With a fixed batch: the axes of an Unsqueeze. With a dynamic one, the parser computes the shapes of
slices and splits; `edgefuse build` fixes the batch."""


def built(name: str) -> FusionClassifier:
    more = dict(MODELS[name])
    return new_model(more.pop("fusion"), num_features=16, num_hidden=16, **more)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Batch], Path]:
    """Writes a model in FP32 once."""
    folder, paths = tmp_path_factory.mktemp("graphs"), dict[tuple[str, Batch], Path]()

    def write(name: str, batch: Batch) -> Path:
        if (name, batch) not in paths:
            path = folder / f"{name}-{batch}.onnx"
            paths[name, batch] = onnx_from_model(built(name), path, contract=CONTRACT, labels=LABELS, batch=batch)
        return paths[name, batch]

    return write


@pytest.mark.parametrize("batch", [1, "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_no_operator_could_be_removed(exported: Callable[[str, Batch], Path], name: str, batch: Batch) -> None:
    nodes = onnx.load(str(exported(name, batch))).graph.node
    counts = Counter(node.op_type for node in nodes)
    assert {kind: counts[kind] for kind in NEVER if counts[kind]} == {}
    images = 1 + (built(name).rgb_features is not None)
    # The bytes of each image to float, because TensorRT accepts UINT8 nowhere else, and from NHWC to NCHW.
    assert counts["Cast"] == images
    transposed = Counter(module_of(node) for node in nodes if node.op_type == "Transpose")
    assert transposed == {"decode": images, **POOLING.get(name, {})}
    assert all(module_of(node) is not None for node in nodes)


@pytest.mark.parametrize("batch", [1, "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_nvidias_parser_adds_no_shape_arithmetic(
    exported: Callable[[str, Batch], Path], name: str, batch: Batch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for Linux on x86-64")
    from rtx_network import parsed

    layers, _ = parsed(exported(name, batch))
    counts = Counter(layer.kind for layer in layers if layer.dtype in ("INT64", "INT32"))
    assert counts.total() <= MOST_INT64[batch], counts
    assert batch != 1 or set(counts) <= {"CONSTANT"}


@pytest.mark.parametrize("name", ["gated", "spatial"])
def test_an_fp16_file_has_casts_where_the_precision_changes_only(name: str, tmp_path: Path) -> None:
    model, (rgb, depth) = built(name), tensors(2)
    fp16 = fp16_from_model(model, rgb_NHWC=rgb, depth_NHW2=depth)
    path = onnx_from_model(
        fp16.model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS, fp32_modules=fp16.fp32_modules
    )
    casts = Counter(module_of(node) for node in onnx.load(str(path)).graph.node if node.op_type == "Cast")
    # The bytes of both images, the inputs of both backbones, and behind the layers in FP16 the logits of both heads, or logits and gate.
    last = {"core.weighted_sum": 2} if name == "spatial" else {"": 2}
    assert casts == {"decode": 2, "rgb_features": 1, "depth_features": 1, **last}


class _SplitsAgain(nn.Module):
    """A concatenation of channels that is read both as one tensor and in parts, as decoded depth is."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a, b], dim=1)
        first, second = both.split(self.sizes, dim=1)
        return both.mean((2, 3)).sum(1) + first[..., 1:].sum((1, 2, 3)) + (2 * second[..., :-1]).sum((1, 2, 3))


@pytest.mark.parametrize(("sizes", "num_splits"), [((1, 2), 0), ((2, 1), 1)])
def test_the_parts_of_a_concatenation_are_read_directly(sizes: tuple[int, int], num_splits: int) -> None:
    example = (torch.rand(2, 1, 4, 4), torch.rand(2, 2, 4, 4))
    module = _SplitsAgain(*sizes)
    proto = proto_from_module(module, example, input_names=["a", "b"], output_names=["y"])
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["Split"] == num_splits and kinds["Concat"] == 1 and kinds["Slice"] == 2
    onnx.checker.check_model(proto, full_check=True)
    (found,) = reference_session(proto.SerializeToString()).run(
        None, {"a": example[0].numpy(), "b": example[1].numpy()}
    )
    np.testing.assert_allclose(found, module(*example).numpy(), rtol=1e-6)


def test_slices_keep_their_values_in_int32() -> None:
    """Also without steps, with a negative end, and with the largest INT64 as the end."""
    text = """
    <ir_version: 9, opset_import: ["": 18]>
    slices (float[2, 8, 8] x, int64[1] start) => (float[2, m, 4] y, float[n, 8, 8] z)
    <int64[2] from = {1, 2}, int64[2] to = {9223372036854775807, -2}, int64[2] axes = {1, -1}, int64[1] end = {2}, int64[1] axis = {0}> {
        y = Slice (x, from, to, axes)
        z = Slice (x, start, end, axis)
    }"""
    proto = onnx.parser.parse_model(text)
    x = np.random.default_rng(0).random((2, 8, 8), np.float32)
    simplify(proto)
    types = {one.name: one.data_type for one in proto.graph.initializer}
    first, second = proto.graph.node
    assert [types[name] for name in first.input[1:]] == 4 * [onnx.TensorProto.INT32]
    assert list(second.input) == ["x", "start", "end", "axis"]  # its start is computed
    y, z = reference_session(proto.SerializeToString()).run(None, {"x": x, "start": np.array([1])})
    np.testing.assert_array_equal(y, x[:, 1:, 2:-2])
    np.testing.assert_array_equal(z, x[1:2])


def test_equal_layers_share_weights_but_no_bias() -> None:
    """OpenVINO adds a bias that two layers read in a pass of its own. Here it fuses both, and the weights are stored once."""
    first, second = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)
    second.load_state_dict(first.state_dict())

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.relu(self.first(a)) + torch.relu(self.second(b)).mean()

    example = (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
    proto = proto_from_module(Both().eval(), example, input_names=["a", "b"], output_names=["y"])
    weights, biases = zip(*(node.input[1:] for node in proto.graph.node if node.op_type == "Conv"), strict=True)
    assert len(set(weights)) == 1 and len(set(biases)) == 2
    pytest.importorskip("openvino")
    core = openvino_core()
    compiled = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", config_of("fp32", num_threads=1))
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = [one["originalLayersNames"].astype(str) for one in infos if one["layerType"].astype(str) == "Convolution"]
    assert len(layers) == 2 and all("relu" in names for names in layers)
