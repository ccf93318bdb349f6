"""edgefuse and other ways to serve the same network: real libraries on a real run and its bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bench_engine import make_run

from edgefuse.bundle import open_bundle
from edgefuse.contract import bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.measure import Plan
from edgefuse_benchmarks.peers import bench
from edgefuse_benchmarks.peers.bench import ALONE, bench_peers
from edgefuse_benchmarks.peers.peer import INSTALL, Peer, Source
from edgefuse_benchmarks.peers.ways import COMPILED, SERVED, ULTRALYTICS, WAYS, Way
from edgefuse_benchmarks.report import save
from edgefuse_benchmarks.reporting.compare import compare
from edgefuse_benchmarks.reporting.saved import read_report
from edgefuse_benchmarks.suites.usual_loop import usual_loop

WEIGHT_SCALE = 2.0
"""Swapped channels of RGB then change the probabilities by more than 0.01."""
PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=4, max_rounds=4)
OURS = "edgefuse, ONNX Runtime"
LOOP, EAGER, PIPELINE = "OpenCV + ONNX Runtime", "torch eager + torchvision", "OpenVINO preprocessing, fp32"


@pytest.fixture(scope="module")
def run_and_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from edgefuse_export.onnx.export import export_run

    root = tmp_path_factory.mktemp("peers")
    run = make_run(root / "run", seed=0, weight_scale=WEIGHT_SCALE)
    return run, export_run(run, root / "bundle").bundle.folder


@pytest.fixture
def source(run_and_bundle: tuple[Path, Path]) -> Source:
    run, bundle = run_and_bundle
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3000, (4, 32, 32), dtype=np.uint16)
    rgb = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return Source(bundle=open_bundle(bundle), run_folder=run, rgb=rgb, depth=bytes_from_codes(codes))


def test_every_way_has_the_outputs_of_the_model_before_it_is_timed(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    run, folder = run_and_bundle
    report = bench_peers(folder, camera=str(colour_and_range), run_folder=run, with_slow=False, plan=PLAN)
    whole, around = report.groups
    names = [one.name for one in whole.series]
    assert {OURS, "edgefuse, OpenVINO fp32", LOOP, EAGER, PIPELINE} <= {*names}
    assert {one["reference"] for one in report.parity} == {OURS}
    exact = {one["candidate"]: one["together"] for one in report.parity if "together" in one}
    assert all(exact[name]["max_probability_difference"] < 1e-4 for name in (LOOP, EAGER, PIPELINE))
    assert whole.facts["ours"] == "edgefuse, OpenVINO fp32"
    assert {one.denominator for one in whole.ratios} == {whole.facts["ours"]}
    assert [one.numerator for one in whole.ratios] == [name for name in names if name != whole.facts["ours"]]
    assert all(one.turns_ns.shape == (4, 2) for group in report.groups for one in group.series)
    assert whole.facts["not_measured"][COMPILED] == "left out by --quick"
    assert f"{EAGER}{ALONE}" in [one.name for one in around.series]
    assert {LOOP, EAGER, OURS} <= {*around.facts["around_ms"]} and PIPELINE not in around.facts["around_ms"]
    again = read_report(save(report, tmp_path))
    assert {row.ratio for row in compare(again, again).rows} == {1.0}


def test_a_missing_package_and_a_missing_run_are_named(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("openvino", "ultralytics", "litserve"):
        monkeypatch.setitem(sys.modules, name, None)
    report = bench_peers(run_and_bundle[1], camera=str(colour_and_range), plan=PLAN)
    group = report.groups[0]
    assert [one.name for one in group.series] == [OURS, LOOP] and group.facts["ours"] == OURS
    reasons = group.facts["not_measured"]
    assert INSTALL in reasons[ULTRALYTICS] and INSTALL in reasons[SERVED]
    assert "edgefuse[openvino]" in reasons[PIPELINE] and "--run RUN" in reasons[EAGER]
    assert not any("TensorRT" in name or "CUDA" in name for name in reasons)


def test_a_folder_that_is_no_run_is_refused_first(run_and_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        bench_peers(run_and_bundle[1], run_folder=tmp_path, plan=PLAN)


def test_another_run_is_not_measured(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "WAYS", {name: WAYS[name] for name in (LOOP, EAGER)})
    other = make_run(tmp_path / "other", seed=1)
    report = bench_peers(run_and_bundle[1], camera=str(colour_and_range), run_folder=other, plan=PLAN)
    names = [one.name for one in report.groups[0].series]
    assert LOOP in names and EAGER not in names
    assert "its outputs differ from those of" in report.groups[0].facts["not_measured"][EAGER]


class FailingWay(Way):
    """Opens, and fails on the first frame."""

    def open(self, source: Source) -> AbstractContextManager[Peer]:
        def classify(rgb: Any, depth: Any) -> Any:
            raise OSError("no more of something")

        return nullcontext(Peer(classify=classify))


def test_a_failing_library_costs_no_other_result(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "WAYS", {"other": FailingWay("", ""), LOOP: WAYS[LOOP]})
    report = bench_peers(run_and_bundle[1], camera=str(colour_and_range), plan=PLAN)
    assert report.groups[0].facts["not_measured"]["other"] == "OSError: no more of something"
    assert LOOP in [one.name for one in report.groups[0].series]


@pytest.mark.parametrize("name", [LOOP, EAGER, PIPELINE])
def test_each_way_sees_the_centre_square_and_nothing_else(name: str, source: Source) -> None:
    if name == PIPELINE:
        pytest.importorskip("openvino")
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)
    depth = rng.integers(0, 3000, (48, 80), dtype=np.uint16)
    sides, middle = (rgb.copy(), depth.copy()), (rgb.copy(), depth.copy())
    for array in sides:
        array[:, :16], array[:, 64:] = 0, 0
    for array in middle:
        array[:, 16:20] = 0
    with WAYS[name].open(source) as peer:
        assert peer.outputs is not None
        found, same, other = (
            np.array(peer.outputs(peer.classify(*frame)).probabilities) for frame in ((rgb, depth), sides, middle)
        )
    assert np.array_equal(found, same) and not np.array_equal(found, other)


@pytest.mark.slow
def test_the_compiled_network_has_the_outputs_of_the_model(source: Source) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    check_against_the_loop(WAYS[COMPILED], source)


@pytest.mark.slow
def test_a_server_has_the_outputs_of_the_model_and_ends_with_its_processes(source: Source) -> None:
    pytest.importorskip("litserve", exc_type=ImportError)
    check_against_the_loop(WAYS[SERVED], source)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [line for line in listed.splitlines() if str(source.bundle.folder) in line]


@pytest.mark.slow
def test_ultralytics_runs_without_output_and_keeps_one_thread(
    source: Source, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ultralytics", exc_type=ImportError)
    import torch

    rgb = np.zeros((48, 64, 3), np.uint8)
    with WAYS[ULTRALYTICS].open(source) as peer:
        assert isinstance(peer.classify(rgb, np.zeros((48, 64), np.uint16)), int)
        assert peer.outputs is None and peer.network is not None and peer.network() is not None
        assert torch.get_num_threads() == 1
    assert capfd.readouterr().out == ""


def check_against_the_loop(way: Way, source: Source) -> None:
    loop = usual_loop(source.bundle, num_threads=1)
    with way.open(source) as peer:
        predict = peer.predictor()
        for i in range(len(source.rgb)):
            found, expected = (
                one(source.rgb[i : i + 1], source.depth[i : i + 1]).probabilities for one in (predict, loop.framed)
            )
            assert np.abs(found - expected).max() < 1e-4
