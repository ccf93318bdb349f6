"""The ONNX Runtime engine on a bundle with known outputs."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from runtime_scenes import draw_pair

from edgefuse import framing
from edgefuse.bundle import MODEL_NAME, Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.contract import OUTPUTS, OUTPUTS_OF_OLDER_BUNDLES
from edgefuse.errors import MissingPackageError, UserError
from edgefuse_runtime.engines import onnxruntime as engine_module
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.onnxruntime import (
    Binding,
    Device,
    OnnxRuntimeEngine,
    _check_provider,
    eight_bits_saturate,
)
from toy_bundle import make_toy_bundle, toy_answer, toy_nearest_m


@pytest.mark.parametrize("label", ["near", "far"])
def test_the_output_is_the_graphs(bundle: Bundle, label: str) -> None:
    framed = framing.fit(*draw_pair(label), size=32)
    with open_engine(bundle) as engine:
        decision = engine.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])
        assert engine.labels == ("near", "far")
    probabilities, gate = toy_answer(framed.rgb, framed.depth)
    assert decision.probabilities.shape == (1, 2) and decision.probabilities.dtype == np.float32
    assert decision.gate.shape == (1, 4) and decision.gate.dtype == np.float32
    np.testing.assert_allclose(decision.probabilities[0], probabilities, atol=1e-5)
    np.testing.assert_allclose(decision.gate, gate, atol=1e-5)
    np.testing.assert_allclose(decision.nearest_m, [toy_nearest_m(framed.depth)], atol=1e-5)
    assert engine.labels[int(decision.probabilities.argmax())] == label


def test_a_file_without_an_output_of_its_manifest_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    model = onnx.load(str(bundle.file()))
    del model.graph.output[-1]
    bundle = with_model(bundle, model.SerializeToString())
    with pytest.raises(UserError, match=r"lacks the outputs \['nearest_m'\]"), OnnxRuntimeEngine(bundle):
        pass


def test_an_older_bundle_has_no_distance(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle", outputs=OUTPUTS_OF_OLDER_BUNDLES)
    framed = framing.fit(*draw_pair("near"), size=32)
    with OnnxRuntimeEngine(bundle) as engine:
        decision = engine.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])
    assert decision.nearest_m is None and decision.is_finite and len(decision.gate) == 1


def test_outputs_are_owned_by_the_caller(bundle: Bundle) -> None:
    near, far = (framing.fit(*draw_pair(label), size=32) for label in ("near", "far"))
    with open_engine(bundle) as engine:
        first = engine.run(near.rgb[np.newaxis], near.depth[np.newaxis])
        kept = first.probabilities.copy()
        engine.run(far.rgb[np.newaxis], far.depth[np.newaxis])
    assert np.array_equal(first.probabilities, kept)


def test_the_description_has_what_runs(bundle: Bundle) -> None:
    with open_engine(bundle, num_threads=1) as engine:
        description = engine.description
    assert description["provider"] == "CPUExecutionProvider"
    assert (description["precision"], description["num_threads"]) == ("fp32", 1)
    assert description["start_ms"] > 0
    with pytest.raises(RuntimeError, match="outside"):
        engine.run(np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 2), np.uint8))


@pytest.mark.parametrize(("batch", "batch_size"), [(1, 1), (3, 3), ("N", None)])
def test_a_batch_runs_up_to_the_size_of_the_file(tmp_path: Path, batch: int | str, batch_size: int | None) -> None:
    rng = np.random.default_rng(0)
    rgb, depth = (rng.integers(0, 256, (5, 32, 32, channels), np.uint8) for channels in (3, 2))
    depth[..., 1] %= 8
    with open_engine(make_toy_bundle(tmp_path / "toy", batch=batch)) as engine:
        assert engine.batch_size == batch_size
        for num_pairs in range(1, (batch_size or 5) + 1):
            decision = engine.run(rgb[:num_pairs], depth[:num_pairs])
            assert decision.probabilities.shape == (num_pairs, 2) and decision.gate.shape == (num_pairs, 4)
            for i in range(num_pairs):
                np.testing.assert_allclose(decision.probabilities[i], toy_answer(rgb[i], depth[i])[0], atol=1e-5)
        with pytest.raises(UserError, match="one run got 0 pairs"):
            engine.run(rgb[:0], depth[:0])
        if batch_size is not None:
            with pytest.raises(UserError, match=f"one run got {batch_size + 1} pairs, .*--batch N"):
                engine.run(rgb[: batch_size + 1], depth[: batch_size + 1])


def test_a_file_of_another_batch_than_the_manifests_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy", batch=3)
    model = {**bundle.manifest.model, "batch_size": 2}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, model=model))
    with (
        pytest.raises(
            UserError, match=r"has uint8 \[3, 32, 32, 3\] as the input rgb.*\[2, 32, 32, 3\].*export the run again"
        ),
        open_engine(open_bundle(bundle.folder)),
    ):
        pass


def test_inputs_off_the_contract_are_refused(bundle: Bundle) -> None:
    rgb, depth = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 2), np.uint8)
    with open_engine(bundle) as engine:
        with pytest.raises(UserError, match=r"depth is uint16 \[1, 32, 32\]"):
            engine.run(rgb, np.zeros((1, 32, 32), np.uint16))
        with pytest.raises(UserError, match=r"rgb is uint8 \[1, 16, 16, 3\]"):
            engine.run(np.zeros((1, 16, 16, 3), np.uint8), depth)


def test_a_file_of_another_input_size_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "size", size=32, graph_size=64)
    with (
        pytest.raises(
            UserError, match=r"has uint8 \[1, 64, 64, 3\] as the input rgb.*\[1, 32, 32, 3\].*export the run again"
        ),
        open_engine(bundle),
    ):
        pass


def test_a_file_of_another_input_type_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "floats", float_inputs=True)
    with (
        pytest.raises(UserError, match=r"has float32 .* as the input rgb.*requires uint8"),
        open_engine(bundle),
    ):
        pass


def test_a_file_with_other_classes_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "classes", labels=("a", "b"), graph_labels=3)
    with pytest.raises(UserError, match="has 3 classes, but its manifest has 2 labels"), open_engine(bundle):
        pass


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "changed")
    path = bundle.folder / MODEL_NAME
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="not the file that was exported"), open_engine(bundle):
        pass


def with_model(bundle: Bundle, model: bytes) -> Bundle:
    """The bundle with another ONNX file, and a manifest for it."""
    path = bundle.folder / MODEL_NAME
    path.write_bytes(model)
    manifest = dataclasses.replace(bundle.manifest, files={MODEL_NAME: FileEntry.of(path, precision="fp32")})
    write_manifest(bundle.folder, manifest)
    return dataclasses.replace(bundle, manifest=manifest)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    bundle = with_model(make_toy_bundle(tmp_path / "broken"), b"not a graph")
    with pytest.raises(UserError, match=r"model\.onnx is not an ONNX file"), open_engine(bundle):
        pass


def test_a_model_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "broken")
    model = onnx.load(bundle.file())
    model.graph.node[0].op_type = "Guess"
    bundle = with_model(bundle, model.SerializeToString())
    with (
        pytest.raises(UserError, match=r"ONNX Runtime .* cannot load .*\. Install a newer .*edgefuse export RUN"),
        open_engine(bundle),
    ):
        pass


@pytest.mark.parametrize(
    ("device", "says", "step"),
    [
        (
            "cuda",
            "Failed to allocate memory for requested buffer of size 4",
            "The GPU is out of memory: end other programs",
        ),
        ("cuda", "CUDA failure 2: out of memory ; GPU=0", "The GPU is out of memory: end other programs"),
        ("cuda", "CUDA failure 700: an illegal memory access was encountered", "Check nvidia-smi, or run on the CPU"),
        ("cpu", "Could not find an implementation for Odd(1)", "pip install --upgrade onnxruntime"),
    ],
)
def test_an_error_from_onnx_runtime_has_a_next_step(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device: Device, says: str, step: str
) -> None:
    """While it is opened, and later. Its exceptions have no common base class."""
    import onnxruntime

    rgb, depth = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 2), np.uint8)
    engine = OnnxRuntimeEngine(bundle)
    with engine:
        engine._device = device
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *_: (_ for _ in ()).throw(RuntimeError(says)))
        with pytest.raises(UserError, match=rf"failed to run on \w+: {re.escape(says)}\. .*{step}"):
            engine.run(rgb, depth)
        engine._device = "cpu"
        with pytest.raises(UserError, match=r"failed to run on CPUExecutionProvider.*pip install --upgrade"), engine:
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "npu"}, "auto, tensorrt, rtx, cuda, openvino, cpu"),
        ({"num_threads": 0}, "1 to 4096"),
        ({"num_threads": 10**20}, "1 to 4096"),
    ],
)
def test_unknown_engines_are_refused(bundle: Bundle, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_engine(bundle, **options)


def test_a_missing_onnx_runtime_names_its_command(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgefuse\[runtime\]'"), open_engine(bundle):
        pass


@pytest.fixture
def two_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.31.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_two_onnx_runtimes_give_a_warning(bundle: Bundle, two_packages: None) -> None:
    with (
        pytest.warns(UserWarning, match="pip uninstall -y onnxruntime onnxruntime-gpu"),
        open_engine(bundle, engine="cpu"),
    ):
        pass


def test_both_onnx_runtimes_without_cuda_have_the_command(bundle: Bundle, two_packages: None) -> None:
    with (
        pytest.raises(
            MissingPackageError, match=r"both onnxruntime and onnxruntime-gpu .* pip uninstall -y onnxruntime"
        ),
        OnnxRuntimeEngine(bundle, device="cuda"),
    ):
        pass


def test_cuda_that_is_missing_is_refused_and_not_replaced(bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with (
        pytest.raises(MissingPackageError, match=r"onnxruntime-gpu is not installed.*pip install 'edgefuse\[gpu\]'"),
        OnnxRuntimeEngine(bundle, device="cuda"),
    ):
        pass


def test_a_provider_that_does_not_load_is_refused_and_not_replaced(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime-gpu without CUDA's libraries: the provider is listed, but sessions would run on the CPU."""
    import onnxruntime

    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    with (
        pytest.raises(UserError, match=r"CUDAExecutionProvider.*--engine cpu"),
        OnnxRuntimeEngine(bundle, device="cuda"),
    ):
        pass
    captured = capfd.readouterr()
    assert captured.out == "" and "libcudnn.so.9" in captured.err


def test_a_session_on_another_provider_is_refused(bundle: Bundle) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle.file()), providers=["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"runs on CPUExecutionProvider instead of CUDAExecutionProvider.*--engine cpu"):
        _check_provider(session, "CUDAExecutionProvider", where="here")


def test_bound_buffers_give_the_outputs_of_normal_runs(bundle: Bundle) -> None:
    """The CUDA code path, on the CPU: buffers are bound once, and each output is a copy for the newest frame."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(bundle.file()), providers=["CPUExecutionProvider"])
    empty = [np.zeros((1, 32, 32, channels), np.uint8) for channels in (3, 2)]
    binding = Binding(onnxruntime, session, device="cpu", rgb=empty[0], depth=empty[1], output_names=OUTPUTS)
    decisions = []
    for label in ("near", "far", "near"):
        framed = framing.fit(*draw_pair(label), size=32)
        decisions.append((framed, binding.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])))
    for framed, found in decisions:
        probabilities, gate = toy_answer(framed.rgb, framed.depth)
        np.testing.assert_allclose(found["probabilities"][0], probabilities, atol=1e-5)
        np.testing.assert_allclose(found["gate"], gate, atol=1e-5)
        np.testing.assert_allclose(found["nearest_m"], toy_nearest_m(framed.depth), atol=1e-5)


def test_the_tensors_are_the_files(bundle: Bundle) -> None:
    with OnnxRuntimeEngine(bundle) as engine:
        assert [(one.name, one.dtype, one.shape) for one in (*engine.inputs, *engine.outputs)] == [
            ("rgb", "uint8", (1, 32, 32, 3)),
            ("depth", "uint8", (1, 32, 32, 2)),
            ("probabilities", "float32", (1, 2)),
            ("gate", "float32", (1, 4)),
            ("nearest_m", "float32", (1, 1)),
        ]
    assert engine.inputs == ()


def test_on_a_jetson_the_message_has_no_package_that_pip_lacks(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    monkeypatch.setattr(engine_module, "is_jetson", lambda: True)
    with (
        pytest.raises(MissingPackageError, match="--engine tensorrt or --engine cpu") as caught,
        OnnxRuntimeEngine(bundle, device="cuda"),
    ):
        pass
    assert "pip install" not in str(caught.value)


def test_8_bits_saturate_on_x86_without_vnni(tmp_path: Path) -> None:
    (tmp_path / "with").write_text("flags\t\t: fpu avx512_vnni\n")
    (tmp_path / "without").write_text("flags\t\t: fpu avx2\n")
    assert eight_bits_saturate("x86_64", tmp_path / "without") and eight_bits_saturate("AMD64", tmp_path / "absent")
    assert not eight_bits_saturate("x86_64", tmp_path / "with") and not eight_bits_saturate(
        "aarch64", tmp_path / "absent"
    )


def write_int8_product(path: Path) -> Path:
    """x [1, 64] times ones through Q and DQ: sums of products 127 * 127, which overflow 16 bits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scalars = {"scale": np.float32(1 / 127), "zero": np.int8(0)}
    weights = {**scalars, "ones": np.full((64, 8), 127, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["left"]),
        helper.make_node("DequantizeLinear", ["ones", "scale", "zero"], ["right"]),
        helper.make_node("MatMul", ["left", "right"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("saturate", [False, True])
def test_if_8_bits_saturate_nothing_is_computed_in_8_bits(
    saturate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    import onnxruntime

    path, made = write_int8_product(tmp_path / "product.onnx"), tmp_path / "optimised.onnx"
    monkeypatch.setattr(engine_module, "eight_bits_saturate", lambda: saturate)
    monkeypatch.setattr(onnxruntime, "SessionOptions", options_that_keep_the_graph(onnxruntime.SessionOptions, made))
    session = engine_module.new_session(onnxruntime, path, provider="CPUExecutionProvider")
    np.testing.assert_allclose(session.run(None, {"x": np.ones((1, 64), np.float32)})[0], 64, rtol=0.02)
    operators = {node.op_type for node in onnx.load(made).graph.node}
    assert ("MatMul" in operators) is saturate


def options_that_keep_the_graph(options: Callable[[], Any], path: Path) -> Callable[[], Any]:
    def make() -> Any:
        made = options()
        made.optimized_model_filepath = str(path)
        return made

    return make
