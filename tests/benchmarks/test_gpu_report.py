"""`make gpu-report`: the report if tests ran, and no file if none can run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse_benchmarks import gpu_report
from edgefuse_runtime.engines.cuda_device import NoGpuError, current_gpu

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

@pytest.mark.gpu
def test_ran(record_property):
    record_property("probability_off", 0.25)

@pytest.mark.tensorrt
def test_left_out():
    pytest.skip("TensorRT is not installed")

def test_of_something_else():
    raise AssertionError("it was not asked for")
"""

FAILING = """
@pytest.mark.gpu
def test_failed():
    assert 1 + 1 == 3, "arithmetic"
"""

WITH_A_GPU = """
import sys
from edgefuse_benchmarks import gpu_report
from edgefuse_runtime.engines.cuda_device import Gpu
gpu_report.current_gpu = lambda: Gpu(name="Test GPU", compute_capability="8.7")
sys.exit(gpu_report.main(sys.argv[1:]))
"""


def report_of(tests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The report of these tests, with a fake GPU; pytest inside pytest needs a separate process."""
    (folder / "tests").mkdir()
    (folder / "tests" / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: here\n    tensorrt: here\n")
    (folder / "tests" / "test_these.py").write_text(tests)
    arguments = ["--tests", str(folder / "tests"), "--out", str(folder / "results")]
    return subprocess.run([sys.executable, "-c", WITH_A_GPU, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("failing", [False, True])
def test_outcomes_reasons_and_figures_are_kept(tmp_path: Path, failing: bool) -> None:
    done = report_of(TESTS + (FAILING if failing else ""), tmp_path)
    assert done.returncode == int(failing), done.stdout + done.stderr
    (path,) = (tmp_path / "results").iterdir()
    assert path.name.startswith("gpu-20") and path.suffix == ".json"
    report = json.loads(path.read_text())
    assert report["gpu"] == {"name": "Test GPU", "compute_capability": "8.7"}
    assert report["counts"] == {"passed": 1, "failed": int(failing), "skipped": 1}
    assert report["machine"]["date_utc"] and report["machine"]["versions"]["numpy"]
    ran, left_out, *failed = report["tests"]
    assert (ran["needs"], ran["outcome"], ran["figures"]) == (["gpu"], "passed", {"probability_off": 0.25})
    assert (left_out["needs"], left_out["reason"]) == (["tensorrt"], "TensorRT is not installed")
    assert [test["reason"] for test in failed] == (["AssertionError: arithmetic"] if failing else [])
    assert str(tmp_path) not in path.read_text()


def test_if_all_tests_are_skipped_nothing_is_written(tmp_path: Path) -> None:
    done = report_of("import pytest\n@pytest.mark.gpu\ndef test_it():\n    pytest.skip('no torch')\n", tmp_path)
    assert done.returncode == 2 and "no torch" in done.stdout
    assert not (tmp_path / "results").exists()


def test_without_a_gpu_it_reports_that_and_writes_nothing(tmp_path: Path) -> None:
    try:
        current_gpu()
    except NoGpuError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    command = ["make", "-C", str(ROOT), f"PYTHON={sys.executable}", "gpu-report"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Error 2" in done.stderr, done.stdout + done.stderr
    assert "no GPU report: " in done.stderr and "driver" in done.stderr and "Nothing was run or written" in done.stderr
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before


def test_a_missing_pytest_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(gpu_report.MissingPackageError, match="pip install pytest"):
        gpu_report.run_tests(tmp_path)
