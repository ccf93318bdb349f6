"""Which tensor of an exported graph is in which precision. Owns the proof that FP32 is where it was asked for and nowhere else.

The exporter writes into each node which module it comes from; with strong typing TensorRT takes the graph's types as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from edgefuse.errors import UserError, require

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
MODEL_PREFIX = "model"
"""What the exported wrapper calls the classifier: `model.decode` in the file is `decode` in the classifier."""


def module_of(node: Any) -> str | None:
    """The classifier's module that a node comes from; "" = its own `forward`, None = the exporter did not say."""
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            scopes = _strings(entry.value)[:-1]  # the last is the operation itself
            last = scopes[-1] if scopes else ""
            return last.removeprefix(MODEL_PREFIX).removeprefix(".")
    return None


def inside(name: str, modules: Iterable[str]) -> bool:
    """Is the module `name` one of `modules`, or a part of one?"""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def check_types(model: Any, *, fp32_modules: Sequence[str]) -> dict[str, int]:
    """Prove the type of every floating-point tensor of a half-precision `onnx.ModelProto`, weights and constants included.

    In an FP32 module all is FLOAT; in any other all is FLOAT16. Between its parts, a module that has FP32 parts itself
    (the classifier: decoding before, softmax after) may hold either. Softmax and the graph's outputs are FLOAT.

    Returns:
        Type name -> number of tensors; a constant counts with each node that takes it.

    Raises:
        UserError: a tensor of another type, or of none that can be told; each is named with its module.
    """
    onnx = require("onnx", extra="export")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    names = onnx.TensorProto.DataType.Name
    graph = inferred.graph
    types = {v.name: names(v.type.tensor_type.elem_type) for v in (*graph.value_info, *graph.input, *graph.output)}
    mixed = {""} | {name.rpartition(".")[0] for name in fp32_modules}
    wrong = [
        f"output {v.name} is {types[v.name]}, FLOAT was expected" for v in graph.output if types[v.name] != "FLOAT"
    ]
    constants = {one.name: names(one.data_type) for one in graph.initializer}
    types |= constants
    counts: Counter[str] = Counter()
    for node in graph.node:
        module = module_of(node)
        for tensor in (*node.output, *(name for name in node.input if name in constants)):
            found = types.get(tensor, "UNDEFINED")
            counts[found] += 1
            allowed = _allowed(node.op_type, module, fp32_modules=fp32_modules, mixed=mixed)
            if found == "UNDEFINED" or (
                found in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16") and found not in allowed.split(" or ")
            ):
                wrong.append(
                    f"{tensor} ({node.op_type} in {module or 'the classifier itself'}) is {found}, {allowed} was expected"
                )
    if wrong:
        raise UserError(
            "the FP16 graph has tensors of the wrong type:\n  "
            + "\n  ".join(wrong[:20])
            + "\nA module that computes in FP32 must say so: name it in the model's `fp32_modules`, or with --keep-fp32"
        )
    return dict(counts)


def _allowed(operator: str, module: str | None, *, fp32_modules: Sequence[str], mixed: set[str]) -> str:
    if operator == "Softmax" or (module is not None and inside(module, fp32_modules)):
        return "FLOAT"
    return "FLOAT or FLOAT16" if module in mixed else "FLOAT16"


def _strings(text: str) -> list[str]:
    import ast

    found = ast.literal_eval(text)
    return [str(part) for part in found]
