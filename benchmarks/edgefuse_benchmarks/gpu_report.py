"""Runs every test marked gpu or tensorrt, and writes outcomes and figures to a dated JSON file.

python -m edgefuse_benchmarks.gpu_report --out FOLDER      in a checkout; `make gpu-report` calls it
Exit codes: 0 all tests passed, 1 a test failed, 2 no test could run, and nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefuse.errors import MissingPackageError
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import save_json
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError, current_gpu

if TYPE_CHECKING:
    import pytest

SCHEMA = 1
MARKERS = ("gpu", "tensorrt")
NOTHING_TO_RUN_ON = 2


class Outcomes:
    """A pytest plugin that collects the outcome of each test, and the figures that it recorded.

    Attributes:
        tests: one JSON object per test, in the order in which they ran.
    """

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the call of a test, or the setup or teardown that did not pass."""
        if report.when != "call" and report.passed:
            return
        self.tests.append(
            {
                "test": report.nodeid.rpartition("/")[2],
                "needs": [marker for marker in MARKERS if marker in report.keywords],
                "outcome": report.outcome,
                "reason": _reason(report),
                "seconds": round(report.duration, 3),
                "figures": dict(report.user_properties),
            }
        )


def run_tests(tests: Path) -> tuple[list[dict[str, Any]], int]:
    """Run the tests that need a GPU; returns their outcomes and pytest's exit code.

    Raises:
        MissingPackageError: pytest is not installed.
    """
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "this needs the package pytest, which is not installed: pip install pytest numpy"
        ) from error
    outcomes = Outcomes()
    code = pytest.main(["-m", " or ".join(MARKERS), "-p", "no:cacheprovider", "-rs", str(tests)], plugins=[outcomes])
    return outcomes.tests, int(code)


def to_json(gpu: Gpu, tests: Sequence[dict[str, Any]], *, described: dict[str, Any]) -> dict[str, Any]:
    """The report as a JSON object."""
    counts = Counter(test["outcome"] for test in tests)
    return {
        "schema": SCHEMA,
        "benchmark": "gpu",
        "machine": described,
        "gpu": vars(gpu),
        "counts": {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")},
        "tests": list(tests),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the tests, write the report, and print its path."""
    parser = argparse.ArgumentParser(prog="edgefuse_benchmarks.gpu_report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--tests", type=Path, default=Path("tests/gpu"), help="where the tests are")
    options = parser.parse_args(arguments)
    try:
        gpu = current_gpu()
        described = machine.describe()
        tests, code = run_tests(options.tests)
    except (NoGpuError, MissingPackageError) as error:
        print(f"no GPU report: {error}\nNothing was run or written.", file=sys.stderr)
        return NOTHING_TO_RUN_ON
    if all(test["outcome"] == "skipped" for test in tests):
        print("no GPU report: every test was skipped, for the reasons above. Nothing was written.", file=sys.stderr)
        return NOTHING_TO_RUN_ON
    path = save_json(to_json(gpu, tests, described=described), options.out, benchmark="gpu")
    print(f"result: {path}")
    return int(code != 0)


def _reason(report: pytest.TestReport) -> str | None:
    """Why a test was skipped or failed, in one line, without paths of this machine."""
    if report.passed:
        return None
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
