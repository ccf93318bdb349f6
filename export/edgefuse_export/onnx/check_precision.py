"""Checks the precision of every tensor of an exported graph: FP32 in the modules that stay in FP32, FP16 in all others.

The exporter stores the module of each node. Strongly typed, TensorRT uses the types of the graph unchanged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from edgefuse.errors import UserError, require

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
MODEL_PREFIX = "model"
"""Name of the classifier in the exported wrapper: `model.decode` in the file is `decode` in the classifier."""


def module_of(node: Any) -> str | None:
    """The classifier's module that a node comes from; "" = the classifier's own `forward`, None = not stored."""
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            scopes = _strings(entry.value)[:-1]  # the last is the operation itself
            last = scopes[-1] if scopes else ""
            return last.removeprefix(MODEL_PREFIX).removeprefix(".")
    return None


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether the module `name` is one of `modules`, or a submodule of one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def check_types(model: Any, *, fp32_modules: Sequence[str]) -> dict[str, int]:
    """Check the type of every floating-point tensor of an FP16 `onnx.ModelProto`, weights and constants included.

    Tensors of an FP32 module are FLOAT, those of all other modules FLOAT16. A module with FP32 submodules (the classifier:
    decoding at the start, softmax at the end) may have both between them. Softmax and the graph's outputs are FLOAT.

    Returns:
        Type name -> number of tensors; a constant counts once for each node that uses it.

    Raises:
        UserError: tensors have another type, or no known type; the message lists them with their modules.
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
            + "\nDeclare modules that compute in FP32: in the model's `fp32_modules`, or with --keep-fp32"
        )
    return dict(counts)


def _allowed(operator: str, module: str | None, *, fp32_modules: Sequence[str], mixed: set[str]) -> str:
    if operator == "Softmax" or (module is not None and inside(module, fp32_modules)):
        return "FLOAT"
    return "FLOAT or FLOAT16" if module in mixed else "FLOAT16"


def _strings(text: str) -> list[str]:
    """The names in the text of a Python list. Not `ast.literal_eval`, which fails at random in threads (Python 3.11, gh-106905)."""
    return [name or other for name, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]
