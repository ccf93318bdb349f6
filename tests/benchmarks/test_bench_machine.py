"""The description of the machine: complete, without names of users and folders, and None for values that cannot be read."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from edgefuse_benchmarks import machine


def test_it_has_hardware_and_versions() -> None:
    found = json.loads(json.dumps(machine.describe()))
    assert found["cpu"]["model"]
    assert found["cpu"]["cores_usable"] == len(os.sched_getaffinity(0))
    assert found["versions"]["numpy"] == np.__version__
    assert found["memory_bytes"] > 100e6
    assert found["load_average_1min"] >= 0


def test_it_names_no_host_user_or_folder() -> None:
    words = json.dumps(machine.describe())
    # A short name such as "vm" may be part of another word.
    private = [socket.gethostname(), getpass.getuser(), str(Path.home()), str(Path.cwd())]
    assert [name for name in private if len(name) > 4 and name in words] == []


def test_it_works_without_any_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.describe()
    assert (found["gpus"], found["commit"]) == ([], None)
    assert found["system"]["python"]


@pytest.mark.parametrize("answer", ["exit 1", "echo nonsense", "echo 'A GPU, 1, 2'"])
def test_a_failing_tool_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str) -> None:
    _tool(tmp_path / "nvidia-smi", answer)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.describe_gpus() == []


def test_gpus_are_read_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = [f"value {i}" for i in range(len(machine.GPU_FIELDS.split(",")))]
    _tool(tmp_path / "nvidia-smi", f"echo '{', '.join(values)}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (gpu,) = machine.describe_gpus()
    assert (gpu["name"], gpu["driver_version"], gpu["temperature.gpu"]) == (values[0], values[1], values[-1])


def test_results_of_a_gpu_have_a_folder_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.hardware_folder(Path("results")) == Path("results")
    values = ["NVIDIA H100 80GB HBM3"] + ["1"] * (len(machine.GPU_FIELDS.split(",")) - 1)
    _tool(tmp_path / "nvidia-smi", f"echo '{', '.join(values)}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.hardware_folder(Path("results")) == Path("results/nvidia-h100")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/home/me/venv/bin/edgefuse", "bench", "core", "--d", "128,512"], "edgefuse bench core --d 128,512"),
        (
            [".venv/bin/edgefuse", "bench", "engine", "/data/me/bundle", "--quick"],
            "edgefuse bench engine bundle --quick",
        ),
        (["edgefuse", "bench", "live", "b", "--camera=/data/me/x.db3"], "edgefuse bench live b --camera=x.db3"),
        (
            ["edgefuse", "bench", "unknown", "--set", "rgb_weights=/data/me/w.pth"],
            "edgefuse bench unknown --set rgb_weights=w.pth",
        ),
        (["edgefuse", "bench", "live", "../me/b", "--roi", "runs/r.json"], "edgefuse bench live b --roi runs/r.json"),
    ],
)
def test_the_command_line_has_no_absolute_folders(argv: list[str], expected: str) -> None:
    assert machine.command_line(argv) == expected


def _tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
