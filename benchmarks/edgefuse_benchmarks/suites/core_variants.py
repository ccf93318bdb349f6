"""The fusion core in the forms that the core benchmark times: torch eager and ONNX Runtime.

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
class Subject:
    """One implementation of a core over a fixed list of feature pairs.

    Attributes:
        run: computes the answer for pair i and leaves it where it is; this is timed.
        answer: probabilities float32 [1, C] and gate float32 [1, d] for pair i; this is compared.
        wait: waits until `run` is done; None where it returns only then.
    """

    name: str
    run: Callable[[int], object]
    answer: Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32]]]
    wait: Callable[[], object] | None = None


def feature_pairs(width: int, *, num_pairs: int, seed: int) -> list[FeaturePair]:
    """Features as the model's projections give them, after a ReLU: never negative, about half of them zero."""
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.standard_normal((num_pairs, 2, 1, width)), 0).astype(np.float32)
    return [(pair[0], pair[1]) for pair in values]


def build_core(kind: FusionKind, *, width: int, num_hidden: int, num_classes: int, seed: int) -> FusionCore:
    """A core with random weights, in eval mode; torch's own random state stays as it was."""
    import torch

    from edgefuse.model.fusion import FusionCore

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FusionCore(kind=kind, num_features=width, num_hidden=num_hidden, num_classes=num_classes).eval()


def weights_bytes(core: FusionCore) -> int:
    """Size of all weights in bytes."""
    return sum(weight.numel() * weight.element_size() for weight in core.parameters())


def torch_subject(core: FusionCore, pairs: Sequence[FeaturePair], *, name: str, device: str = "cpu") -> Subject:
    """The core in torch eager; features and answers stay on `device`, because a copy is no part of the core."""
    import torch

    placed = copy.deepcopy(core).to(device)
    inputs = [(torch.from_numpy(F_A).to(device), torch.from_numpy(F_B).to(device)) for F_A, F_B in pairs]

    @torch.inference_mode()
    def run(i: int) -> tuple[Tensor, Tensor]:
        logits, gate = placed(*inputs[i])
        return torch.softmax(logits, dim=1), gate

    def answer(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = run(i)
        return probabilities.cpu().numpy(), gate.cpu().numpy()

    return Subject(name=name, run=run, answer=answer, wait=torch.cuda.synchronize if device == "cuda" else None)


def onnxruntime_subject(onnx_bytes: bytes, pairs: Sequence[FeaturePair], *, name: str, num_threads: int) -> Subject:
    """The core in ONNX Runtime on the CPU, set up as the runtime's engine is: threads do not spin between calls."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    inputs = [{RGB_FEATURES: F_A, DEPTH_FEATURES: F_B} for F_A, F_B in pairs]
    outputs = [PROBABILITIES_OUTPUT, GATE_OUTPUT]

    def answer(i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probabilities, gate = session.run(outputs, inputs[i])
        return probabilities, gate

    return Subject(name=name, run=answer, answer=answer)


def onnx_from_core(core: FusionCore, *, width: int) -> bytes:
    """A core as an ONNX model with its softmax, exported as the whole model is (edgefuse_export.onnx.torch_to_onnx)."""
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
    proto = proto_from_module(OnnxCore().eval(), example, input_names=(RGB_FEATURES, DEPTH_FEATURES))
    onnx_bytes: bytes = proto.SerializeToString()
    return onnx_bytes
