"""TensorRT from bundle to answer on a real GPU: build, prove, load, run by a CUDA graph."""

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
from edgefuse_runtime.engines.engine_cache import PlanError
from edgefuse_runtime.engines.gpu_memory import GpuMemory
from edgefuse_runtime.engines.pycuda_memory import open_gpu_memory
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from logs import logged

if TYPE_CHECKING:
    from edgefuse.bundle import Samples

pytestmark = [pytest.mark.tensorrt, pytest.mark.usefixtures("gpu", "pycuda", "tensorrt")]


BuildOnce = Callable[[str], Bundle]
KINDS = {"fp16": "half", "int8": "int8", "fp32": "float"}


def test_the_build_says_what_it_proved(
    build_once: BuildOnce, precision: str, tensorrt: str, record_property: Record
) -> None:
    built = build_once(precision)
    (name,) = built.manifest.engines
    details = built.manifest.engines[name]["details"]
    record_property("tensorrt", tensorrt)
    for key, value in details.items():
        record_property(key, value)
    assert details["layers"][KINDS[precision]] >= 1
    assert name in built.manifest.parity


def test_the_answers_are_the_stored_ones(
    build_once: BuildOnce, precision: str, samples: Samples, record_property: Record
) -> None:
    with open_engine(build_once(precision), engine="tensorrt") as engine:
        assert engine.description["launch"] == "CUDA graph"
        assert engine.description["precision"] == precision
        check_engine(engine, samples, precision=precision, record=record_property)


def test_auto_takes_it(built: Bundle) -> None:
    with logged() as said, open_engine(built) as engine:
        assert engine.description["engine"] == "tensorrt"
    assert said == ["engine: tensorrt"]


def test_plain_launches_give_the_graphs_answers(built: Bundle, samples: Samples) -> None:
    class WithoutGraphs:
        def __getattr__(self, name: str) -> object:
            return getattr(memory, name)

        def __enter__(self) -> object:
            memory.__enter__()
            return self

        def __exit__(self, *exc: object) -> None:
            memory.__exit__(None, None, None)

        def capture(self, stream: object, work: object) -> object:
            from edgefuse_runtime.engines.gpu_memory import CaptureError

            raise CaptureError("none in this test")

    rgb, depth = samples.rgb[:1], samples.depth[:1]
    with open_engine(built, engine="tensorrt") as engine:
        replayed = engine.run(rgb, depth)
    memory: GpuMemory = open_gpu_memory()
    with TensorRTEngine(built, open_memory=WithoutGraphs) as engine:  # type: ignore[arg-type]
        assert engine.description["launch"].startswith("plain")
        plain = engine.run(rgb, depth)
    np.testing.assert_allclose(replayed.probabilities, plain.probabilities, atol=1e-3)


def test_a_flipped_byte_is_refused(built: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(built.folder, folder)
    path = folder / next(iter(built.manifest.engines))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with (
        pytest.raises(PlanError, match="is not the plan that was built"),
        open_engine(open_bundle(folder), engine="tensorrt"),
    ):
        pass
