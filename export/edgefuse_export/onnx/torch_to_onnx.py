"""From the torch model to an ONNX file with the contract's inputs and outputs. Owns the wrapper, the exporter's
settings, the file's metadata, and what every file must pass before it is written."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.bundle import model_metadata
from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract
from edgefuse.errors import UserError, require
from edgefuse.io.environment import versions
from edgefuse.io.files import file_replaced
from edgefuse.model.classifier import FusionClassifier
from edgefuse_export.onnx.check_precision import check_types
from edgefuse_export.tensorrt.lint import refuse_unready

OPSET = 18
"""What torch's exporter writes without converting, and old enough for every definition to be known to JetPack 6's TensorRT:
opset 20 redefines ReduceMin, for one, and the last parser list before TensorRT 10.3 ends at 19."""
BATCH_SIZE = 1
EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")


class OnnxClassifier(nn.Module):
    """What is exported: the model with its temperature, its softmax in FP32 and the outputs that the contract names.

    Args:
        constant_gate: the fusion has no gate and reports a constant. The graph then adds zero times a probability to it, so
            that a node makes the output from the inputs: TensorRT may refuse an output that is an initializer.
    """

    def __init__(self, model: FusionClassifier, *, constant_gate: bool = False) -> None:
        super().__init__()
        self.model = model
        self.constant_gate = constant_gate

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, S, S, 3] and [N, S, S, 2] -> probabilities float32 [N, C], gate float32 [N, d]."""
        logits, gate = self.model(rgb, depth)
        probabilities = self.model.probabilities(logits)
        if self.constant_gate:
            return probabilities, gate.float() + 0.0 * probabilities[:, :1]
        return probabilities, gate.float()


def onnx_from_model(
    model: FusionClassifier,
    path: Path,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    batch_size: int = BATCH_SIZE,
    fp32_modules: Sequence[str] | None = None,
) -> Path:
    """Write an ONNX file in the precision of the model, atomically.

    Args:
        model: in eval mode, on the CPU.
        batch_size: N, fixed in the file: static shapes are what TensorRT runs fastest.
        fp32_modules: for a model in half, the modules that are not: every tensor's type is then checked.

    Returns:
        `path`; the file holds its weights, the labels and the contract (metadata keys "edgefuse.*").

    Raises:
        UserError: a tensor of the wrong type.
        NotReadyError: TensorRT would refuse the file.
    """
    side = contract.size
    example = (
        torch.zeros(batch_size, side, side, 3, dtype=torch.uint8),
        torch.zeros(batch_size, side, side, 2, dtype=torch.uint8),
    )
    wrapper = OnnxClassifier(model, constant_gate=_gate_is_constant(model, example)).eval()
    proto = proto_from_module(wrapper, example, input_names=(RGB_INPUT, DEPTH_INPUT))
    if fp32_modules is not None:
        check_types(proto, fp32_modules=fp32_modules)
    metadata = model_metadata(
        labels=labels,
        contract=contract,
        precision="fp32" if fp32_modules is None else "fp16",
        temperature=model.temperature,
    )
    return save_model(proto, path, metadata=metadata)


def save_model(proto: Any, path: Path, *, metadata: Mapping[str, str]) -> Path:
    """Write an `onnx.ModelProto` atomically, once ONNX's checker and TensorRT's list have passed it.

    Args:
        metadata: what it says about itself; see `edgefuse.bundle.model_metadata`.

    Raises:
        NotReadyError: TensorRT would refuse the file.
    """
    onnx = require("onnx", extra="export")
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    refuse_unready(proto, what=path.name)
    with file_replaced(path) as temporary:
        onnx.save(proto, str(temporary))
    return path


def _gate_is_constant(model: FusionClassifier, example: tuple[Tensor, ...]) -> bool:
    """Does the gate depend on nothing that was learned? Then no gradient reaches the model from it."""
    with torch.enable_grad():
        _, gate = model(*example)
    return not gate.requires_grad


def proto_from_module(module: nn.Module, example: tuple[Tensor, ...], *, input_names: Sequence[str]) -> Any:
    """Export a module that gives probabilities and gate; the `onnx.ModelProto` holds its weights.

    Args:
        example: inputs of the shapes that the file will have.

    Raises:
        UserError: torch's exporter and the packages that it needs do not fit together.
    """
    require("onnxscript", extra="export")
    try:
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
    except (ImportError, AttributeError, torch.onnx.errors.OnnxExporterError) as error:
        used = ", ".join(f"{name} {version}" for name, version in versions(EXPORTERS).items() if name != "python")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the ONNX exporter of this torch does not work with the packages that are installed ({used}): {reason}. Install "
            "versions that belong together: pip install --upgrade 'edgefuse[export]'; --debug shows where it failed"
        ) from error
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
