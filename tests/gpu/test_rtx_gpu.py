"""TensorRT-RTX from bundle to answer on a real GPU: build, first and second load, its CUDA graph, its compiled kernels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gpu_figures import Record, check_engine

from edgefuse.bundle import Bundle, open_bundle
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.build_command import sm_name
from edgefuse_runtime.engines.engine_cache import PlanError
from edgefuse_runtime.engines.rtx_runtime import RtxRuntime
from logs import logged

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "pycuda", "rtx")]

BuildOnce = Callable[[str], Bundle]


@pytest.fixture
def copied(built_for_rtx: Bundle, tmp_path: Path) -> Bundle:
    """The bundle with a plan that no GPU has loaded yet."""
    folder = tmp_path / "bundle"
    shutil.copytree(built_for_rtx.folder, folder, ignore=shutil.ignore_patterns("*.kernels", "*.checked.json"))
    return open_bundle(folder)


def test_the_answers_are_the_stored_ones(
    build_for_rtx_once: BuildOnce, precision: str, samples: Samples, record_property: Record
) -> None:
    with open_engine(build_for_rtx_once(precision), engine="rtx") as engine:
        assert engine.description["launch"] == "CUDA graph of TensorRT-RTX"
        assert engine.description["precision"] == precision
        check_engine(engine, samples, precision=precision, record=record_property)


def test_the_second_start_neither_compiles_nor_compares(copied: Bundle, record_property: Record) -> None:
    with open_engine(copied, engine="rtx") as engine:
        first = engine.description
    (kernels,) = (copied.folder / "engines").glob("*.kernels")
    written = kernels.stat().st_mtime_ns
    with logged() as messages, open_engine(copied, engine="rtx") as engine:
        second = engine.description
    record_property("kernels_bytes", kernels.stat().st_size)
    record_property("first_start_ms", first["start_ms"])
    record_property("second_start_ms", second["start_ms"])
    assert (first["parity"]["compared"], second["parity"]["compared"]) == ("at this load", "at an earlier load")
    assert second["start_ms"] < first["start_ms"]
    assert not [line for line in messages if "compiles" in line or line.startswith("warning")]
    assert kernels.stat().st_mtime_ns == written


def test_damaged_kernels_are_compiled_again(copied: Bundle) -> None:
    with open_engine(copied, engine="rtx"):
        pass
    (kernels,) = (copied.folder / "engines").glob("*.kernels")
    kernels.write_bytes(b"\0" * 1000)
    with logged() as messages, open_engine(copied, engine="rtx"):
        pass
    assert any(line.startswith("warning: the compiled kernels are not used") for line in messages)
    assert kernels.stat().st_size > 1000


def test_plain_launches_give_the_graphs_answers(
    copied: Bundle, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, depth = samples.rgb[:1], samples.depth[:1]
    with open_engine(copied, engine="rtx") as engine:
        replayed = engine.run(rgb, depth)
    create = RtxRuntime.create_context
    monkeypatch.setattr(
        RtxRuntime, "create_context", lambda self, *, graph: None if graph else create(self, graph=False)
    )
    with open_engine(copied, engine="rtx") as engine:
        assert engine.description["launch"].startswith("plain")
        plain = engine.run(rgb, depth)
    np.testing.assert_allclose(replayed.probabilities, plain.probabilities, atol=1e-3)


def test_a_replayed_graph_sees_the_new_frame(built_for_rtx: Bundle, samples: Samples) -> None:
    with open_engine(built_for_rtx, engine="rtx") as engine:
        there = [engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1]).probabilities for i in range(4)]
        back = [engine.run(samples.rgb[i : i + 1], samples.depth[i : i + 1]).probabilities for i in (3, 2, 1, 0)]
    np.testing.assert_allclose(np.concatenate(there), np.concatenate(back[::-1]), atol=1e-6)


def test_auto_takes_it(built_for_rtx: Bundle) -> None:
    with open_engine(built_for_rtx) as engine:
        assert engine.description["engine"] == "rtx" and list(engine.description["passed_over"]) == ["tensorrt"]


def test_a_plan_for_another_gpu_is_refused(bundle: Bundle, rtx: str, tmp_path: Path) -> None:
    from edgefuse_export.tensorrt.build import BuildOptions, build_engine
    from edgefuse_runtime.engines.cuda_device import current_gpu

    here = current_gpu().compute_capability
    other = "sm86" if here != "8.6" else "sm89"
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    built = build_engine(folder, BuildOptions(engine="rtx", targets=(other,))).bundle
    with (
        pytest.raises(PlanError, match=f"GPU: '{other}' -> '{sm_name(here)}'.*--for {sm_name(here)}"),
        open_engine(built, engine="rtx"),
    ):
        pass
