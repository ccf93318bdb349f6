"""Statistics of every intermediate tensor of a running model: largest magnitude, and values that are not finite, by module.

`TorchActivationObserver` observes each operation of a PyTorch module, `OnnxActivationObserver` each tensor of an ONNX file.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, Outputs, outputs_of
from edgefuse.errors import require
from edgefuse_export.onnx.check_precision import module_of
from edgefuse_export.onnx.emulated_fp16 import leaves_of
from edgefuse_export.ort_reference import fixed_batch_of, reference_session
from edgefuse_runtime.engines.engine import padded

ITSELF = "the classifier itself"


@dataclass
class Activations:
    """Statistics by module (PyTorch) or tensor (ONNX), in execution order.

    Attributes:
        largest: the largest finite magnitude of any value; in PyTorch, without weights and buffers.
        not_finite: number of NaN or infinite values, only where there are any.
    """

    largest: dict[str, float] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)

    def add(self, where: str, *, largest: float, num_not_finite: int) -> None:
        """Add the statistics of one tensor."""
        self.largest[where] = max(self.largest.get(where, 0.0), largest)
        if num_not_finite:
            self.not_finite[where] = self.not_finite.get(where, 0) + num_not_finite

    def over(self, limit: float) -> list[str]:
        """The modules or tensors with magnitudes above `limit`, or with values that are not finite."""
        return [name for name, value in self.largest.items() if value > limit or name in self.not_finite]

    def to_json(self, *, limit: float | None = None) -> dict[str, Any]:
        """The largest magnitude and its location, `limit` (the largest number of the format), and the non-finite counts."""
        where = max(self.largest, key=lambda name: self.largest[name], default="")
        return {
            "largest": self.largest.get(where, 0.0),
            "largest_in": where,
            **({} if limit is None else {"limit": limit}),
            "not_finite": dict(self.not_finite),
        }


def describe(activations: Mapping[str, Any]) -> str:
    """The value of `Activations.to_json` as one line of text."""
    largest, limit = activations["largest"], activations.get("limit")
    of = f" of {limit:g} ({largest / limit:.2%})" if limit else ""
    not_finite = activations["not_finite"]
    finite = f"NaN or infinite values in {', '.join(not_finite)}" if not_finite else "no value is NaN or infinite"
    return f"{finite}; the largest is {largest:.4g}{of}, in {activations['largest_in']}"


class TorchActivationObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes every floating-point input and output of each operation, by the module that runs it.

    Weights and buffers are only checked for NaN and infinity; they do not count as magnitudes.

    Args:
        dtype: count magnitudes of tensors of this type only, because the FP32 modules of an FP16 model may exceed the range
            of FP16; None = all. Values that are not finite always count.
    """

    def __init__(self, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activations = Activations()
        self._dtype = dtype
        self._running = [ITSELF]
        self._weights: set[int] = set()
        self._last: list[tuple[Tensor, float]] = []  # results of the last operation: inputs of the next one
        self._parameters: dict[int, tuple[Tensor, float]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        results = [(value, _largest(value)) for value in _floats((result,))]
        known = self._last if not func._schema.is_mutable else []
        for value in _floats((*args, *kwargs.values())):
            if isinstance(value, nn.Parameter):
                if id(value) not in self._parameters:
                    self._parameters[id(value)] = value, _largest(value)
                self._observe(*self._parameters[id(value)])
            else:
                found = next((largest for before, largest in known if before is value), None)
                self._observe(value, _largest(value) if found is None else found)
        for value, largest in results:
            self._observe(value, largest)
        self._last = results
        return result

    def _observe(self, value: Tensor, magnitude: float) -> None:
        if math.isfinite(magnitude):
            is_activation = value.untyped_storage().data_ptr() not in self._weights
            counted = magnitude if is_activation and self._dtype in (None, value.dtype) else 0.0
            self.activations.add(self._running[-1], largest=counted, num_not_finite=0)
        else:
            count = int((~torch.isfinite(value)).sum())
            self.activations.add(self._running[-1], largest=0.0, num_not_finite=count)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Activations]:
        """Observe everything that runs inside the `with` block; tensors are assigned to the modules of `model`."""
        handles = []
        # By storage, which a weight shares with its transpose and slices.
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        for name, module in model.named_modules():
            if name:
                # Before all other pre-hooks: their operations (casts) belong to this module.
                enter = module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name), prepend=True)
                leave = module.register_forward_hook(lambda *_: self._leave(), always_call=True)
                handles += [enter, leave]
        try:
            with self:
                yield self.activations
        finally:
            for handle in handles:
                handle.remove()
            self._last, self._parameters = [], {}

    def _leave(self) -> None:
        self._running.pop()


def _floats(values: Sequence[Any]) -> list[Tensor]:
    leaves = leaves_of(values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]


def _largest(value: Tensor) -> float:
    """The largest magnitude; NaN and infinity propagate."""
    low, high = torch.aminmax(value)  # abs and amax take ten times as long for FP16
    return max(-float(low), float(high))


class OnnxActivationObserver:
    """Runs an ONNX file in a `reference_session`, and observes every tensor of its graph that is not hidden.

    It is an `edgefuse.evaluation.metrics.Predictor` for batches that the file supports, or shorter ones; several threads may call it.

    Args:
        only: the tensors to observe in addition to the outputs; None = all.

    Attributes:
        activations: by "TENSOR in MODULE".
        largest: tensor -> the largest finite magnitude of any value.
    """

    def __init__(self, path: Path, *, only: Container[str] | None = None) -> None:
        onnx = require("onnx", extra="export")
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        self._modules = {name: module_of(node) or ITSELF for node in model.graph.node for name in node.output}
        hidden = {name for name in self._modules if only is None or name in only}
        hidden -= {value.name for value in model.graph.output}
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        model.graph.output.extend(
            value
            for value in model.graph.value_info
            if value.type.tensor_type.elem_type in floats and value.name in hidden
        )
        self._session = reference_session(model.SerializeToString())
        self._batch_size = fixed_batch_of(self._session)
        self._names = [value.name for value in self._session.get_outputs()]
        self._constants = _constants(model.graph)
        self._lock = Lock()
        self.activations = Activations()
        self.largest: dict[str, float] = {}

    def __call__(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Outputs:
        inputs = {RGB_INPUT: padded(rgb, self._batch_size), DEPTH_INPUT: padded(depth, self._batch_size)}
        names = [name for name in self._names if name not in self._constants or name not in self.largest]
        values = dict(zip(names, self._session.run(names, inputs), strict=True))
        found = {name: _largest_of(value) for name, value in values.items()}
        with self._lock:
            for name, (largest, num_not_finite) in found.items():
                self.largest[name] = max(self.largest.get(name, 0.0), largest)
                where = f"{name} in {self._modules[name]}"
                self.activations.add(where, largest=largest, num_not_finite=num_not_finite)
        return outputs_of(values, num_pairs=len(rgb))


def _largest_of(value: NDArray[Any]) -> tuple[float, int]:
    """The largest finite magnitude, and the number of values that are not finite."""
    largest = max(-float(value.min()), float(value.max()))
    if math.isfinite(largest):
        return largest, 0
    finite = value[np.isfinite(value)]
    return float(np.abs(finite).max(initial=0.0)), value.size - finite.size


def _constants(graph: Any) -> set[str]:
    """The tensors that depend on no input, such as dequantised weights."""
    known = {tensor.name for tensor in graph.initializer}
    constants = set()
    for node in graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
            constants.update(node.output)
    return constants
