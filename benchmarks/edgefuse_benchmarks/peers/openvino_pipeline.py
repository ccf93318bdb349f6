"""OpenVINO's own pipeline: crop, resize and normalisation are parts of the compiled model (`PrePostProcessor`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Outputs, outputs_of
from edgefuse.errors import UserError
from edgefuse.framing import centre_square
from edgefuse_benchmarks.peers.peer import NUM_THREADS, Peer, Source
from edgefuse_benchmarks.suites.usual_loop import FloatNetwork, float_network
from edgefuse_runtime.engines.openvino import load_openvino, openvino_core
from edgefuse_runtime.engines.openvino_compiler import compile_apart, imported
from edgefuse_runtime.engines.openvino_parity import OPENVINO_TOLERANCES, UnsupportedPrecisionError

Infer = Callable[[NDArray[np.uint8], NDArray[np.uint16]], Outputs]


@contextmanager
def openvino_pipeline(source: Source, *, precision: str) -> Iterator[Peer]:
    """The pipeline, compiled for each size of frame.

    Args:
        precision: "fp32", or "bf16", which OpenVINO chooses by itself on a CPU that has it.

    Raises:
        UserError: OpenVINO is not installed or refuses the network, the CPU has no bfloat16, or the bundle's input decoding cannot be
            cut off.
    """
    load_openvino()
    if precision == "bf16" and "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnsupportedPrecisionError("this CPU has no bfloat16 instructions")
    size, network = source.bundle.manifest.contract.size, float_network(source.bundle)
    pipeline = cache(partial(_compiled, network, size, precision))

    def classify(rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Outputs:
        return pipeline(*depth.shape)(rgb, depth)

    yield Peer(classify=classify, tolerance=OPENVINO_TOLERANCES[precision])


def _compiled(network: FloatNetwork, size: int, precision: str, height: int, width: int) -> Infer:
    """The pipeline for frames of one size. It is compiled in a process of its own, because some versions crash on some networks."""
    ov, core = load_openvino(), openvino_core()
    model = _with_preparation(ov, core.read_model(network.onnx), network, size=size, height=height, width=width)
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": NUM_THREADS,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    with tempfile.TemporaryDirectory(prefix="edgefuse-") as folder:
        path = Path(folder) / "pipeline.xml"
        ov.save_model(model, str(path), compress_to_fp16=False)
        blob = compile_apart(path, config=config, library=f"OpenVINO {ov.__version__}")
    request = imported(core, blob, config).create_infer_request()

    def infer(rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Outputs:
        try:
            request.infer({network.rgb: rgb[np.newaxis], network.depth: depth[np.newaxis]}, share_inputs=True)
        except RuntimeError as error:
            raise UserError(f"OpenVINO failed to run the pipeline: {error}") from error
        arrays = {name: np.array(request.get_tensor(name).data) for name in network.outputs}
        return outputs_of(arrays, num_pairs=1)

    return infer


def _with_preparation(ov: Any, model: Any, network: FloatNetwork, *, size: int, height: int, width: int) -> Any:
    """The network with frames as inputs: RGB uint8 [1, H, W, 3] and depth uint16 [1, H, W]."""
    from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

    x, y, side, _ = centre_square(height, width)
    steps = PrePostProcessor(model)
    rgb, depth = steps.input(network.rgb), steps.input(network.depth)
    rgb.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape([1, height, width, 3])
    rgb.model().set_layout(ov.Layout("NCHW"))
    rgb.preprocess().crop([0, y, x, 0], [1, y + side, x + side, 3]).convert_element_type(ov.Type.f32)
    rgb.preprocess().resize(ResizeAlgorithm.RESIZE_LINEAR, size, size)
    rgb.preprocess().mean([255 * float(one) for one in network.mean]).scale([255 * float(one) for one in network.std])
    depth.tensor().set_element_type(ov.Type.u16).set_layout(ov.Layout("NHW")).set_shape([1, height, width])
    depth.model().set_layout(ov.Layout("NHW"))
    depth.preprocess().crop([0, y, x], [1, y + side, x + side]).convert_element_type(ov.Type.f32)
    depth.preprocess().resize(ResizeAlgorithm.RESIZE_NEAREST, size, size)
    return steps.build()
