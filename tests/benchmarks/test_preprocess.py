"""The benchmark of the preparation, and the ratios that guard against slower code: generous bounds, no absolute times."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgefuse.contract import InputContract
from edgefuse.framing import Roi
from edgefuse.measure import ParityError, Plan
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.reporting.messages import message
from edgefuse_benchmarks.suites import preprocess
from edgefuse_benchmarks.suites.preprocess import FRAMING, FRAMING_INTO, USUAL, USUAL_AREA, bench_preprocess
from toy_bundle import make_toy_bundle

PLAN = Plan(warmup_s=0.0, min_warmup_calls=3, measure_s=0.0, min_rounds=60, max_rounds=60)


def test_framing_takes_a_fraction_of_the_usual_preparation(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy", size=224).folder
    report = bench_preprocess(bundle, plan=PLAN)
    (group,) = report.groups
    assert (group.name, [one.name for one in group.series]) == (
        "640x480 to 224 px",
        [USUAL, USUAL_AREA, FRAMING, FRAMING_INTO],
    )
    ratios = {(one.numerator, one.denominator): one.median for one in group.ratios}
    assert ratios[FRAMING, USUAL] < 0.7 and ratios[FRAMING_INTO, USUAL] < 0.7  # measured: 0.1 to 0.3
    assert ratios[FRAMING, USUAL_AREA] < 0.7
    assert re.search(
        r"640x480 to 224 px.*of the time of OpenCV linear .* and 0\.\d+ of the time of OpenCV area", message(report)
    )
    assert {one["reference"] for one in report.parity} == {USUAL, USUAL_AREA}
    save_plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_usual_preparation_normalises_as_a_bundle_does() -> None:
    rgb = np.full((40, 60, 3), (255, 0, 128), np.uint8)
    depth = np.full((40, 60), 1000, np.uint16)
    depth[:, :20] = 0
    contract = InputContract(size=16, near_m=0.5, far_m=2.5)
    found_rgb, found_depth = preprocess.usual_preparation(
        rgb, depth, contract=contract, roi=Roi(10, 0, 40, 40), unit_m=0.001, area=True
    )
    np.testing.assert_allclose(
        found_rgb[0, :, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225], rtol=1e-5
    )
    np.testing.assert_allclose(found_depth[0, :, 0, -1], [0.25, 1.0])
    np.testing.assert_allclose(found_depth[0, :, 0, 0], [0.0, 0.0])


def test_different_images_are_not_timed(bench_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "centre_square", lambda height, width: Roi(0, 0, height // 2, height // 2))
    monkeypatch.setattr(preprocess, "MAX_LEVELS", 0.01)
    with pytest.raises(ParityError, match=r"RGB differs by .* levels on average"):
        bench_preprocess(bench_bundle, plan=PLAN)
