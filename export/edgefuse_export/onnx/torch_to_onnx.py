"""Exports the PyTorch model to an ONNX file with the inputs and outputs of the contract.

Owns the wrapper module, the settings of the exporter, the metadata, and the checks that every file must pass.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgefuse.bundle import DYNAMIC_BATCH, model_metadata
from edgefuse.contract import DEPTH_INPUT, OUTPUTS, RGB_INPUT, InputContract
from edgefuse.errors import UserError, require
from edgefuse.io.environment import versions
from edgefuse.io.files import file_replaced
from edgefuse.model.classifier import FusionClassifier
from edgefuse_export.onnx.check_precision import check_types
from edgefuse_export.onnx.simplify import simplify
from edgefuse_export.tensorrt.lint import check_model, refuse_unready

STACK_TRACE = "pkg.torch.onnx.stack_trace"
"""Where torch's exporter stores the source lines of a node."""
OPSET = 18
"""Written by torch's exporter without conversion, and old enough for the TensorRT of JetPack 6: opset 20 redefines ReduceMin, for
example, and the last parser list before TensorRT 10.3 ends at 19."""
MAX_BATCH = 1024
Batch = int | Literal["dynamic"]
EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")


class OnnxClassifier(nn.Module):
    """The exported module: the model with its temperature, its softmax in FP32 and the outputs of the contract.

    Args:
        constant_gate: see `gate_output`.
    """

    def __init__(self, model: FusionClassifier, *, constant_gate: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.constant_gate = constant_gate

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [N, S, S, 3] and [N, S, S, 2] -> float32: probabilities [N, C], gate [N, d], nearest_m [N, 1]."""
        logits, gate, nearest_m = self.model(rgb, depth)
        probabilities = self.model.probabilities(logits)
        return probabilities, gate_output(gate, probabilities, self.constant_gate), nearest_m


def gate_output(gate: Tensor, probabilities: Tensor, constant_gate: Tensor | None) -> Tensor:
    """The output `gate` of a graph, float32 [N, d].

    Args:
        constant_gate: float32 [1, d], for a fusion without a gate, which outputs a constant. The graph then adds zero times the
            probabilities to it, so that the output depends on the inputs: TensorRT may refuse an output that is an initializer.
    """
    if constant_gate is None:
        return gate.float()
    return constant_gate + 0.0 * probabilities.sum(1, keepdim=True)


def onnx_from_model(
    model: FusionClassifier,
    path: Path,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    batch: Batch = 1,
    fp32_modules: Sequence[str] | None = None,
) -> Path:
    """Write an ONNX file in the precision of the model, atomically.

    Args:
        model: in eval mode, on the CPU.
        batch: N, fixed in the file, which TensorRT runs fastest; "dynamic" makes the axis dynamic, with the name "N".
        fp32_modules: for a model in FP16, the modules in FP32; the type of every tensor is then checked.

    Returns:
        `path`; the file contains the weights, the labels and the contract (metadata keys "edgefuse.*").

    Raises:
        UserError: a tensor has the wrong type.
        NotReadyError: TensorRT does not support the file.
    """
    if batch != DYNAMIC_BATCH and not (type(batch) is int and 1 <= batch <= MAX_BATCH):
        raise UserError(f"the batch is {batch!r}: 1 to {MAX_BATCH} or {DYNAMIC_BATCH!r} was expected")
    # torch.export treats an axis of size 1 as static.
    side, num_pairs = contract.size, 2 if isinstance(batch, str) else batch
    example = tuple(torch.zeros(num_pairs, side, side, channels, dtype=torch.uint8) for channels in (3, 2))
    wrapper = OnnxClassifier(model, constant_gate=constant_gate(model, example)).eval()
    inputs = (RGB_INPUT, DEPTH_INPUT)
    dynamic = batch == DYNAMIC_BATCH
    proto = proto_from_module(wrapper, example, input_names=inputs, output_names=OUTPUTS, dynamic_batch=dynamic)
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
    """Write an `onnx.ModelProto` atomically, after ONNX's checker and the check for TensorRT.

    Args:
        metadata: stored in the file; see `edgefuse.bundle.model_metadata`.

    Raises:
        NotReadyError: TensorRT does not support the file.
    """
    onnx = require("onnx", extra="export")
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto, full_check=True)
    refuse_unready(check_model(proto), what=path.name)
    with file_replaced(path) as temporary:
        onnx.save(proto, str(temporary))
    return path


def constant_gate(model: FusionClassifier, example: tuple[Tensor, ...]) -> Tensor | None:
    """The gate, float32 [1, d], of a fusion without parameters, which has no gate; else None."""
    fusion = model.core.fusion
    if fusion is None or any(True for _ in fusion.parameters()):
        return None
    with torch.no_grad():
        _, gate, _ = model(*example)
    return gate[:1].float()  # type: ignore[no-any-return]


def proto_from_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_batch: bool = False,
) -> Any:
    """Export a module to an `onnx.ModelProto` that contains its weights.

    Args:
        example: inputs with the shapes of the file.
        dynamic_batch: make the first axis of every input and output dynamic, as "N"; the example needs a batch of 2 or more.

    Raises:
        UserError: torch's exporter and the packages that it needs are incompatible.
    """
    require("onnxscript", extra="export")
    try:
        with _exporter_quiet():
            program = torch.onnx.export(
                module,
                example,
                input_names=list(input_names),
                output_names=list(output_names),
                opset_version=OPSET,
                dynamic_shapes=tuple({0: torch.export.Dim("N")} for _ in example) if dynamic_batch else None,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (ImportError, AttributeError, torch.onnx.errors.OnnxExporterError) as error:
        used = ", ".join(f"{name} {version}" for name, version in versions(EXPORTERS).items() if name != "python")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"torch's ONNX exporter does not work with the installed packages ({used}): {reason}. Install compatible "
            "versions: pip install --upgrade 'edgefuse[export]'; --debug shows the traceback"
        ) from error
    assert program is not None
    proto = program.model_proto
    simplify(proto)
    for node in proto.graph.node:  # it has paths of this machine
        kept = [entry for entry in node.metadata_props if entry.key != STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return proto


@contextmanager
def _exporter_quiet() -> Iterator[None]:
    """Hide the exporter's warnings and log messages about its internals; errors are still raised."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
