"""The command `edgefuse bench` in a separate process: exit code, output and files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def bench(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=cwd)


def test_a_result_is_saved_and_printed(bench_bundle: Path, colour_and_range: Path, tmp_path: Path) -> None:
    arguments = ("live", bench_bundle, "--camera", colour_and_range, "--quick")
    as_json = bench(*arguments, "--json", cwd=tmp_path)
    assert as_json.returncode == 0, as_json.stderr
    printed = json.loads(as_json.stdout)
    as_table = bench(*arguments, cwd=tmp_path)
    assert as_table.returncode == 0, as_table.stderr
    assert "frame to result" in as_table.stdout and "\x1b" not in as_table.stdout
    kept = sorted((tmp_path / "bench-results").iterdir())
    assert [path.suffix for path in kept] == [".json", ".png"] * 2
    first = json.loads(kept[0].read_text())
    assert first["groups"][0]["series"][0]["p50_ns"] == printed["groups"][0]["series"][0]["p50_ns"]
    assert len(first["groups"][0]["series"][0]["samples_ns"]) >= 200
    assert str(tmp_path) not in kept[0].read_text()
    assert f"result: bench-results/{kept[-1].with_suffix('.json').name}" in as_table.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("core", "--d", "128,x"),
        ("core", "--d", "0"),
        ("engine", "b", "--threads", "-1"),
        ("live", "b"),
        ("everything",),
    ],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = bench(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("core", "--d", "99999"), "1 to 16384"),
        (("engine", "nothing"), "not a bundle"),
        (("live", "nothing", "--camera", "synthetic"), "not a bundle"),
    ],
)
def test_failures_exit_with_one_and_leave_no_file(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = bench(*arguments, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert words in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("core",), ("engine", "b"), ("live", "b", "--camera", "synthetic"), ("learning",)])
@pytest.mark.parametrize("out", ["file", "file/folder"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command: tuple[str, ...], out: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    result = bench(*command, "--out", out, cwd=tmp_path)
    assert result.returncode == 1
    assert f"{out} " in result.stderr or f"{out}/" in result.stderr
    assert "not a bundle" not in result.stderr and "Traceback" not in result.stderr


def test_a_failing_plot_and_a_closed_pipe_lose_no_result(
    bench_bundle: Path, colour_and_range: Path, tmp_path: Path
) -> None:
    fault = "import edgefuse_benchmarks.plots as p; p.figure_of = lambda report: 1 / 0; "
    command = f"{fault}from edgefuse.app.main import main; main()"
    arguments = f"bench live {bench_bundle} --camera {colour_and_range} --quick --json"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{command}" {arguments} | true'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    (kept,) = (tmp_path / "bench-results").iterdir()
    assert json.loads(kept.read_text())["benchmark"] == "live"
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments.split()], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and "no plot: division by zero" in done.stderr
    assert json.loads(done.stdout)["benchmark"] == "live"


def test_benchmarks_on_a_device_need_no_torch() -> None:
    modules = ("suites.core", "suites.engine", "suites.live", "plots", "console", "report", "machine")
    heavy = ("torch", "onnx", "onnxruntime", "matplotlib", "pyrealsense2", "rich")
    imports = "; ".join(f"import edgefuse_benchmarks.{name}" for name in modules)
    code = f"import sys; {imports}; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
