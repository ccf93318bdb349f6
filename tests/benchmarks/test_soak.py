"""A short soak of the real service with faults at random, and what its checks find."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgefuse.bundle import open_bundle
from edgefuse_benchmarks.suites.soak import OTHER_FAULTS, SoakPlan, SoakRun, run_soak
from edgefuse_benchmarks.suites.soak_camera import CAMERA_FAULTS, Requests
from edgefuse_benchmarks.suites.soak_faults import SINK_FAULTS

SOAK = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "bench", "soak"]


@pytest.mark.slow
def test_faults_are_survived_and_the_planted_leak_is_found(bench_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(bench_bundle), "--minutes", "1", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run([*SOAK, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed: 1\n" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.count(": found") == 3 and "result: nothing wrong" in done.stdout
    (path,) = tmp_path.glob("soak-*.json")
    assert path.with_suffix(".md").read_text() == done.stdout[:-1]
    report = json.loads(path.read_text())
    frames = report["run"]["frames"]
    parts = ("processed", "dropped", "stale", "without_region", "unfinished")
    assert frames["received"] == sum(frames[part] for part in parts)
    assert frames["processed"] > 100 and frames["dropped"] > 0
    kinds = {fault["kind"] for fault in report["run"]["faults"]}
    assert len(kinds) >= 5 and kinds <= {*CAMERA_FAULTS, *SINK_FAULTS, *OTHER_FAULTS}
    assert str(tmp_path) not in path.read_text()


@pytest.fixture(scope="module")
def run(bench_bundle: Path) -> SoakRun:
    """Three seconds: too short to compare the memory."""
    run = run_soak(open_bundle(bench_bundle), SoakPlan(seconds=3.0, seed=2, pauses_s=(0.1, 0.3)))
    return replace(run, first_mb=(40.0, 30.0), last_mb=(40.0, 30.0))


def test_each_check_finds_what_it_is_for(run: SoakRun) -> None:
    assert run.problems() == ()
    assert run.faults and all(fault.recovery_s is not None for fault in run.faults)
    lost = replace(run, summary=replace(run.summary, received=run.summary.received + 1))
    sink = replace(run.summary.sinks[1], written=0)
    processes, segments = run.before.processes, run.before.segments  # other tests may have left some
    wrong = {
        "received": lost,
        "wrong after 1 reads": replace(run, wrong_counts=1),
        "the sink without faults": replace(run, is_complete=False),
        "results.jsonl: written 0": replace(run, summary=replace(run.summary, sinks=(sink,))),
        "results.jsonl is failed": replace(run, summary=replace(run.summary, sinks=(replace(sink, state="failed"),))),
        "was not survived": replace(run, faults=(replace(run.faults[0], recovery_s=None),)),
        "memory grew by 6.0 MB": replace(run, first_mb=(40.0, None), last_mb=(46.0, 30.0)),
        "memory grew by 5.5 MB": replace(run, first_mb=(40.0, 30.0), last_mb=(45.5, 20.0)),
        "memory grew by 7.0 MB": replace(run, first_mb=(40.0, 30.0), last_mb=(41.0, 36.0)),
        f"processes: {processes + 1} after the run, {processes} before": replace(
            run, after=replace(run.before, processes=processes + 1)
        ),
        f"segments: {segments + 1}": replace(run, after=replace(run.before, segments=segments + 1)),
    }
    for words, other in wrong.items():
        assert any(words in line for line in other.problems()), words


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    writer, reader = Requests(tmp_path / "requests"), Requests(tmp_path / "requests")
    assert reader.take() is None
    writer.request("numbers restart")
    assert writer.is_pending and reader.take() == "numbers restart" and not writer.is_pending
    assert reader.take() is None
    writer.close()
    reader.close()
