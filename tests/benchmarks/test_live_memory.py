"""The live loop allocates no image for a frame, its memory does not grow, and the benchmark's goals say so."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from edgefuse import framing
from edgefuse_benchmarks.suites.live_goals import Goal
from edgefuse_benchmarks.suites.live_memory import MAX_GROWTH_MB, MAX_PEAK_BYTES, LoopMemory, measure_memory
from edgefuse_benchmarks.suites.live_passes import Source
from edgefuse_runtime.engines import open_engine
from toy_bundle import make_toy_bundle

SIZE = 128
SOURCE = Source(camera="synthetic", roi="whole", trained_on=None)


def _measured(folder: Path) -> LoopMemory:
    with open_engine(make_toy_bundle(folder / "bundle", size=SIZE)) as engine:
        return measure_memory(engine, SOURCE, num_frames=20_000)


@pytest.mark.slow
def test_memory_is_flat_over_20000_frames_without_an_image_for_each(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # without the memory of other tests
        found = pool.submit(_measured, tmp_path).result()
    assert found.peak_bytes < MAX_PEAK_BYTES < 2 * SIZE * SIZE  # the smallest image of a frame is its framed depth
    assert found.growth_mb < MAX_GROWTH_MB, found
    assert all(goal.is_met for goal in found.goals())


def test_an_image_that_is_allocated_for_each_frame_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = framing.fit

    def fit_without_buffers(*images: Any, out: object, **options: Any) -> Any:
        return fit(*images, **options)

    monkeypatch.setattr(framing, "fit", fit_without_buffers)
    with open_engine(make_toy_bundle(tmp_path / "bundle", size=SIZE)) as engine:
        found = measure_memory(engine, SOURCE, num_frames=100)
    assert found.peak_bytes > 5 * SIZE * SIZE
    assert not found.goals()[0].is_met


def test_a_goal_says_whether_it_is_met() -> None:
    most = Goal(what="latency", measured=1.2, limit=1.1, is_most=True)
    least = Goal(what="rate", measured=0.951, limit=0.95, is_most=False, unit=" x")
    assert most.line() == "goal MISSED: latency 1.2, at most 1.1 was wanted"
    assert least.line() == "goal met: rate 0.951 x, at least 0.95 x was wanted"
    assert most.to_json()["is_met"] is False
