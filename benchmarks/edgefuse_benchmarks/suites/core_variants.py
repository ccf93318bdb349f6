"""The implementations of the fusion core on a CPU that the core benchmark times: PyTorch eager, ONNX Runtime, and OpenVINO if installed.

F_A, F_B  float32 [N, d], and for `spatial` a frame gate [N, 1]  ->  probabilities float32 [N, C], gate float32 [N, d or 1]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import GATE_OUTPUT, PROBABILITIES_OUTPUT
from edgefuse.errors import UserError
from edgefuse.model.choices import FusionKind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgefuse.model.fusion import FusionCore

Features = tuple[NDArray[np.float32], ...]
"""The inputs of a core: F_A and F_B, float32 [N, d] each; for `spatial` also the frame gate, [N, 1]."""

INPUTS = ("rgb_features", "depth_features", "frame_gate")


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One implementation of a core, for a fixed list of inputs.

    Attributes:
        run: computes input i without copying the outputs to the host; this is timed.
        outputs: probabilities float32 [N, C] and gate float32 for input i; this is compared.
    """

    name: str
    run: Callable[[int], object]
    outputs: Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32]]]


def features(kind: FusionKind, *, width: int, batch: int = 1, count: int, seed: int) -> list[Features]:
    """Random inputs, features like those of the model's projections after a ReLU: never negative, about half of them zero."""
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.standard_normal((count, 2, batch, width)), 0).astype(np.float32)
    frame_gates = rng.uniform(size=(count, batch, 1)).astype(np.float32)
    gated_by_frame = kind == "spatial"
    return [(*pair, gate) if gated_by_frame else tuple(pair) for pair, gate in zip(values, frame_gates, strict=True)]


def build_core(kind: FusionKind, *, width: int, num_hidden: int, num_classes: int, seed: int) -> FusionCore:
    """A core with random weights, in eval mode; `spatial` with a frame gate, its default. The random state of torch is unchanged."""
    import torch

    from edgefuse.model.fusion import FusionCore

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FusionCore(
            kind=kind,
            num_features=width,
            num_hidden=num_hidden,
            num_classes=num_classes,
            auxiliary_heads=kind == "spatial",
            frame_gate=kind == "spatial",
        ).eval()


def with_softmax(core: FusionCore) -> nn.Module:
    """The core as a module that returns probabilities and gate."""
    import torch
    from torch import nn

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, F_A: Tensor, F_B: Tensor, frame_gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
            logits, gate = self.core(F_A, F_B, frame_gate)
            return torch.softmax(logits, dim=1), gate

    return Answer().eval()


def weights_bytes(core: FusionCore) -> int:
    """Size of all weights in bytes."""
    return sum(weight.numel() * weight.element_size() for weight in core.parameters())


def in_torch(
    core: FusionCore, inputs: Sequence[Features], *, name: str, precision: Literal["float32", "float64"] = "float32"
) -> Implementation:
    """The core in PyTorch eager on the CPU; in float64, what the others are compared with."""
    import torch

    dtype = getattr(torch, precision)
    placed = with_softmax(copy.deepcopy(core).to(dtype))
    tensors = [tuple(torch.from_numpy(one).to(dtype) for one in values) for values in inputs]

    @torch.inference_mode()
    def run(i: int) -> tuple[Tensor, Tensor]:
        probabilities, gate = placed(*tensors[i])
        return probabilities, gate

    def outputs(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = run(i)
        return probabilities.numpy(), gate.numpy()

    return Implementation(name=name, run=run, outputs=outputs)


def in_onnxruntime(
    onnx_bytes: bytes,
    inputs: Sequence[Features],
    *,
    name: str,
    num_threads: int,
    provider: str = "CPUExecutionProvider",
) -> Implementation:
    """The core in ONNX Runtime, with the settings of the runtime's engine: threads do not spin between calls.

    On CUDA a call includes the copies of its inputs and outputs, which are a few kilobytes.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx_bytes, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise UserError(f"ONNX Runtime does not load {provider}")
    feeds = [dict(zip(INPUTS, values, strict=False)) for values in inputs]
    names = [PROBABILITIES_OUTPUT, GATE_OUTPUT]

    def outputs(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = session.run(names, feeds[i])
        return probabilities, gate

    return Implementation(name=name, run=outputs, outputs=outputs)


def in_openvino(onnx_bytes: bytes, inputs: Sequence[Features], *, name: str, num_threads: int) -> Implementation:
    """The core in OpenVINO on the CPU, in FP32."""
    from edgefuse_runtime.engines.openvino import openvino_core

    settings = {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino_core()
    request = core.compile_model(core.read_model(onnx_bytes), "CPU", settings).create_infer_request()

    def outputs(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = request.infer(inputs[i])
        return found[0], found[1]

    return Implementation(name=name, run=outputs, outputs=outputs)


def onnx_from_core(core: FusionCore, inputs: Features) -> bytes:
    """A core with its softmax as an ONNX model for inputs of these shapes, exported like a complete model."""
    import torch

    from edgefuse_export.onnx.torch_to_onnx import proto_from_module

    example = tuple(torch.zeros(one.shape) for one in inputs)
    outputs = (PROBABILITIES_OUTPUT, GATE_OUTPUT)
    proto = proto_from_module(with_softmax(core), example, input_names=INPUTS[: len(example)], output_names=outputs)
    onnx_bytes: bytes = proto.SerializeToString()
    return onnx_bytes


def differences(
    reference: Implementation, candidate: Implementation, *, count: int, tolerance: float, **facts: Any
) -> dict[str, Any]:
    """The largest differences in probability and gate over all inputs, with `facts` about the core."""
    pairs = [(candidate.outputs(i), reference.outputs(i)) for i in range(count)]
    off = [float(np.max([np.abs(found[k] - wanted[k]).max() for found, wanted in pairs])) for k in (0, 1)]
    return {
        **facts,
        "reference": reference.name,
        "candidate": candidate.name,
        "num_samples": count,
        "max_probability_difference": off[0],
        "max_gate_difference": off[1],
        "tolerance": tolerance,
    }


def problems(found: Mapping[str, Any]) -> list[str]:
    """The difference as text if it is larger than its tolerance, or NaN."""
    off = found["max_probability_difference"], found["max_gate_difference"]
    if all(one <= found["tolerance"] for one in off):  # False for a NaN
        return []
    return [
        f"d={found['d']}: {found['candidate']} differs from {found['reference']} by {off[0]:.3g} in probability and {off[1]:.3g} in the "
        f"gate, at most {found['tolerance']:g} is allowed"
    ]
