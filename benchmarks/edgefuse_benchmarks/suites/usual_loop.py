"""The loop that users write by hand: OpenCV resizes, NumPy normalises, ONNX Runtime runs a network with float inputs.

The network is the bundle's FP32 file without its input decoding, so that both loops run the same layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, Outputs, codes_from_bytes, outputs_of
from edgefuse.errors import UserError, require
from edgefuse.framing import centre_square

NAME = "usual loop"
_PREPARED = ("Cast", "Transpose", "Div", "Sub")
"""Operators at the start of the graph that a hand-written loop does in NumPy."""


@dataclass(frozen=True, kw_only=True)
class UsualLoop:
    """The network with float inputs, and the steps before it.

    Attributes:
        infer: float32 inputs RGB [1, 3, S, S] and depth [1, S, S] in millimetres -> outputs.
        mean, std: float32 [3] of RGB in [0, 1].
    """

    size: int
    infer: Callable[[NDArray[np.float32], NDArray[np.float32]], Outputs]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def frame(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Outputs:
        """From uint8 [H, W, 3] and uint16 [H, W] in millimetres: the centre of the image."""
        x, y, side, _ = centre_square(*depth.shape)
        size = (self.size, self.size)
        rgb_small = cv2.resize(rgb[y : y + side, x : x + side], size, interpolation=cv2.INTER_LINEAR)
        depth_small = cv2.resize(depth[y : y + side, x : x + side], size, interpolation=cv2.INTER_NEAREST)
        return self._run(np.asarray(rgb_small, np.uint8), np.asarray(depth_small, np.uint16))

    def framed(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
        """From one framed pair, uint8 [1, S, S, 3] and [1, S, S, 2], to compare the outputs."""
        return self._run(rgb[0], codes_from_bytes(depth)[0])

    def _run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Outputs:
        normalised = (rgb.astype(np.float32) / np.float32(255) - self.mean) / self.std
        planes = np.ascontiguousarray(normalised.transpose(2, 0, 1))[np.newaxis]
        return self.infer(planes, depth.astype(np.float32)[np.newaxis])


@dataclass(frozen=True, kw_only=True)
class FloatNetwork:
    """A bundle's FP32 file without its input decoding, as users export a network.

    Attributes:
        onnx: the file's content.
        rgb, depth: names of its inputs: normalised RGB [1, 3, S, S] and depth [1, S, S] in millimetres, both float32.
        outputs: names of its outputs, those of the bundle's contract.
        mean, std: float32 [3] of RGB in [0, 1].
    """

    onnx: bytes
    rgb: str
    depth: str
    outputs: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def float_network(bundle: Bundle) -> FloatNetwork:
    """Cut the input decoding off a bundle's FP32 file.

    Raises:
        UserError: `onnx` is not installed, the batch is not 1, or the file's decoding has another form.
    """
    onnx = require("onnx", extra="export")
    if bundle.manifest.batch_size != 1:
        raise UserError("its batch is not 1")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.file())))
    rgb_name, mean, std = _rgb_cut(onnx, model.graph)
    depth_name = _depth_cut(model.graph)
    names = tuple(bundle.manifest.contract.outputs)
    try:
        part = onnx.utils.Extractor(model).extract_model([rgb_name, depth_name], list(names))
    except (KeyError, ValueError) as error:
        raise UserError(f"its input decoding cannot be cut off ({error})") from error
    used = {name for node in part.graph.node for name in node.input}
    if used & {RGB_INPUT, DEPTH_INPUT}:
        raise UserError("it reads its inputs in more than one place")
    depth_name = _without_channel(onnx, part.graph, depth_name)
    content = part.SerializeToString()
    return FloatNetwork(onnx=content, rgb=rgb_name, depth=depth_name, outputs=names, mean=mean, std=std)


def _without_channel(onnx: Any, graph: Any, name: str) -> str:
    """Make the input of depth codes [1, S, S], as in older files; in newer ones it is [1, 1, S, S]. Returns its name."""
    (value,) = (one for one in graph.input if one.name == name)
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions) == 3:
        return name
    del dimensions[1]
    value.name, axes = f"{name}_mm", f"{name}_axes"
    graph.initializer.append(onnx.helper.make_tensor(axes, onnx.TensorProto.INT64, [1], [1]))
    graph.node.insert(0, onnx.helper.make_node("Unsqueeze", [value.name, axes], [name]))
    return str(value.name)


def usual_loop(bundle: Bundle, *, num_threads: int) -> UsualLoop:
    """The loop for a bundle's FP32 file.

    Raises:
        UserError: `onnx` is not installed, the batch is not 1, or the file's decoding has another form.
    """
    ort = require("onnxruntime", extra="runtime")
    network = float_network(bundle)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 3
    session = ort.InferenceSession(network.onnx, options, providers=["CPUExecutionProvider"])

    def infer(rgb: NDArray[np.float32], depth: NDArray[np.float32]) -> Outputs:
        found = session.run(list(network.outputs), {network.rgb: rgb, network.depth: depth})
        return outputs_of(dict(zip(network.outputs, found, strict=True)), num_pairs=1)

    return UsualLoop(size=bundle.manifest.contract.size, infer=infer, mean=network.mean, std=network.std)


def _rgb_cut(onnx: Any, graph: Any) -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
    """The normalised RGB in the graph, and its mean and standard deviation: 0 and 1 if only a division by 255 comes first."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    name, operators, values = RGB_INPUT, list[str](), list[NDArray[np.float32]]()
    while len(readers.get(name, ())) == 1 and len(operators) < 5:
        (node,) = readers[name]
        if node.op_type not in _PREPARED or node.input[0] != name or not set(node.input[1:]) <= set(constants):
            break
        operators.append(node.op_type)
        values += [onnx.numpy_helper.to_array(constants[one]).astype(np.float32).reshape(-1) for one in node.input[1:]]
        name = node.output[0]
    if operators[:3] != ["Cast", "Transpose", "Div"] or values[0].tolist() != [255.0]:
        raise UserError("its RGB decoding has another form")
    if operators[3:] == ["Sub", "Div"]:
        return name, values[1], values[2]
    if len(operators) > 3:
        raise UserError("its RGB decoding has another form")
    return name, np.zeros(3, np.float32), np.ones(3, np.float32)


def _depth_cut(graph: Any) -> str:
    """The depth codes in the graph: low byte + 256 * high byte, the first sum of what is computed from depth alone."""
    from_depth = {DEPTH_INPUT}
    for node in graph.node:
        if from_depth.intersection(node.input):
            if node.op_type == "Add" and from_depth.issuperset(node.input):
                return str(node.output[0])
            from_depth.update(node.output)
    raise UserError("its depth decoding has another form")
