"""The OpenVINO engine, on a trained and exported bundle: outputs, compiled models, the comparison at the first start, `auto`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgefuse.bundle import MODEL_NAME, SAMPLES_NAME, Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.contract import Outputs
from edgefuse.errors import MissingPackageError, UserError
from edgefuse.evaluation.compare_outputs import report_of
from edgefuse_export.onnx.export import ExportSummary, export_run
from edgefuse_runtime.engines import open_engine, openvino_compiler
from edgefuse_runtime.engines.cpu import cpu_id
from edgefuse_runtime.engines.measured_times import choose, remember_times
from edgefuse_runtime.engines.openvino import OpenVinoEngine, openvino_core
from edgefuse_runtime.engines.openvino_cache import MAX_FILES, cache_folder
from edgefuse_runtime.engines.openvino_parity import OPENVINO_TOLERANCES, OutputsDifferError, UnsupportedPrecisionError
from logs import logged

openvino = pytest.importorskip("openvino")

HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
PRECISIONS = [
    "fp32",
    pytest.param("bf16", marks=pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")),
    "int8",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture(autouse=True)
def no_gpu_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def bundle(all_precisions: ExportSummary, tmp_path: Path) -> Bundle:
    """A copy without what an earlier start has kept in it."""
    shutil.copytree(all_precisions.bundle.folder, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines"))
    return open_bundle(tmp_path / "bundle")


def opened(bundle: Bundle, engine: str = "openvino:fp32", **more: Any) -> dict[str, Any]:
    """The description of an engine that was opened."""
    with open_engine(bundle, engine=engine, **more) as one:
        return one.description


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_outputs_are_those_of_the_model(bundle: Bundle, precision: str) -> None:
    samples = bundle.samples()
    with open_engine(bundle, engine=f"openvino:{precision}") as engine:
        found = [engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1]) for i in range(len(samples.rgb))]
        description = engine.description
    outputs = Outputs(*(np.concatenate(parts) for parts in zip(*(one.outputs for one in found), strict=True)))
    stored = Outputs(samples.probabilities, samples.gate, samples.nearest_m)
    tolerance = OPENVINO_TOLERANCES[precision]
    report = report_of({"samples": (stored, outputs)}, reference="torch", candidate="OpenVINO", tolerance=tolerance)
    assert report.failures() == []
    difference = np.abs(outputs.probabilities - samples.probabilities).max()
    assert difference < 1e-4 if precision == "fp32" else difference > 1e-6  # a lower precision rounds
    file = "model.int8.onnx" if precision == "int8" else MODEL_NAME
    assert (description["engine"], description["file"], description["precision"]) == ("openvino", file, precision)
    parity = description["parity"]
    assert parity["compared"] == "at this start" and parity["num_frames"] == 27 and parity["failures"] == []
    assert parity["max_probability_difference"] >= difference * 0.999


def test_the_second_start_neither_compiles_nor_compares(bundle: Bundle, cache: Path) -> None:
    first, second = opened(bundle), opened(bundle)
    assert (first["compiled"], first["parity"]["compared"]) == ("at this start", "at this start")
    assert (second["compiled"], second["parity"]["compared"]) == ("at an earlier start", "at an earlier start")
    assert first["parity"] | {"compared": ""} == second["parity"] | {"compared": ""}
    assert len(list(cache.iterdir())) == 1 and cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_number_of_threads_is_that_of_the_model_also_from_the_cache(bundle: Bundle, num_threads: int) -> None:
    for _ in range(2):
        with OpenVinoEngine(bundle, num_threads=num_threads) as engine:
            model = engine._request.get_compiled_model()
            assert model.get_property("INFERENCE_NUM_THREADS") == num_threads
            assert engine.description["num_threads"] == num_threads


def test_ctrl_c_arrives_after_two_engines_at_once(bundle: Bundle) -> None:
    """OpenVINO left a freed signal stack behind: the process ended with SIGSEGV, without a summary."""
    script = """
import os, pathlib, signal, sys
from edgefuse.bundle import open_bundle
from edgefuse_runtime.engines.openvino import OpenVinoEngine, openvino_core
bundle = open_bundle(pathlib.Path(sys.argv[1]))
for _ in range(3):
    with OpenVinoEngine(bundle, num_threads=1) as engine:  # the one before is freed when the name has a new value
        kept = engine._request.get_compiled_model()
del engine, kept
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle.folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize("damage", ["truncated", "changed", "header", "empty", "other key", "not exported"])
def test_a_damaged_compiled_model_is_compiled_again(bundle: Bundle, cache: Path, damage: str) -> None:
    import hashlib

    opened(bundle)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    header, _, blob = content.partition(b"\n")
    value = json.loads(header)
    other_key = {**value, "key": {**value["key"], "cpu": "another"}}
    no_blob = {**value, "sha256": hashlib.sha256(b"no model").hexdigest()}
    file.write_bytes(
        {
            "truncated": content[:-100],
            "changed": content[:-1] + bytes([content[-1] ^ 1]),
            "header": b"{" + content,
            "empty": b"",
            "other key": json.dumps(other_key).encode() + b"\n" + blob,
            "not exported": json.dumps(no_blob).encode() + b"\nno model",
        }[damage]
    )
    with logged() as messages:
        assert opened(bundle)["compiled"] == "at this start"
    assert any(line.startswith("the model is compiled again: ") for line in messages)
    assert file.read_bytes() == content and opened(bundle)["compiled"] == "at an earlier start"


def test_a_compiled_model_that_others_can_write_is_not_used(bundle: Bundle, cache: Path) -> None:
    opened(bundle)
    (file,) = cache.iterdir()
    file.chmod(0o666)
    assert opened(bundle)["compiled"] == "at this start"
    cache.chmod(0o777)
    with logged() as messages:
        assert opened(bundle)["compiled"] == "at this start"
    assert any("writable by others" in line for line in messages)


def test_the_cache_keeps_the_models_that_were_used_last(bundle: Bundle, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for number in range(MAX_FILES + 3):
        (cache / f"{number}.compiled").write_bytes(b"")
    opened(bundle)
    names = {path.name for path in cache.iterdir()}
    assert len(names) == MAX_FILES and any(len(name) > 30 for name in names)


def test_a_crash_while_compiling_does_not_end_the_process(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 crashes on this model with one thread, unless its fused elementwise kernels are off."""
    assert opened(bundle, num_threads=1)["parity"]["failures"] == []
    monkeypatch.setattr(openvino_compiler, "_CODE", "import os; os.abort()")
    with logged() as messages:
        assert opened(bundle, "auto", num_threads=2)["provider"] == "CPUExecutionProvider"
    assert any("crashes (SIGABRT) while it compiles" in line for line in messages)
    assert opened(bundle, "auto", num_threads=1)["compiled"] == "at an earlier start"


def test_a_file_that_openvino_does_not_read(bundle: Bundle) -> None:
    path = bundle.folder / MODEL_NAME
    model = onnx.load(str(path))
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "Guess"
    onnx.save(model, str(path))
    files = {**bundle.manifest.files, MODEL_NAME: FileEntry.of(path, precision="fp32")}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, files=files))
    with pytest.raises(UserError, match=r"OpenVINO \S+ does not load .*model\.onnx: .*Conversion is failed for: Conv"):
        opened(open_bundle(bundle.folder))


def test_a_cache_that_cannot_be_written_is_no_error(bundle: Bundle, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file")
    (bundle.folder / "engines").write_text("a file")
    for _ in range(2):
        description = opened(bundle)
        assert (description["compiled"], description["parity"]["compared"]) == ("at this start", "at this start")


def with_another_bias(bundle: Bundle) -> Bundle:
    """The bundle with a file that is intact, and has other outputs than the model."""
    path = bundle.folder / MODEL_NAME
    model = onnx.load(str(path))
    (bias,) = (one for one in model.graph.initializer if one.name.endswith("auxiliary_heads.rgb.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([3, 0, 0]), bias.name))
    onnx.save(model, str(path))
    files = {**bundle.manifest.files, MODEL_NAME: FileEntry.of(path, precision="fp32")}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, files=files))
    return open_bundle(bundle.folder)


def test_a_wrong_model_runs_on_onnx_runtime_with_the_reason(bundle: Bundle) -> None:
    wrong = with_another_bias(bundle)
    for _ in range(2):  # the second start finds what the first has kept
        with logged() as messages:
            description = opened(wrong, "auto")
        assert description["provider"] == "CPUExecutionProvider"
        assert "stored outputs: probabilities differ by" in description["passed_over"]["openvino"]
        assert any(line.startswith("warning: engine: cpu (") and "OpenVINO's outputs" in line for line in messages)
        with pytest.raises(OutputsDifferError, match="--engine openvino:fp32, or cpu"):
            opened(wrong)


def test_edge_cases_are_compared_with_onnx_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is right on the samples, and wrong without depth."""
    run = OpenVinoEngine.run

    def wrong_without_depth(self: OpenVinoEngine, rgb: Any, depth: Any) -> Any:
        decision = run(self, rgb, depth)
        wrong = decision.probabilities[:, ::-1] if not depth.any() else decision.probabilities
        return dataclasses.replace(decision, probabilities=wrong)

    monkeypatch.setattr(OpenVinoEngine, "run", wrong_without_depth)
    with pytest.raises(OutputsDifferError, match="no depth: probabilities differ by"):
        opened(bundle)


def test_a_cpu_without_bfloat16(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UnsupportedPrecisionError, match=r"no bfloat16 instructions.*openvino:fp32"):
        opened(bundle, "openvino:bf16")
    assert opened(bundle)["precision"] == "fp32"


def test_auto_runs_fp32_on_openvino_until_times_are_measured(bundle: Bundle) -> None:
    description = opened(bundle, "auto")
    assert (description["engine"], description["precision"]) == ("openvino", "fp32")
    assert "no times were measured" in description["reason"] and "bench engine" in description["reason"]
    assert list(description["passed_over"]) == ["tensorrt", "rtx", "cuda"]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"openvino:int8": 1.0}, ("openvino:int8", "openvino:fp32", "cpu")),
        ({"openvino:int8": 3.9}, ("openvino:fp32", "cpu")),  # not worth it
        ({"openvino:int8": 4.6, "openvino:bf16": 2.0}, ("openvino:bf16", "openvino:fp32", "cpu")),
        ({"openvino:fp32": 5.5, "openvino:int8": 6.0}, ("cpu",)),
        (
            {"openvino:int8": 2.0, "openvino:bf16": 1.5, "else": 0.1},
            ("openvino:bf16", "openvino:int8", "openvino:fp32", "cpu"),
        ),
    ],
)
def test_the_order_follows_the_measured_times(bundle: Bundle, times: dict[str, float], words: tuple[str, ...]) -> None:
    all_times = {"cpu": 5.0, "openvino:fp32": 4.0, **times}
    remember_times(bundle, {2: all_times, 1: {"cpu": 1.0}}, date="2026-11-26T00:00:00")
    found = choose(bundle, num_threads=2)
    assert found.words == words
    assert found.reasons[words[0]].startswith("measured here on 2026-11-26 with 2 threads: ")
    assert choose(bundle, num_threads=1).words == ("cpu",)


def test_auto_runs_what_was_fastest(bundle: Bundle) -> None:
    remember_times(bundle, {1: {"cpu": 5.0, "openvino:fp32": 4.0, "openvino:int8": 1.0}}, date="2026-11-26")
    for engine in ("auto", "openvino"):
        description = opened(bundle, engine)
        assert (description["precision"], description["file"]) == ("int8", "model.int8.onnx")
        assert "1.00 ms, ONNX Runtime 5.00 ms" in description["reason"]
    assert opened(bundle, "auto", file=MODEL_NAME)["precision"] == "fp32"
    remember_times(bundle, {1: {"cpu": 1.0, "openvino:fp32": 4.0}}, date="2026-11-26")
    description = opened(bundle, "auto")
    assert description["provider"] == "CPUExecutionProvider" and "1.00 ms" in description["reason"]
    assert opened(bundle, "openvino")["precision"] == "fp32"


@pytest.mark.parametrize("change", ["another CPU", "another file", "no JSON", "writable by others"])
def test_times_of_something_else_are_not_used(bundle: Bundle, change: str) -> None:
    path = remember_times(bundle, {1: {"cpu": 5.0, "openvino:int8": 1.0}}, date="2026-11-26")
    value = json.loads(path.read_text())
    if change == "another CPU":
        value["of"]["cpu"] = "another"
    elif change == "another file":
        value["of"][MODEL_NAME] = "0" * 64
    path.write_text("{" if change == "no JSON" else json.dumps(value))
    path.chmod(0o666 if change == "writable by others" else 0o644)
    found = choose(bundle, num_threads=1)
    assert found.words == ("openvino", "cpu") and found.reasons["openvino"].startswith("FP32: ")


def test_without_the_package(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with logged() as messages:
        description = opened(bundle, "auto")
    assert description["provider"] == "CPUExecutionProvider" and "openvino" in description["passed_over"]["openvino"]
    assert [line for line in messages if line.startswith("warning")] == []
    with pytest.raises(MissingPackageError, match=r"pip install 'edgefuse\[openvino\]'"):
        opened(bundle, "openvino")


def test_a_bundle_of_an_older_version_without_samples_runs_on_onnx_runtime(bundle: Bundle) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != SAMPLES_NAME}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, files=files))
    older = open_bundle(bundle.folder)
    with logged() as messages:
        assert opened(older, "auto")["provider"] == "CPUExecutionProvider"
    assert not any(line.startswith("warning") for line in messages)
    with pytest.raises(UserError, match=r"has no samples\.npz.*Export the run again"):
        opened(older, "openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "openvino:fp16"}, r"openvino:fp32\|bf16\|int8"),
        ({"engine": "cpu:fp32"}, "is unknown"),
        ({"engine": "openvino:"}, "is unknown"),
        ({"engine": "openvino:int8", "file": MODEL_NAME}, "model.onnx is fp32, but int8 was requested"),
    ],
)
def test_values_that_do_not_fit(bundle: Bundle, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_engine(bundle, **options)


def test_int8_without_its_file(bundle: Bundle) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != "model.int8.onnx"}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, files=files))
    with pytest.raises(UserError, match=r"has no model\.int8\.onnx: export it"):
        opened(open_bundle(bundle.folder), "openvino:int8")


def test_runs_reuse_their_inputs_and_return_new_outputs(bundle: Bundle) -> None:
    samples = bundle.samples()
    with OpenVinoEngine(bundle) as engine:
        first = engine.run(samples.rgb[:1], samples.depth[:1])
        kept, place = first.probabilities.copy(), engine._request.get_tensor("rgb").data.ctypes.data
        for i in range(1, 8):
            engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1])
        assert engine._request.get_tensor("rgb").data.ctypes.data == place
        np.testing.assert_array_equal(first.probabilities, kept)
    with pytest.raises(RuntimeError, match="outside of `with`"):
        engine.run(samples.rgb[:1], samples.depth[:1])


@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_several_pairs_in_one_run(trained_run: Path, tmp_path: Path, batch: Any) -> None:
    bundle = export_run(trained_run, tmp_path / "several", batch=batch).bundle
    samples = bundle.samples()
    with open_engine(bundle, engine="openvino") as engine:
        assert engine.batch_size == (None if batch == "dynamic" else 3)
        for num_pairs in (3, 1, 2) if batch == 3 else (1, 5, 2, 5):
            found = engine.run(samples.rgb[:num_pairs], samples.depth[:num_pairs])
            np.testing.assert_allclose(found.probabilities, samples.probabilities[:num_pairs], atol=1e-4)
        with pytest.raises(UserError, match="one run got 0 pairs"):
            engine.run(samples.rgb[:0], samples.depth[:0])


def test_the_export_compares_each_file_on_openvino(all_precisions: ExportSummary) -> None:
    parity = all_precisions.bundle.manifest.parity
    for name, precisions in {
        MODEL_NAME: ["fp32", "bf16"] if HAS_BF16 else ["fp32"],
        "model.int8.onnx": ["int8"],
    }.items():
        found = parity[name]["openvino"]
        assert list(found) == precisions
        assert all(one["failures"] == [] and one["together"]["num_samples"] > 27 for one in found.values())
    assert "openvino" not in parity["model.fp16.onnx"]


def test_a_cpu_is_known_by_its_instructions(tmp_path: Path) -> None:
    def id_of(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return cpu_id(tmp_path / "cpuinfo")

    intel = id_of("processor\t: 0\nmodel name\t: Some (R) CPU @ 2\nflags\t: sse avx\n\nprocessor\t: 1\nflags\t: sse\n")
    assert intel.startswith("Some_R_CPU_2-") and intel == id_of("model name : Some (R) CPU @ 2\nflags : avx sse\n")
    assert intel != id_of("model name : Some (R) CPU @ 2\nflags : avx sse avx512_bf16\n")
    assert id_of("Model : Jetson Orin\nFeatures : fp asimd\n").startswith("Jetson_Orin-")
    assert cpu_id(tmp_path / "missing") and "/" not in cpu_id()
