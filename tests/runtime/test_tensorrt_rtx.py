"""TensorRT-RTX in the engine of TensorRT, on fakes: choice of the plan, compiled kernels, CUDA graphs, outputs of the first load."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_scenes import draw_pair
from tensorrt_scenes import COMPARED, bundle_for_rtx, bundle_with_plan

from edgefuse import framing
from edgefuse.bundle import Bundle, open_bundle
from edgefuse_export.tensorrt.engine_cache_writer import sweep
from edgefuse_runtime.engines.auto_engine import AutoEngine
from edgefuse_runtime.engines.engine_cache import NoPlanError, PlanError, look_up, plan_records
from edgefuse_runtime.engines.first_load import OutputsDifferError
from edgefuse_runtime.engines.gpu_memory import GpuOutOfMemoryError
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from edgefuse_runtime.engines.tensorrt_library import RTX
from fake_rtx import VERSION, FakeRTX
from host_memory import HostMemory
from logs import logged
from toy_bundle import toy_answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRTX:
    stand_in = FakeRTX()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in.module)
    return stand_in


@pytest.fixture
def planned(tmp_path: Path, fake: FakeRTX) -> Bundle:
    return bundle_for_rtx(tmp_path / "bundle", fake)


def framed(label: str) -> tuple[np.ndarray, np.ndarray]:
    pair = framing.fit(*draw_pair(label), size=32)
    return pair.rgb[np.newaxis], pair.depth[np.newaxis]


def engine_for(bundle: Bundle, fake: FakeRTX, *, gpu: str = "8.9", **options: Any) -> TensorRTEngine:
    memory = HostMemory(fake=fake, compute_capability=gpu)
    return TensorRTEngine(bundle, product=RTX, open_memory=lambda: memory, **options)


def open_fails(bundle: Bundle, fake: FakeRTX, error: type[Exception], **options: Any) -> str:
    with pytest.raises(error) as caught, engine_for(bundle, fake, **options):
        pass
    return str(caught.value)


# The plan


@pytest.mark.parametrize("gpu", ["8.6", "8.9"])
def test_one_plan_runs_on_each_gpu_that_it_was_built_for(planned: Bundle, fake: FakeRTX, gpu: str) -> None:
    with engine_for(planned, fake, gpu=gpu) as engine:
        for label in ("near", "far"):
            rgb, depth = framed(label)
            probabilities, gate = toy_answer(rgb[0], depth[0])
            decision = engine.run(rgb, depth)
            np.testing.assert_allclose(decision.probabilities[0], probabilities, atol=1e-5)
            np.testing.assert_allclose(decision.gate, gate, atol=1e-5)
        described = engine.description
    assert (described["engine"], described["provider"]) == ("rtx", f"TensorRT-RTX {VERSION}")
    assert (described["compute_capability"], described["device"]) == (gpu, fake.device)
    assert described["launch"] == "CUDA graph of TensorRT-RTX"


def test_a_plan_for_another_gpu_names_both_and_the_command(tmp_path: Path, fake: FakeRTX) -> None:
    planned = bundle_for_rtx(tmp_path / "bundle", fake, targets="8.6")
    message = open_fails(planned, fake, PlanError, gpu="12.0")
    assert "GPU: 'sm86' -> 'sm120'" in message
    assert message.endswith(f"edgefuse build {planned.folder} --engine rtx --for sm120 --precision fp16")


@pytest.mark.parametrize("built_by", ["1.6.0.34", "1.8.0.2"])
def test_a_plan_of_another_version_names_both_and_the_command(tmp_path: Path, fake: FakeRTX, built_by: str) -> None:
    planned = bundle_for_rtx(tmp_path / "bundle", FakeRTX(version=built_by))
    message = open_fails(planned, fake, PlanError)
    assert f"TensorRT-RTX version: '{built_by}' -> '{VERSION}'" in message
    assert "edgefuse build" in message and "--engine rtx --for sm89" in message


def test_a_plan_for_tensorrt_is_none_for_tensorrt_rtx(tmp_path: Path, fake: FakeRTX) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake, key_changes={"compute_capability": "8.9"})
    message = open_fails(planned, fake, NoPlanError)
    assert message.endswith(
        f"it has no TensorRT-RTX engine. Build one: edgefuse build {planned.folder} --engine rtx --precision fp16"
    )
    message = open_fails(planned, fake, NoPlanError, precision="int8")
    assert "it has no int8 engine for TensorRT-RTX" in message


def test_a_build_for_some_of_the_gpus_of_a_plan_finds_it(planned: Bundle) -> None:
    from dataclasses import replace

    (record,) = plan_records(planned)
    assert look_up(planned, replace(record.key, compute_capability="8.9")).record == record
    assert (
        "GPU: 'sm86, sm89' -> 'sm89, sm120'"
        in look_up(planned, replace(record.key, compute_capability="8.9, 12.0")).reason
    )
    for_tensorrt = replace(record.key, engine="tensorrt", compute_capability="8.9")
    assert look_up(planned, for_tensorrt).reason == "the bundle has no fp16 engine yet"


def test_a_damaged_plan_has_the_command(planned: Bundle, fake: FakeRTX) -> None:
    path = planned.folder / next(iter(planned.manifest.engines))
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert "--engine rtx --for sm86,sm89 --precision fp16" in open_fails(planned, fake, PlanError)


# Compiled kernels


def kernels_of(bundle: Bundle) -> list[Path]:
    return sorted((bundle.folder / "engines").glob("*.kernels"))


def test_the_second_start_compiles_nothing(planned: Bundle, fake: FakeRTX) -> None:
    with logged() as first, engine_for(planned, fake):
        pass
    assert len(fake.compiled) == 1 and any("compiles the kernels" in line for line in first)
    (path,) = kernels_of(planned)
    assert path.name.startswith(f"{Path(next(iter(planned.manifest.engines))).stem}.Fake_RTX_4090-sm89")
    assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    with logged() as second, engine_for(planned, fake) as engine:
        engine.run(*framed("near"))
    assert len(fake.compiled) == 1 and second == []


def test_each_gpu_has_its_kernels(planned: Bundle, fake: FakeRTX) -> None:
    for device, gpu in (("Fake RTX 3080", "8.6"), ("Fake RTX 4090", "8.9")):
        fake.device = device
        with engine_for(planned, fake, gpu=gpu):
            pass
    assert len(kernels_of(planned)) == len(fake.compiled) == 2


@pytest.mark.parametrize("damage", ["bytes", "another version", "mode", "a folder"])
def test_kernels_that_cannot_be_used_are_compiled_again(planned: Bundle, fake: FakeRTX, damage: str) -> None:
    with engine_for(planned, fake):
        pass
    (path,) = kernels_of(planned)
    if damage == "bytes":
        path.write_bytes(b"\0" * 100)
    elif damage == "another version":
        path.write_bytes(path.read_bytes().replace(VERSION.encode(), b"1.6.0.1"))
    elif damage == "mode":
        path.chmod(0o666)
    else:
        path.unlink()
        path.mkdir()
    with logged() as messages, engine_for(planned, fake) as engine:
        assert engine.run(*framed("far")).is_finite
    assert any(line.startswith("warning: the compiled kernels are not used") for line in messages)
    assert len(fake.compiled) == 2
    if damage != "a folder":
        assert path.stat().st_mode & 0o022 == 0 and VERSION in path.read_text()
        with engine_for(planned, fake):
            pass
        assert len(fake.compiled) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_bundle_that_cannot_be_written_runs_without_the_file(fake: FakeRTX) -> None:
    place = Path(tempfile.mkdtemp())
    try:
        planned = bundle_for_rtx(place / "bundle", fake)
        with engine_for(planned, fake):  # imports what another user may not read
            pass
        for path in (*kernels_of(planned), *checked_of(planned)):
            path.unlink()
        for path in (place, planned.folder, *planned.folder.rglob("*")):
            path.chmod(0o755)
        os.seteuid(12345)
        try:
            with logged() as messages, engine_for(planned, fake) as engine:
                assert engine.run(*framed("far")).is_finite
        finally:
            os.seteuid(0)
        assert any("each start compiles the kernels again" in line and "Permission denied" in line for line in messages)
        assert any("each start compares the outputs again" in line for line in messages)
        assert kernels_of(planned) == [] and not any(line.startswith("warning") for line in messages)
    finally:
        shutil.rmtree(place)


def test_a_build_removes_the_kernels_of_plans_that_it_replaced(planned: Bundle, fake: FakeRTX) -> None:
    with engine_for(planned, fake):
        pass
    (path,) = kernels_of(planned)
    of_older = path.rename(path.with_name(re.sub(r"[0-9a-f]{12}\.", f"{'0' * 12}.", path.name)))
    with engine_for(planned, fake):
        pass
    assert len(kernels_of(planned)) == 2
    sweep(planned)
    assert len(kernels_of(planned)) == len(checked_of(planned)) == 1 and not of_older.exists()


# CUDA graphs


@pytest.mark.parametrize(("graphs", "words"), [("fail", "CUDA_ERROR_NOT_SUPPORTED"), ("stale", "output differs")])
def test_a_graph_that_does_not_work_is_switched_off(
    planned: Bundle, fake: FakeRTX, graphs: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.graphs = graphs
    with caplog.at_level(logging.WARNING), engine_for(planned, fake) as engine:
        assert engine.description["launch"].startswith("plain (") and words in engine.description["launch"]
        rgb, depth = framed("near")
        np.testing.assert_allclose(engine.run(rgb, depth).probabilities[0], toy_answer(rgb[0], depth[0])[0], atol=1e-5)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("TensorRT-RTX runs without a CUDA graph")


def test_the_librarys_graph_replaces_the_engines_own(planned: Bundle, fake: FakeRTX) -> None:
    memory = HostMemory(fake=fake, compute_capability="8.9")
    with TensorRTEngine(planned, product=RTX, open_memory=lambda: memory) as engine:
        engine.run(*framed("near"))
    assert memory.num_launches == 0


def test_out_of_gpu_memory_has_a_next_step(planned: Bundle, fake: FakeRTX) -> None:
    fake.faults.context_returns_none = True
    assert "--workspace-mib" in open_fails(planned, fake, GpuOutOfMemoryError)


# Outputs at the first load


def checked_of(bundle: Bundle) -> list[Path]:
    return sorted((bundle.folder / "engines").glob("*.checked.json"))


def test_the_first_load_compares_the_outputs_and_the_second_does_not(planned: Bundle, fake: FakeRTX) -> None:
    with logged() as messages, engine_for(planned, fake) as engine:
        parity = engine.description["parity"]
    assert any("is new on this GPU: comparing its outputs" in line for line in messages)
    assert parity["compared"] == "at this load" and parity["num_frames"] == 16 and parity["top1_flips"] == 0
    assert 0 <= parity["max_probability_difference"] < 1e-4
    (path,) = checked_of(planned)
    assert json.loads(path.read_text())["library"] == f"TensorRT-RTX {VERSION}"
    with logged() as messages, engine_for(planned, fake) as engine:
        assert engine.description["parity"] == {**parity, "compared": "at an earlier load"}
    assert messages == []


def test_a_comparison_at_the_build_was_on_one_gpu_only(tmp_path: Path, fake: FakeRTX) -> None:
    planned = bundle_for_rtx(tmp_path / "bundle", fake, details=COMPARED)
    for device in ("Fake RTX 4070", "Fake RTX 4090"):
        fake.device = device
        with engine_for(planned, fake) as engine:
            assert engine.description["parity"]["compared"] == "at this load"
    assert len(checked_of(planned)) == 2


@pytest.mark.parametrize("change", ["plan", "library", "writable", "damaged", "a folder"])
def test_the_comparison_is_repeated_for_anything_else(planned: Bundle, fake: FakeRTX, change: str) -> None:
    with engine_for(planned, fake):
        pass
    (path,) = checked_of(planned)
    value = json.loads(path.read_text())
    if change == "writable":
        path.chmod(0o666)
    elif change == "damaged":
        path.write_text("{")
    elif change == "a folder":
        path.unlink()
        path.mkdir()
    else:
        field = {"plan": "plan_sha256", "library": "library"}[change]
        path.write_text(json.dumps({**value, field: "another"}))
    with engine_for(planned, fake) as engine:
        assert engine.description["parity"]["compared"] == "at this load"


def test_links_beside_a_plan_are_replaced_and_their_targets_stay(
    planned: Bundle, fake: FakeRTX, tmp_path: Path
) -> None:
    with engine_for(planned, fake):
        pass
    paths = [*checked_of(planned), *kernels_of(planned)]
    for path in paths:
        path.unlink()
        path.symlink_to(tmp_path / f"elsewhere{path.suffix}")
    (tmp_path / "elsewhere.json").write_text("mine")
    with engine_for(planned, fake) as engine:
        assert engine.description["parity"]["compared"] == "at this load"
    assert (tmp_path / "elsewhere.json").read_text() == "mine" and not (tmp_path / "elsewhere.kernels").exists()
    assert len(paths) == 2 and all(path.is_file() and not path.is_symlink() for path in paths)


def test_other_outputs_are_refused_at_every_load(planned: Bundle, fake: FakeRTX) -> None:
    fake.faults.answers_off = 0.05
    for _ in range(2):
        message = open_fails(planned, fake, OutputsDifferError)
    assert "stored outputs: probabilities differ by 0.05, at most 0.02 is allowed" in message
    assert "--engine rtx --for sm86,sm89 --precision fp16 --force" in message and checked_of(planned) == []


def test_auto_passes_over_wrong_outputs_with_a_warning(
    planned: Bundle, fake: FakeRTX, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.faults.answers_off = 0.05
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    candidates = {
        "tensorrt": TensorRTEngine(planned),
        "rtx": engine_for(planned, fake),
        "cpu": OnnxRuntimeEngine(planned),
    }
    with logged() as messages, AutoEngine(planned, candidates=candidates) as engine:
        assert "other outputs on this GPU" in engine.description["passed_over"]["rtx"]
    assert messages[-1].startswith("warning: engine: cpu (tensorrt: ") and "other outputs" in messages[-1]


def test_without_a_plan_auto_passes_it_over_without_a_warning(tmp_path: Path, fake: FakeRTX) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake, details=COMPARED)
    candidates = {"rtx": engine_for(planned, fake), "cpu": OnnxRuntimeEngine(planned)}
    with logged() as messages, AutoEngine(planned, candidates=candidates):
        pass
    (line,) = messages
    assert line.startswith("engine: cpu (rtx: ") and "it has no TensorRT-RTX engine" in line


def test_a_plan_without_samples_cannot_be_checked(tmp_path: Path, fake: FakeRTX) -> None:
    planned = bundle_for_rtx(tmp_path / "bundle", fake, has_samples=False)
    assert "samples.npz" in open_fails(open_bundle(planned.folder), fake, ValueError)
