"""The stand-in's network: its tensors, its layers, and what may be asked of them."""

from __future__ import annotations

from typing import Any

from fake_tensorrt.bound import Bound, Dims, Setting, check
from fake_tensorrt.plan import Node, Tensor, nodes_of, tensors_of, with_input_shape

_KINDS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Softmax": "SOFTMAX",
    "Cast": "CAST",
    "Concat": "CONCATENATION",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Clip": "ACTIVATION",
    "MaxPool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "ReduceMean": "REDUCE",
    "Reshape": "SHUFFLE",
    "Transpose": "SHUFFLE",
    "Flatten": "SHUFFLE",
    "Slice": "SLICE",
    "Gather": "GATHER",
    "Constant": "CONSTANT",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
"""Operator: layer; all others are element-wise."""


class ITensor(Bound):
    def __init__(self, tensor: Tensor, network: Any = None) -> None:
        self._tensor, self._network = tensor, network

    @property
    def name(self) -> str:
        return self._tensor.name

    @property
    def shape(self) -> Dims:
        return Dims(self._tensor.shape)

    @shape.setter
    def shape(self, value: Any) -> None:
        check(self._fake, value, "dims")
        self._network._onnx_bytes = with_input_shape(self._network._onnx_bytes, self.name, tuple(value))

    @property
    def dtype(self) -> Any:
        return self._fake.enums["DataType"][self._tensor.dtype]


class ILayer(Bound):
    """A layer as TensorRT 11 has it: its types are the file's."""

    def __init__(self, network: Any, index: int, node: Node) -> None:
        self._network, self._index, self._node = network, index, node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def type(self) -> Any:
        return self._fake.enums["LayerType"][_KINDS.get(self._node.operator, "ELEMENTWISE")]

    @property
    def num_inputs(self) -> int:
        return len(self._node.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._node.outputs)

    def get_input(self, index: int) -> Any:
        return self._at(self._node.inputs, index)

    def get_output(self, index: int) -> Any:
        return self._at(self._node.outputs, index)

    def get_output_type(self, index: int) -> Any:
        return self._fake.enums["DataType"][self._node.outputs[index].dtype]

    def _at(self, tensors: tuple[Tensor, ...], index: int) -> Any:
        return self._fake.module.ITensor(tensors[index]) if 0 <= index < len(tensors) else None


class WeakLayer(ILayer):
    """A layer as 10.x has it: in a weakly typed network its precision can be asked for."""

    @property
    def precision(self) -> Any:
        return self._fake.enums["DataType"]["FLOAT"]

    @precision.setter
    def precision(self, value: Any) -> None:
        check(self._fake, value, "DataType")
        if value.name == "FLOAT":
            self._network._held.add(self._index)

    @property
    def precision_is_set(self) -> bool:
        return self._index in self._network._held

    def set_output_type(self, index: int, dtype: Any) -> None:
        check(self._fake, index, "int")
        check(self._fake, dtype, "DataType")


class INetworkDefinition(Bound):
    name = Setting("Unnamed Network 0", "str")

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._onnx_bytes: bytes | None = None
        self._held: set[int] = set()

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        check(self._fake, flag, "NetworkDefinitionCreationFlag")
        return bool(self._flags >> int(flag) & 1)

    @property
    def num_inputs(self) -> int:
        return len(self._tensors(is_input=True))

    @property
    def num_outputs(self) -> int:
        return len(self._tensors(is_input=False))

    @property
    def num_layers(self) -> int:
        return len(nodes_of(self._onnx_bytes)) if self._onnx_bytes else 0

    def get_layer(self, index: int) -> Any:
        nodes = nodes_of(self._onnx_bytes) if self._onnx_bytes else []
        return self._fake.module.ILayer(self, index, nodes[index]) if 0 <= index < len(nodes) else None

    def get_input(self, index: int) -> Any:
        return self._at(index, is_input=True)

    def get_output(self, index: int) -> Any:
        return self._at(index, is_input=False)

    def _tensors(self, *, is_input: bool) -> list[Tensor]:
        every = tensors_of(self._onnx_bytes) if self._onnx_bytes else []
        return [tensor for tensor in every if tensor.is_input is is_input]

    def _at(self, index: int, *, is_input: bool) -> Any:
        tensors = self._tensors(is_input=is_input)
        return self._fake.module.ITensor(tensors[index], self) if 0 <= index < len(tensors) else None


CLASSES = (ITensor, ILayer, INetworkDefinition)
