"""NVIDIA's parser and builder (TensorRT-RTX) take every kind of file that the exporter writes, in the precision that it promises.

Every fusion with every family of backbones in every precision is parsed and built for SM75, SM86, SM89 and SM120; models with two
backbones have two families each. DeFM's networks are built with the encoding that they need, in `spatial` and `depth`. It proves nothing about outputs: there is no GPU here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rtx_network import SHAPES, built, parsed, wrong_precisions
from tiny_models import DEFM_FAMILY, FAMILIES, TinyFiles, write_files

from edgefuse.model.choices import FUSION_KINDS, SINGLE_MODALITIES
from edgefuse_export.tensorrt.rtx_targets import TargetError

STACKS = ("small", "resnet+vgg", "mobilenet_v2+mobilenet_v3")
"""Two families in one backbone: an export takes more than a second, most of it whatever the size of the model."""
PAIRS = (("resnet+vgg", "small"), ("small", "mobilenet_v2+mobilenet_v3"))
"""RGB and depth of the models with two backbones."""
MODELS = [
    *((fusion, rgb, depth) for fusion in FUSION_KINDS if fusion not in SINGLE_MODALITIES for rgb, depth in PAIRS),
    *((fusion, stack, stack) for fusion in SINGLE_MODALITIES for stack in STACKS),
    *((fusion, "small", DEFM_FAMILY) for fusion in ("spatial", "depth")),
]
AMPERE_AND_LATER = ("8.6", "8.9", "12.0")

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for Linux on x86-64")
Files = Callable[..., TinyFiles]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Writes the files of a model once."""
    registry: Any = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # torch makes this table of all operators for each file: a fifth of the time
        patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))

        @functools.cache
        def write(fusion: str, rgb: str, depth: str) -> TinyFiles:
            encoding = "relative" if rgb == "small" and fusion in ("spatial", "depth") else "absolute"
            encoding = "log" if depth == DEFM_FAMILY else encoding
            return write_files(tmp_path_factory.mktemp(fusion), fusion=fusion, rgb=rgb, depth=depth, encoding=encoding)

        yield write


def test_every_pair_of_fusion_and_family_is_built() -> None:
    pairs = {(fusion, family) for fusion, *stacks in MODELS for stack in stacks for family in stack.split("+")}
    assert pairs == {*itertools.product(FUSION_KINDS, FAMILIES), ("spatial", DEFM_FAMILY), ("depth", DEFM_FAMILY)}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("fusion", "rgb", "depth"), MODELS)
def test_it_is_built_in_its_precision(files: Files, fusion: str, rgb: str, depth: str, precision: str) -> None:
    found = files(fusion, rgb, depth)
    path = found.paths[precision]
    layers, inputs = parsed(path)
    assert inputs == {name: ("UINT8", shape) for name, shape in SHAPES.items()}
    assert not wrong_precisions(layers, precision=precision, fp32_modules=found.fp32_modules)
    assert {layer.kind for layer in layers if layer.dtype == "INT64"} <= {"CONSTANT"}  # no shape arithmetic
    targets = ("7.5", *AMPERE_AND_LATER) if precision == "fp16" else AMPERE_AND_LATER
    plan = built(path, precision=precision, targets=targets)  # refuses a plan over the cap
    kinds = {"fp32": "float", "fp16": "half", "int8": "float"}
    assert plan.parsed[kinds[precision]]["convolution"] == sum(
        layer.kind == "CONVOLUTION" and layer.dtype == kinds[precision].upper() for layer in layers
    )
    if precision != "fp16":  # NVIDIA's support matrix, note 1
        with pytest.raises(TargetError, match="no FP32 matrix multiplication on Turing"):
            built(path, precision=precision, targets=("7.5",))
