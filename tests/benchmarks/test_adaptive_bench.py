"""`edgefuse bench adaptive`: accuracy and latency of every threshold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgefuse.adaptive import THRESHOLDS
from edgefuse.app.main import build_app
from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Plan
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train
from edgefuse_benchmarks.adaptive import curve
from edgefuse_benchmarks.adaptive.curve import ALWAYS, FULL, bench_adaptive
from edgefuse_export.onnx.export import export_run
from edgefuse_runtime.engines.adaptive import AdaptiveEngine
from edgefuse_runtime.engines.engine import Decision

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=3, max_rounds=3)


@pytest.fixture(scope="module")
def bundle(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the sequences take0 to take2, of which one is for validation; take3 is for testing."""
    folder = tmp_path_factory.mktemp("adaptive")
    config = TrainConfig(
        size=32, epochs=8, batch_size=8, num_features=16, num_hidden=16, exclude=("take3",), validation_fraction=0.3
    )
    run = train([colour_and_range], folder / "run", config=config).folder
    return export_run(run, folder / "bundle", adaptive=True).bundle.folder


def test_every_threshold_has_its_accuracy_and_its_time(bundle: Path, colour_and_range: Path) -> None:
    report = bench_adaptive(bundle, [colour_and_range], engine="cpu", plan=PLAN, num_timed=6)
    assert [row.name for row in report.rows] == [FULL, *(f"T = {t:g}" for t in reversed(THRESHOLDS)), ALWAYS]
    assert report.parameters["sequences"] == ["take3"] and report.parameters["num_pairs"] == 15
    fractions = [row.from_depth for row in report.rows]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0, 1)
    full, always = report.rows[0], report.rows[-1]
    assert full.ratio == 1 and full.accuracy_of_depth is None and always.accuracy_of_depth == always.accuracy
    assert always.ratio < 0.9  # the depth half alone; measured: 0.4
    for row in report.rows:
        one = len(report.samples_ns[row.name])
        assert one == 3 * 6 and row.mean_ms > 0 and row.low <= row.ratio <= row.high
    assert report.num_equal == report.num_compared > 0
    assert report.fastest.accuracy >= full.accuracy - 0.005
    assert report.notes == ()


def test_the_command_writes_json_and_a_plot(
    bundle: Path, colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "QUICK_PLAN", PLAN)
    arguments = [
        "bench",
        "adaptive",
        str(bundle),
        str(colour_and_range),
        "--engine",
        "cpu",
        "--quick",
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(build_app("bench"), arguments)
    assert done.exit_code == 0, done.output
    assert "| complete model | 0.0% |" in done.output and "Goal (mean time at most 0.5" in done.output
    (path,) = tmp_path.glob("adaptive-*.json")
    found = json.loads(path.read_text())
    assert found["benchmark"] == "adaptive" and len(found["rows"]) == len(THRESHOLDS) + 2
    assert found["goal"]["is_met"] is (
        min(r["ratio"] for r in found["rows"] if r["accuracy"] >= found["rows"][0]["accuracy"] - 0.005) <= 0.5
    )
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_pairs_that_were_trained_on_are_named_and_others_must_be_chosen(bundle: Path, colour_and_range: Path) -> None:
    report = bench_adaptive(bundle, [colour_and_range], only=["take*"], engine="cpu", plan=PLAN, num_timed=2)
    assert "was trained on" in report.notes[0] and report.parameters["num_pairs"] == 60
    with pytest.raises(UserError, match="no sequence matches 'other'"):
        bench_adaptive(bundle, [colour_and_range], only=["other"], engine="cpu", plan=PLAN)


def test_a_model_that_answers_otherwise_in_two_files_is_not_timed(
    bundle: Path, colour_and_range: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AdaptiveEngine.run_at

    def changed(self: AdaptiveEngine, rgb: object, depth: object, *, threshold: float) -> Decision:
        found = original(self, rgb, depth, threshold=threshold)  # type: ignore[arg-type]
        found.probabilities[:, 0] += 0.01
        return found

    monkeypatch.setattr(AdaptiveEngine, "run_at", changed)
    with pytest.raises(ParityError, match=r"T = 0.3: probabilities differ by 0.01"):
        bench_adaptive(bundle, [colour_and_range], engine="cpu", plan=PLAN, num_timed=2)
