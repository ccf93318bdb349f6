"""The time limit and the failures of `python -m edgefuse_benchmarks.gpu_core`. Its measurements need a GPU."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from edgefuse_benchmarks.gpu_core import NO_GPU, Part, Results, main, measure_parts, parts
from edgefuse_benchmarks.report import Group
from edgefuse_benchmarks.suites.core_gpu import Limits

GROUP = Group(scope="core", name="measured", series=())


def fails() -> Any:
    raise RuntimeError("out of registers")


def test_a_part_that_fails_or_has_no_time_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    results = Results()
    listed = [
        Part(name="fails", bench=fails, expected_s=1),
        Part(name="long", bench=fails, expected_s=1000),
        Part(name="works", bench=lambda: (GROUP, [{"d": 1}]), expected_s=1),
    ]
    measure_parts(listed, results, end_s=time.perf_counter() + 60)
    assert results.groups == [GROUP] and results.parity == [{"d": 1}]
    assert set(results.failures) == {"fails", "long"}
    assert results.failures["fails"] == "RuntimeError: out of registers"  # no paths of this machine
    assert "in fails" in capsys.readouterr().err
    assert results.failures["long"] == "no time left for about 1000 s"
    assert set(results.seconds) == {"fails", "works"}


def test_without_triton_only_the_streams_are_measured() -> None:
    limits = Limits(memory_gb_per_s=3000, l2_gb_per_s=5000, l2_bytes=50 << 20)
    names = [part.name for part in parts(limits)]
    assert len(set(names)) == len(names)
    assert names[0] == "gated, d=512, batch 1, float32"
    assert [part.name for part in parts(None)] == ["two streams, mobilenet_v2", "two streams, resnet18"]


def test_the_limit_uses_the_rate_of_the_place_where_the_weights_are() -> None:
    limits = Limits(memory_gb_per_s=2000, l2_gb_per_s=5000, l2_bytes=1000)
    assert limits.read_ns(500) == pytest.approx(0.1)
    assert limits.read_ns(501) == pytest.approx(0.2505)
    assert limits.read_ns(500, cold=True) == pytest.approx(0.25)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out")]) == NO_GPU
    assert not (tmp_path / "out").exists()
    assert "nothing was measured" in capsys.readouterr().err
