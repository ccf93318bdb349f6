"""INT8 with any blocks in FP32, for the search: ONNX Runtime's quantiser, which is slow Python, runs once for all of them.

The models here have the same outputs as the file that the quantiser would write, but dequantised weights are constants. With one
block in INT8, what comes before it runs once, in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, Outputs, outputs_of
from edgefuse.errors import require
from edgefuse.evaluation.compare_outputs import ParityReport
from edgefuse.evaluation.metrics import Predictor
from edgefuse_export.onnx.activation_statistics import OnnxActivationObserver
from edgefuse_export.onnx.int8 import int8_from_onnx, is_quantised
from edgefuse_export.ort_reference import fixed_batch_of, reference_predictor, reference_session
from edgefuse_runtime.engines.engine import padded

MAX_KNOWN_BYTES = 2 * 2**20
"""Largest tensor of one pair that is remembered, so that a search in large networks does not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Int8Evaluation:
    """Comparisons of the unoptimised session, and, if that one passes, of the session that `live` runs.

    Attributes:
        live: None = not compared.
    """

    report: ParityReport
    live: ParityReport | None

    @property
    def passes(self) -> bool:
        return self.live is not None and not self.live.failures()


@dataclass(frozen=True, kw_only=True)
class Int8Search:
    """An FP32 file with any of its layers in INT8. Several threads may use the predictors.

    Attributes:
        fp32: the file.
        ranges: from `measured_ranges`.
        fp32_modules: modules that stay in FP32 in any case.
        blocks: see `find_blocks`.
        write: writes an `onnx.ModelProto` as the INT8 file.
        compare: compares a predictor with the model, on all frames and edge cases.
        compare_live: does the same with the written file as `live` runs it.
    """

    fp32: Path
    ranges: Mapping[str, float]
    fp32_modules: tuple[str, ...]
    blocks: tuple[str, ...]
    write: Callable[[Any], Path]
    compare: Callable[[Predictor], ParityReport]
    compare_live: Callable[[], ParityReport]
    _known: dict[bytes, dict[str, NDArray[Any]]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def evaluate(self, blocks: tuple[str, ...]) -> Int8Evaluation:
        """Compare the model with `fp32_modules` and `blocks` in FP32; a file is written only if it may pass."""
        if blocks:
            report = self.compare(self.predictor(blocks))
            if report.failures():
                return Int8Evaluation(report=report, live=None)
        return self.evaluate_file(blocks)

    def evaluate_file(self, blocks: tuple[str, ...]) -> Int8Evaluation:
        """Write the file and compare it: every tensor is observed."""
        observer = OnnxActivationObserver(self.write(self._quantised(blocks) if blocks else self._all_quantised))
        report = replace(self.compare(observer), activations=observer.activations.to_json())
        return Int8Evaluation(report=report, live=None if report.failures() else self.compare_live())

    def _quantised(self, blocks: Sequence[str]) -> Any:
        return int8_from_onnx(self.fp32, ranges=self.ranges, fp32_modules=(*self.fp32_modules, *blocks))

    @cached_property
    def _all_quantised(self) -> Any:
        return self._quantised(())

    def predictor(self, blocks: Sequence[str]) -> Predictor:
        """The model with `blocks` in FP32 and all others in INT8."""
        modules = (*self.fp32_modules, *blocks)
        quantised = [node for node in self._model.graph.node if is_quantised(node, modules, None)]
        graph = self._model.graph
        part = self._part(quantised, nodes=graph.node, inputs=[value.name for value in graph.input])
        return reference_predictor(part.SerializeToString())

    def alone(self, block: str) -> Predictor:
        """The model with `block` in INT8 and all others in FP32."""
        nodes, inputs = self._changed_by[block]
        part = self._part(self._quantised_in(block), nodes=nodes, inputs=inputs)
        session = reference_session(part.SerializeToString())
        names = [value.name for value in session.get_outputs()]
        fed = {value.name: tensor for value, tensor in zip(part.graph.input, inputs, strict=True)}

        def predict(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
            known = self._unchanged(rgb, depth)
            found = session.run(names, {name: known[tensor] for name, tensor in fed.items()})
            return outputs_of({**known, **dict(zip(names, found, strict=True))}, num_pairs=len(rgb))

        return predict

    def _unchanged(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The tensors that the models with one block in INT8 start from, by name, and the outputs in FP32."""
        with self._lock:
            key = rgb.tobytes() + depth.tobytes()
            if key not in self._known:
                session = self._fp32_session
                num = fixed_batch_of(session)
                inputs = {RGB_INPUT: padded(rgb, num), DEPTH_INPUT: padded(depth, num)}
                names = [value.name for value in session.get_outputs()]
                self._known[key] = {**inputs, **dict(zip(names, session.run(names, inputs), strict=True))}
            return self._known[key]

    @cached_property
    def _fp32_session(self) -> Any:
        onnx = require("onnx", extra="export")
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        given = {value.name for value in (*model.graph.input, *model.graph.output)}
        needed = {name for _, inputs in self._changed_by.values() for name in inputs} - given
        model.graph.output.extend(self._types[name] for name in sorted(needed))
        return reference_session(model.SerializeToString())

    @cached_property
    def _changed_by(self) -> dict[str, tuple[list[Any], list[str]]]:
        """Block -> the nodes that compute something else if it alone is in INT8, and the tensors that these start from."""
        graph = self._model.graph
        made_by = {name: number for number, node in enumerate(graph.node) for name in node.output}
        outputs = {value.name for value in graph.output}
        found = {}
        for block in self.blocks:
            # Q and DQ come between a tensor and all of its readers, whether these are in the block or not.
            quantised = {name for node in self._quantised_in(block) for name in node.input[:2]}
            changed, numbers = set(quantised), set()
            for number, node in enumerate(graph.node):
                if changed.intersection(node.input) or outputs.intersection(node.output) & quantised:
                    numbers.add(number)
                    changed.update(node.output)
            waiting, inputs = [name for number in numbers for name in graph.node[number].input], set()
            while waiting:
                name = waiting.pop()
                maker = made_by.get(name)
                if maker in numbers or not name or name in self._constants or name in inputs:
                    continue
                if maker is None or self._num_bytes(name) <= MAX_KNOWN_BYTES:
                    inputs.add(name)
                else:
                    numbers.add(maker)
                    waiting += graph.node[maker].input
            found[block] = [graph.node[number] for number in sorted(numbers)], sorted(inputs)
        return found

    def _quantised_in(self, block: str) -> list[Any]:
        return [node for node in self._model.graph.node if is_quantised(node, self.fp32_modules, (block,))]

    def _part(self, quantised: Collection[Any], *, nodes: Sequence[Any], inputs: Sequence[str]) -> Any:
        """An `onnx.ModelProto` of some nodes of the FP32 file.

        Args:
            quantised: those in INT8.
            inputs: the tensors that they start from: its inputs, in this order.
        """
        onnx = require("onnx", extra="export")
        tensors = {name for node in quantised for name in (*node.input[:2], *node.output)}
        pairs = {name: self._scales[name] for name in tensors if name in self._scales}
        new = []
        graph_inputs = []
        for name in inputs:
            value = onnx.ValueInfoProto()
            value.CopyFrom(self._types[name])
            value.name = _before(name) if name in pairs else name
            graph_inputs.append(value)
            new += self._pair(name) if name in pairs else []
        for node in nodes:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.output[:] = [_before(name) if name in pairs else name for name in node.output]
            new += [copied, *(part for name in node.output if name in pairs for part in self._pair(name))]
        made, read = {name for node in new for name in node.output}, {name for node in new for name in node.input}
        graph = onnx.helper.make_graph(
            new,
            "part",
            graph_inputs,
            [value for value in self._model.graph.output if value.name in made],
            [
                self._weights[name] if name in tensors and name in self._weights else constant
                for name, constant in self._constants.items()
                if name in read
            ],
        )
        return onnx.helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)

    def _pair(self, name: str) -> list[Any]:
        node, scale = require("onnx", extra="export").helper.make_node, self._scales[name]
        quantised = f"{name} in INT8"
        return [
            node("QuantizeLinear", [_before(name), *scale], [quantised]),
            node("DequantizeLinear", [quantised, *scale], [name]),
        ]

    @cached_property
    def _model(self) -> Any:
        onnx = require("onnx", extra="export")
        return onnx.shape_inference.infer_shapes(onnx.load(str(self.fp32)))

    @cached_property
    def _types(self) -> dict[str, Any]:
        graph = self._model.graph
        return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}

    def _num_bytes(self, name: str) -> int:
        shape: list[int] = [axis.dim_value or 1 for axis in self._types[name].type.tensor_type.shape.dim]
        return 4 * math.prod(shape)

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """Initializers of the FP32 file, and the scales of the INT8 file."""
        scales = {name for pair in self._scales.values() for name in pair}
        return {
            **{tensor.name: tensor for tensor in self._all_quantised.graph.initializer if tensor.name in scales},
            **{tensor.name: tensor for tensor in self._model.graph.initializer},
        }

    @cached_property
    def _scales(self) -> dict[str, tuple[str, str]]:
        """Quantised tensor that is no weight -> the names of its scale and zero point."""
        return {name: scale for name, (scale, weight) in self._int8_tensors.items() if weight is None}

    @cached_property
    def _weights(self) -> dict[str, Any]:
        """Weight -> the `onnx.TensorProto` of its values after quantisation."""
        return {name: weight for name, (_, weight) in self._int8_tensors.items() if weight is not None}

    @cached_property
    def _int8_tensors(self) -> dict[str, tuple[tuple[str, str], Any]]:
        """Quantised tensor -> the names of its scale and zero point, and, for a weight, its values after quantisation."""
        onnx = require("onnx", extra="export")
        graph = self._all_quantised.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        by_name = {node.name: node for node in graph.node}
        made_by = {name: node for node in graph.node for name in node.output}
        quantised_by = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
        found = {}
        for node in self._model.graph.node:
            if not is_quantised(node, self.fp32_modules, None):
                continue
            in_int8 = by_name[node.name]
            for name, renamed in zip(node.input[:2], in_int8.input[:2], strict=True):
                dequantised = made_by[renamed]
                scale, weight = tuple(dequantised.input[1:3]), None
                if dequantised.input[0] in constants:
                    values, by, _ = (onnx.numpy_helper.to_array(constants[one]) for one in dequantised.input)
                    axis = next((a.i for a in dequantised.attribute if a.name == "axis"), 1)
                    shape = [-1 if number == axis else 1 for number in range(values.ndim)] if by.ndim else []
                    weight = onnx.numpy_helper.from_array(values.astype(np.float32) * by.reshape(shape), name)
                found[name] = scale, weight
            found[node.output[0]] = tuple(quantised_by[in_int8.output[0]].input[1:3]), None
        return found


def _before(name: str) -> str:
    return f"{name} in FP32"
