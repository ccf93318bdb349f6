"""The implementations of the fusion core that the core benchmark times: PyTorch eager and ONNX Runtime.

F_A, F_B  float32 [1, d]  ->  probabilities float32 [1, C], gate float32 [1, d]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import GATE_OUTPUT, PROBABILITIES_OUTPUT
from edgefuse.model.choices import FusionKind

if TYPE_CHECKING:
    from torch import Tensor

    from edgefuse.model.fusion import FusionCore

FeaturePair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""F_A and F_B, float32 [1, d] each."""

RGB_FEATURES, DEPTH_FEATURES = "rgb_features", "depth_features"


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One implementation of a core, for a fixed list of feature pairs.

    Attributes:
        run: computes pair i without copying the outputs to the host; this is timed.
        outputs: probabilities float32 [1, C] and gate float32 [1, d] for pair i; this is compared.
        wait: waits until `run` is done; None if `run` is synchronous.
    """

    name: str
    run: Callable[[int], object]
    outputs: Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32]]]
    wait: Callable[[], object] | None = None


def feature_pairs(width: int, *, num_pairs: int, seed: int) -> list[FeaturePair]:
    """Random features like those of the model's projections after a ReLU: never negative, about half of them zero."""
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.standard_normal((num_pairs, 2, 1, width)), 0).astype(np.float32)
    return [(pair[0], pair[1]) for pair in values]


def build_core(kind: FusionKind, *, width: int, num_hidden: int, num_classes: int, seed: int) -> FusionCore:
    """A core with random weights, in eval mode; the random state of torch is unchanged."""
    import torch

    from edgefuse.model.fusion import FusionCore

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FusionCore(kind=kind, num_features=width, num_hidden=num_hidden, num_classes=num_classes).eval()


def weights_bytes(core: FusionCore) -> int:
    """Size of all weights in bytes."""
    return sum(weight.numel() * weight.element_size() for weight in core.parameters())


def in_torch(core: FusionCore, pairs: Sequence[FeaturePair], *, name: str, device: str = "cpu") -> Implementation:
    """The core in PyTorch eager; features and outputs stay on `device`, because copies are not part of the core."""
    import torch

    placed = copy.deepcopy(core).to(device)
    inputs = [(torch.from_numpy(F_A).to(device), torch.from_numpy(F_B).to(device)) for F_A, F_B in pairs]

    @torch.inference_mode()
    def run(i: int) -> tuple[Tensor, Tensor]:
        logits, gate = placed(*inputs[i])
        return torch.softmax(logits, dim=1), gate

    def outputs(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = run(i)
        return probabilities.cpu().numpy(), gate.cpu().numpy()

    wait = torch.cuda.synchronize if device == "cuda" else None
    return Implementation(name=name, run=run, outputs=outputs, wait=wait)


def in_onnxruntime(onnx_bytes: bytes, pairs: Sequence[FeaturePair], *, name: str, num_threads: int) -> Implementation:
    """The core in ONNX Runtime on the CPU, with the settings of the runtime's engine: threads do not spin between calls."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    inputs = [{RGB_FEATURES: F_A, DEPTH_FEATURES: F_B} for F_A, F_B in pairs]
    names = [PROBABILITIES_OUTPUT, GATE_OUTPUT]

    def outputs(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = session.run(names, inputs[i])
        return probabilities, gate

    return Implementation(name=name, run=outputs, outputs=outputs)


def onnx_from_core(core: FusionCore, *, width: int) -> bytes:
    """A core with its softmax as an ONNX model, exported like a complete model (edgefuse_export.onnx.torch_to_onnx)."""
    import torch
    from torch import nn

    from edgefuse_export.onnx.torch_to_onnx import proto_from_module

    class OnnxCore(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
            logits, gate = self.core(F_A, F_B)
            return torch.softmax(logits, dim=1), gate

    example = (torch.zeros(1, width), torch.zeros(1, width))
    outputs = (PROBABILITIES_OUTPUT, GATE_OUTPUT)
    inputs = (RGB_FEATURES, DEPTH_FEATURES)
    proto = proto_from_module(OnnxCore().eval(), example, input_names=inputs, output_names=outputs)
    onnx_bytes: bytes = proto.SerializeToString()
    return onnx_bytes
