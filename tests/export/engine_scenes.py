"""Bundles to build engines from, and a fake TensorRT and GPU to build them with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgefuse_export.tensorrt.build
from edgefuse.bundle import (
    MODEL_NAME,
    SAMPLES_NAME,
    Bundle,
    FileEntry,
    Samples,
    open_bundle,
    write_manifest,
    write_samples,
)
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, InputContract, Outputs
from edgefuse_export.tensorrt.build import BuildOptions, BuildSummary, build_engine
from edgefuse_runtime.engines.cuda_device import Gpu
from edgefuse_runtime.engines.engine import Decision
from fake_tensorrt import FakeTensorRT
from logs import logged
from toy_bundle import make_toy_bundle, toy_answer

GPU = Gpu(name="Fake Orin", compute_capability="8.7")
NUM_SAMPLES = 4
SIZE = 32
GATE_WIDTH = 4


def make_engine_bundle(folder: Path, *, batch: int | str = 1, without: tuple[str, ...] = ()) -> Bundle:
    """The toy bundle with an FP16 file, whose last layer is in FP16, and with stored samples.

    Args:
        batch: first dimension of the files' inputs; a name makes it dynamic.
        without: files to leave out.
    """
    bundle = make_toy_bundle(folder, size=SIZE, batch=batch)
    files = dict(bundle.manifest.files)
    _write_fp16(folder / MODEL_NAME, folder / "model.fp16.onnx")
    files["model.fp16.onnx"] = FileEntry.of(folder / "model.fp16.onnx", precision="fp16")
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (NUM_SAMPLES, SIZE, SIZE, 3), dtype=np.uint8)
    codes = rng.integers(0, 2500, (NUM_SAMPLES, SIZE, SIZE), dtype=np.uint16)
    depth = codes.astype("<u2").view(np.uint8).reshape(NUM_SAMPLES, SIZE, SIZE, 2)
    answers = [toy_answer(rgb[i], depth[i]) for i in range(NUM_SAMPLES)]
    files[SAMPLES_NAME] = write_samples(
        folder,
        Samples(
            rgb=rgb,
            depth=depth,
            probabilities=np.array([p for p, _ in answers], np.float32),
            gate=np.array([[g] * GATE_WIDTH for _, g in answers], np.float32),
            nearest_m=(codes.mean(axis=(1, 2), dtype=np.float64) / 1000).astype(np.float32)[:, None],
        ),
    )
    for name in without:
        (folder / name).unlink()
        del files[name]
    write_manifest(folder, replace(bundle.manifest, files=files))
    folder.chmod(0o755)
    return open_bundle(folder)


def _write_fp16(source: Path, target: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    last = next(node for node in graph.node if node.output[0] == "logits")
    spread = next(one for one in graph.initializer if one.name == "spread")
    spread.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(spread).astype(np.float16), "spread"))
    at = list(graph.node).index(last)
    graph.node.remove(last)
    for offset, node in enumerate(
        (
            helper.make_node("Cast", ["score"], ["score_half"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["score_half", "spread"], ["logits_half"]),
            helper.make_node("Cast", ["logits_half"], ["logits"], to=TensorProto.FLOAT),
        )
    ):
        graph.node.insert(at + offset, node)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


class HostEngine:
    """Runs a plan of the fake from host memory, like the runtime's TensorRT engine on a GPU."""

    def __init__(self, fake: FakeTensorRT, plan: Path, *, contract: InputContract, labels: tuple[str, ...]) -> None:
        self._fake, self._plan = fake, plan
        self._contract, self._labels = contract, labels
        self.seen_batches: list[tuple[int, ...]] = []

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def contract(self) -> InputContract:
        return self._contract

    @property
    def batch_size(self) -> int | None:
        return None

    @property
    def description(self) -> dict[str, Any]:
        return {"engine": "stand-in"}

    def __enter__(self) -> HostEngine:
        trt = self._fake.module
        self._logger = trt.ILogger()
        self._engine = trt.Runtime(self._logger).deserialize_cuda_engine(self._plan.read_bytes())
        self._context = self._engine.create_execution_context()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context = None

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        self.seen_batches.append(rgb.shape)
        probabilities = np.zeros((len(rgb), len(self._labels)), np.float32)
        gate = np.zeros((len(rgb), GATE_WIDTH), np.float32)
        outputs = Outputs(probabilities, gate, np.zeros((len(rgb), 1), np.float32))
        arrays = {RGB_INPUT: rgb, DEPTH_INPUT: depth, **outputs._asdict()}
        self._extra = {
            name: np.zeros(tensor.shape, np.float16 if tensor.dtype.name == "HALF" else np.float32)
            for name, tensor in self._engine.tensors.items()
            if name not in arrays
        }
        arrays.update(self._extra)
        for name in (RGB_INPUT, DEPTH_INPUT):
            self._context.set_input_shape(name, arrays[name].shape)
        for name, array in arrays.items():
            self._context.set_tensor_address(name, array.ctypes.data)
        assert self._context.execute_async_v3(7)
        return Decision.of(outputs)

    def extra_outputs(self) -> dict[str, NDArray[Any]]:
        return self._extra


def host_opener(fake: FakeTensorRT, bundle: Bundle) -> Any:
    """`open_plan` for `build_engine`."""
    return lambda path, _extra_outputs=(): HostEngine(
        fake, path, contract=bundle.manifest.contract, labels=bundle.manifest.labels
    )


def installed(version: str, monkeypatch: pytest.MonkeyPatch, *, gpu: Gpu = GPU) -> FakeTensorRT:
    """The fake as `tensorrt`, on a machine with `gpu`."""
    fake = FakeTensorRT(version=version, device=gpu.name)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    monkeypatch.setattr(edgefuse_export.tensorrt.build, "current_gpu", lambda: gpu)
    return fake


def build(fake: FakeTensorRT, bundle: Bundle, *, messages: list[str] | None = None, **options: Any) -> BuildSummary:
    """Build with these options; the log goes into `messages`."""
    with logged() as lines:
        summary = build_engine(bundle.folder, BuildOptions(**options), open_plan=host_opener(fake, bundle))
    if messages is not None:
        messages += lines
    return summary


def everything_in(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
