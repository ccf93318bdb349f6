"""Every intermediate tensor of a model as it runs: is it finite, and how large does it get? Owns the figures by module.

Two ways to look: `TorchActivationObserver` sees each operation of a torch module, `OnnxActivationObserver` each tensor of an ONNX file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT
from edgefuse.errors import require
from edgefuse_export.onnx.check_precision import module_of
from edgefuse_export.ort_reference import fixed_batch_of, reference_session
from edgefuse_runtime.engines.engine import padded

ITSELF = "the classifier itself"


@dataclass
class Activations:
    """What was seen, by module (torch) or tensor (ONNX), in the order in which they ran.

    Attributes:
        largest: the largest finite magnitude of any value; in torch, weights and buffers are none.
        not_finite: how many values were NaN or infinite; only those with some are listed.
    """

    largest: dict[str, float] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)

    def saw(self, where: str, *, largest: float, num_not_finite: int) -> None:
        """Add what one tensor held."""
        self.largest[where] = max(self.largest.get(where, 0.0), largest)
        if num_not_finite:
            self.not_finite[where] = self.not_finite.get(where, 0) + num_not_finite

    def over(self, limit: float) -> list[str]:
        """Where magnitudes are larger than `limit`, or not finite."""
        return [name for name, value in self.largest.items() if value > limit or name in self.not_finite]

    def to_json(self, *, limit: float | None = None) -> dict[str, Any]:
        """The largest magnitude and where it is, what the format holds at most, and what is not finite."""
        where = max(self.largest, key=lambda name: self.largest[name], default="")
        return {
            "largest": self.largest.get(where, 0.0),
            "largest_in": where,
            **({} if limit is None else {"limit": limit}),
            "not_finite": dict(self.not_finite),
        }


def in_words(activations: Mapping[str, Any]) -> str:
    """What `Activations.to_json` holds, in one line."""
    largest, limit = activations["largest"], activations.get("limit")
    of = f" of {limit:g} ({largest / limit:.2%})" if limit else ""
    not_finite = activations["not_finite"]
    finite = f"NaN or infinite values in {', '.join(not_finite)}" if not_finite else "no value is NaN or infinite"
    return f"{finite}; the largest is {largest:.4g}{of}, in {activations['largest_in']}"


class TorchActivationObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at every floating-point tensor that goes into or comes out of an operation, by the module that runs it.

    Weights and buffers of the model are looked at for NaN and infinity alone: magnitudes are of what the frames make.

    Args:
        dtype: magnitudes count for tensors of this type only (in a half model, FP32 islands may hold more than half can);
            None = all. What is not finite always counts.
    """

    def __init__(self, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activations = Activations()
        self._dtype = dtype
        self._running = [ITSELF]
        self._weights: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                self._look(value)
        return result

    def _look(self, value: Tensor) -> None:
        magnitude = float(value.abs().amax())  # NaN and infinity come through
        if math.isfinite(magnitude):
            made = value.untyped_storage().data_ptr() not in self._weights
            counted = magnitude if made and self._dtype in (None, value.dtype) else 0.0
            self.activations.saw(self._running[-1], largest=counted, num_not_finite=0)
        else:
            count = int((~torch.isfinite(value)).sum())
            self.activations.saw(self._running[-1], largest=0.0, num_not_finite=count)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Activations]:
        """Watch all that runs inside the block; tensors are named after the modules of `model`."""
        handles = []
        # By storage: operations on a weight's transpose or slice see the same one.
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        for name, module in model.named_modules():
            if name:
                # First of all hooks on entry: what the others do (casts) belongs to the module that is entered.
                enter = module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name), prepend=True)
                leave = module.register_forward_hook(lambda *_: self._leave(), always_call=True)
                handles += [enter, leave]
        try:
            with self:
                yield self.activations
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._running.pop()


class OnnxActivationObserver:
    """An ONNX file on an `reference_session` that looks at every tensor of its graph.

    It is an `edgefuse.evaluation.metrics.Predictor` for batches that the file takes, or shorter ones.

    Attributes:
        activations: by tensor and module, in words.
        largest: tensor -> the largest finite magnitude of any value.
    """

    def __init__(self, path: Path) -> None:
        onnx = require("onnx", extra="export")
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        self._modules = {name: module_of(node) or ITSELF for node in model.graph.node for name in node.output}
        hidden = set(self._modules)
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
        self.activations = Activations()
        self.largest: dict[str, float] = {}

    def __call__(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = {RGB_INPUT: padded(rgb, self._batch_size), DEPTH_INPUT: padded(depth, self._batch_size)}
        values = dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        for name, value in values.items():
            finite = np.isfinite(value)
            largest = float(np.abs(value[finite]).max()) if finite.any() else 0.0
            self.largest[name] = max(self.largest.get(name, 0.0), largest)
            where = f"{name} in {self._modules[name]}"
            self.activations.saw(where, largest=largest, num_not_finite=int((~finite).sum()))
        return values[PROBABILITIES_OUTPUT][: len(rgb)], values[GATE_OUTPUT][: len(rgb)]
