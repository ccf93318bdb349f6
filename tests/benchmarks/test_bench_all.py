"""All benchmarks in one call: inputs, what happens if one fails, and the folder with its report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_bench_report import REPORTS

from edgefuse.errors import UserError
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Report
from edgefuse_benchmarks.reporting.saved import read_report
from edgefuse_benchmarks.suites import all_suites
from edgefuse_benchmarks.suites.all_suites import Inputs, bench_all, demo_inputs


def test_the_demo_is_measured_by_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .*bundle here: run make demo first"):
        demo_inputs(tmp_path)
    (tmp_path / "bundle").mkdir()
    assert demo_inputs(tmp_path) == Inputs(bundle=tmp_path / "bundle")
    (tmp_path / "data").mkdir()
    (tmp_path / "live.db3").touch()
    (tmp_path / "live.json").touch()
    assert demo_inputs(tmp_path) == Inputs(
        bundle=tmp_path / "bundle",
        camera=str(tmp_path / "live.db3"),
        roi=str(tmp_path / "live.json"),
        data=tmp_path / "data",
    )


def finished(name: str) -> Report:
    return replace(REPORTS[name], machine=machine.describe())


def fail(error: Exception) -> Report:
    raise error


def test_what_fails_is_left_out_with_its_reason(
    bench_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites: dict[str, Any] = {
        "core": partial(finished, "core"),
        "engine": partial(fail, UserError("no such engine")),
        "live": partial(finished, "live"),
        "train": partial(fail, RuntimeError("out of memory")),
    }
    monkeypatch.setattr(all_suites, "_suites", lambda inputs, *, quick: suites)
    steps: list[Any] = []
    results = bench_all(
        Inputs(bundle=bench_bundle),
        out=tmp_path,
        quick=True,
        progress=lambda *step, stage: steps.append((*step, stage)),
    )
    assert results.failed == {"engine": "no such engine", "train": "RuntimeError: out of memory"}
    assert list(results.seconds) == ["core", "live"] and results.folder.parent == tmp_path
    kept = sorted(results.folder.iterdir())
    assert sorted(path.suffix for path in kept) == [".html", ".json", ".json", ".png", ".png"]
    for path in kept:
        if path.suffix == ".json":
            assert read_report(path).machine["during"]["seconds"] >= 0
    assert steps[0] == (0, 4, "core") and steps[-1] == (4, 4, "report")
    monkeypatch.setattr(all_suites, "_suites", lambda inputs, *, quick: {"engine": suites["engine"]})
    with pytest.raises(UserError, match="no benchmark has a result: engine: no such engine"):
        bench_all(Inputs(bundle=bench_bundle), out=tmp_path / "none", quick=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_bundle_alone_is_enough(bench_bundle: Path, tmp_path: Path) -> None:
    results = bench_all(Inputs(bundle=bench_bundle), out=tmp_path, quick=True)
    assert results.failed == {}
    assert list(results.seconds) == ["core", "engine", "preprocess", "live", "train", "peers"]
    page = results.page.read_text()
    assert all(
        title in page
        for title in (
            "Fusion core alone",
            "Engine",
            "Preparation of frames",
            "Live: ",
            "Training",
            "other ways to serve",
        )
    )
