"""From the torch model to an ONNX file with the contract's inputs and outputs. Owns the wrapper, the exporter's
settings and the file's metadata."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse import framing
from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract
from edgefuse.errors import require
from edgefuse.files import file_replaced
from edgefuse.model.classifier import FusionClassifier

OPSET = 20
BATCH_SIZE = 1


class OnnxClassifier(nn.Module):
    """What is exported: the model with its temperature, its softmax in FP32 and the outputs that the contract names."""

    def __init__(self, model: FusionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, S, S, 3] and [N, S, S, 2] -> probabilities float32 [N, C], gate float32 [N, d]."""
        logits, gate = self.model(rgb, depth)
        return self.model.probabilities(logits), gate.float()


def onnx_from_model(
    model: FusionClassifier,
    path: Path,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    batch_size: int = BATCH_SIZE,
) -> Path:
    """Write an FP32 ONNX file, atomically.

    Args:
        model: in eval mode, on the CPU.
        batch_size: N, fixed in the file: static shapes are what TensorRT runs fastest.

    Returns:
        `path`; the file holds its weights, the labels and the contract (metadata keys "edgefuse.*").
    """
    onnx = require("onnx", extra="export")
    side = contract.size
    example = (
        torch.zeros(batch_size, side, side, 3, dtype=torch.uint8),
        torch.zeros(batch_size, side, side, 2, dtype=torch.uint8),
    )
    proto = proto_from_module(OnnxClassifier(model).eval(), example, input_names=(RGB_INPUT, DEPTH_INPUT))
    for key, value in metadata(contract=contract, labels=labels).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    with file_replaced(path) as temporary:
        onnx.save(proto, str(temporary))
    return path


def proto_from_module(module: nn.Module, example: tuple[Tensor, ...], *, input_names: Sequence[str]) -> Any:
    """Export a module that gives probabilities and gate; the `onnx.ModelProto` holds its weights.

    Args:
        example: inputs of the shapes that the file will have.
    """
    require("onnxscript", extra="export")
    with _exporter_quiet():
        program = torch.onnx.export(
            module,
            example,
            input_names=list(input_names),
            output_names=[PROBABILITIES_OUTPUT, GATE_OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _exporter_quiet() -> Iterator[None]:
    """The exporter warns and logs about its own internals; its errors still come through."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def metadata(*, contract: InputContract, labels: tuple[str, ...]) -> dict[str, str]:
    """What the ONNX file says about itself, so that it can be read without its bundle."""
    return {
        "edgefuse.labels": json.dumps(list(labels)),
        "edgefuse.contract": json.dumps(contract.to_json()),
        "edgefuse.framing": json.dumps({**framing.SPEC, "sha256": framing.spec_sha256()}),
    }
