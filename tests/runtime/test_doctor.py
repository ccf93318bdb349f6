"""edgefuse doctor: what it finds, what it says to type, and that no package can hang, crash or end it."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import pytest
from test_tensorrt_machine import driver

from bare_python import bare_edgefuse
from edgefuse.io.text import new_console
from edgefuse_runtime.cameras.pyrealsense import is_old_sdk
from edgefuse_runtime.doctor import check, machine, packages
from edgefuse_runtime.doctor.check import Check, State
from edgefuse_runtime.doctor.commands import show
from edgefuse_runtime.doctor.probe import probe

COMPONENTS = [value for value in vars(check).values() if isinstance(value, check.Component)]
LIMIT_S = 3.0
NO_GPU = packages.Machine(gpu=None, is_jetson=False)
GPU = packages.Machine(gpu="RTX 4070", is_jetson=False)
JETSON = packages.Machine(gpu="Orin", is_jetson=True)


def package(folder: Path, name: str, source: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    return folder


# With nothing installed


def test_with_everything_missing_it_is_fast_and_says_what_to_type(tmp_path: Path) -> None:
    """CPU time: on a busy machine, wall time depends on other processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = bare_edgefuse(tmp_path, "doctor")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT_S
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, extra in (("PyTorch", "train,export"), ("ONNX Runtime", "runtime"), ("TensorRT", "tensorrt")):
        assert [line for line in lines if re.match(rf"  missing +{name} .*pip install 'edgefuse\[{extra}\]'$", line)]
    assert len(lines) <= 30 and not [line for line in lines if line.startswith("  broken")]
    too_wide = [line for line in lines if len(line) > 80 and str(tmp_path) not in line]
    assert all(line.lstrip().startswith(("sudo", "echo")) for line in too_wide)


def test_the_json_output_has_every_component_once(tmp_path: Path) -> None:
    done = bare_edgefuse(tmp_path, "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["edgefuse"] and [one["key"] for one in found["checks"]] == [one.key for one in COMPONENTS]
    for one in found["checks"]:
        assert set(one) == {"key", "name", "group", "state", "found", "step"}
        assert one["state"] in get_args(State) and one["found"]


@pytest.mark.parametrize(
    ("name", "source", "state", "text"),
    [
        ("openvino", "import os; os.abort()", "broken", "does not load (it crashed (SIGABRT))"),
        (
            "torch",
            "import sys; print('noise', end='', flush=True); sys.exit('[no] libcudnn')",
            "broken",
            "does not load ([no] libcudnn)",
        ),
        ("torch", "import os; os._exit(7)", "broken", "does not load (exit code 7)"),
        ("numpy", "import os, signal; os.kill(os.getpid(), signal.SIGILL)", "broken", "it crashed (SIGILL)"),
        ("cv2", "print('noise'); raise ImportError('libGL.so.1')", "broken", "does not load (libGL.so.1)"),
        (
            "pyrealsense2",
            "raise ImportError('libusb-1.0.so.0: cannot open shared object file')",
            "broken",
            "the system library libusb-1.0 is missing",
        ),
        (
            "tensorrt",
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "broken",
            "the library libnvinfer.so.10 is missing",
        ),
    ],
)
def test_a_package_that_fails_is_reported_and_the_others_are_checked(
    name: str, source: str, state: State, text: str, tmp_path: Path
) -> None:
    extra = package(tmp_path / "extra", name, source)
    done = bare_edgefuse(tmp_path, "doctor", extra=[extra], width=200)
    assert done.returncode == 1 and done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {state}")]
    assert text in line
    assert done.stdout.count("\n  missing") >= 7


def test_everything_that_is_installed_here_loads() -> None:
    done = subprocess.run([sys.executable, "-m", "edgefuse", "doctor", "--json"], capture_output=True, timeout=120)
    found = {one["key"]: one for one in json.loads(done.stdout)["checks"]}
    for key, name in (("torch", "torch"), ("onnxruntime", "onnxruntime"), ("pyrealsense2", "pyrealsense2")):
        assert metadata.version(name).rpartition(".")[0] in found[key]["found"], found[key]
    assert not [one for one in found.values() if one["state"] == "broken"] and (done.returncode, done.stderr) == (
        0,
        b"",
    )


# Probes


def test_a_package_that_hangs_is_ended_and_what_it_said_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import time\n__version__ = '2025.3'\nclass Core:\n    def __init__(self): time.sleep(60)\n"
    monkeypatch.syspath_prepend(str(package(tmp_path, "openvino", source)))
    started_s = time.monotonic()
    facts = probe("openvino", limit_s=2)
    assert time.monotonic() - started_s < 20
    assert facts == {"version": "2025.3", "problem": "no answer within 2 s"}
    assert packages.openvino(facts).found == "2025.3 does not load (no answer within 2 s)"


def test_openvino_has_the_precisions_of_the_cpu() -> None:
    pytest.importorskip("openvino")
    found = packages.openvino(probe("openvino", limit_s=60))
    assert found.state == "ok" and re.fullmatch(r"20\d\d\.\S+: CPU, FP32(, BF16)?(, INT8)?", found.found)
    missing = packages.openvino({"missing": True})
    assert missing.state == "missing" and missing.step == "pip install 'edgefuse[openvino]'"
    assert packages.openvino({"version": "2026.4.1-1", "devices": [], "precisions": []}).state == "broken"


def test_onnxruntime_runs_a_session_on_each_provider() -> None:
    facts = probe("onnxruntime", limit_s=60)
    assert facts["providers"]["CPUExecutionProvider"] is None and facts["version"] == metadata.version("onnxruntime")
    found = packages.onnxruntime({**facts, "packages": ["onnxruntime"]}, NO_GPU)
    assert found.state == "ok" and found.found.startswith(f"onnxruntime {facts['version']}: ") and "CPU" in found.found


def test_the_bindings_version_is_compared_with_the_librarys_own() -> None:
    pytest.importorskip("tensorrt_rtx")
    facts = probe("tensorrt_rtx", limit_s=60)
    assert facts["version"].startswith(facts["library"])  # 1.7.1.116 and 1.7.1
    assert packages.tensorrt(facts, check.TENSORRT_RTX, install="").state == "ok"


def test_the_gpu_is_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, init=0)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    facts = probe("cuda_driver", limit_s=60)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n"
    )
    found = machine.cuda_driver(facts, root=tmp_path)
    assert (found.state, found.found) == ("ok", "Orin, compute capability 8.7, driver 550.54.15")


def test_a_driver_that_does_not_start_is_broken_only_beside_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, init=35)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    facts = probe("cuda_driver", limit_s=60)
    assert machine.cuda_driver(facts, root=tmp_path).state == "missing"
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    found = machine.cuda_driver(facts, root=tmp_path)
    assert found.state == "broken" and "error 35, driver too old" in found.found and "restart the machine" in found.step


# What the facts mean


@pytest.mark.parametrize(
    ("found", "state", "text", "step"),
    [
        (packages.torch({"version": "2.9+cpu", "cuda": None, "gpu": None}, NO_GPU), "ok", "on the CPU", ""),
        (packages.torch({"version": "2.9", "cuda": "12.8", "gpu": "RTX 4070"}, GPU), "ok", "on RTX 4070", ""),
        (packages.torch({"version": "2.9+cpu", "cuda": None, "gpu": None}, GPU), "warning", "has no CUDA", "pip install"),
        (packages.torch({"version": "2.9", "cuda": "13.0", "gpu": None}, GPU), "warning", "do not fit", "update the driver"),
        (
            packages.onnxruntime({"version": "1.2", "providers": {"CPUExecutionProvider": None}}, GPU),
            "warning",
            "CUDA is not in this package",
            packages.INSTALL_GPU,
        ),
        (packages.onnxruntime({"version": "1.2", "providers": {"CPUExecutionProvider": None}}, JETSON), "ok", "CPU", ""),
        (
            packages.onnxruntime(
                {
                    "version": "1.2",
                    "providers": {"CUDAExecutionProvider": "libcudnn.so.9 is missing", "CPUExecutionProvider": None},
                    "packages": ["onnxruntime-gpu"],
                },
                GPU,
            ),
            "warning",
            "onnxruntime-gpu 1.2: CPU; CUDA does not load (libcudnn.so.9 is missing)",
            packages.INSTALL_GPU,
        ),
        (
            packages.onnxruntime(
                {
                    "version": "1.2",
                    "providers": {"CPUExecutionProvider": None},
                    "packages": ["onnxruntime", "onnxruntime-gpu"],
                },
                NO_GPU,
            ),
            "broken",
            "overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgefuse[runtime]'",
        ),
        (
            packages.tensorrt({"version": "10.3.0", "library": "10.5.0"}, check.TENSORRT, install="again"),
            "broken",
            "the bindings are 10.3.0, the library is 10.5.0",
            "again",
        ),
        (packages.pycuda({"version": "2026.1", "problem": "libcuda.so.1"}, NO_GPU, install=""), "warning", "driver", ""),
        (packages.pycuda({"version": "2026.1", "problem": "libcuda.so.1"}, GPU, install=""), "broken", "libcuda", "pip"),
        (packages.pyrealsense2({"version": "2.58.2.1", "cameras": 1}), "warning", "1 camera; before 2.58.4", "--upgrade"),
        (packages.pyrealsense2({"version": "2.59.1", "cameras": 0}), "ok", "no camera connected", ""),
        (packages.pyrealsense2({"version": "2.59.1", "problem": "no answer"}), "broken", "USB", "unplug"),
    ],
)  # fmt: skip
def test_facts(found: Check, state: State, text: str, step: str) -> None:
    assert found.state == state and text in found.found
    assert found.step.startswith(step) or step in found.step
    assert bool(found.step) == bool(step)


def test_the_sdk_with_the_clock_wrap() -> None:
    assert [is_old_sdk(version) for version in ("2.55.1.6486", "2.58.3", "2.58.4", "2.59.1.11053", "3.0.0")] == [
        *(True, True),
        *(False, False, False),
    ]


# The machine


def rules(root: Path, folder: str, text: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "99-realsense-libusb.rules").write_text(text)


def test_udev_rules_of_both_vendors(tmp_path: Path) -> None:
    d435 = 'SUBSYSTEMS=="usb", ATTRS{idVendor}=="8086", ATTRS{idProduct}=="0b07", MODE:="0666", GROUP:="plugdev"\n'
    bluetooth = 'ATTR{idVendor}=="8086", ATTR{idProduct}=="0189", MODE="0660"\n'
    newer = 'SUBSYSTEMS=="usb", ATTRS{idVendor}=="38E5", TAG+="uaccess"\n'
    rules(tmp_path, "etc/udev/rules.d", f"# {d435}{bluetooth}# {newer}")
    assert machine.udev_rules(root=tmp_path).found == "none for USB vendor 8086 and 38e5: root only"
    rules(tmp_path, "etc/udev/rules.d", d435)
    found = machine.udev_rules(root=tmp_path)
    assert found.state == "missing" and "8086" not in found.found
    write, reload = found.step.splitlines()
    assert "curl" not in write and "udevadm control --reload-rules" in reload
    # The command that it prints makes the check succeed.
    shell = write.replace("sudo tee /etc", f"tee {tmp_path}/etc")
    subprocess.run(["sh", "-c", shell], check=True, capture_output=True, timeout=60)
    assert machine.udev_rules(root=tmp_path).state == "ok"
    (tmp_path / "etc/udev/rules.d/99-realsense-38e5.rules").unlink()
    rules(tmp_path, "usr/lib/udev/rules.d", newer)
    assert machine.udev_rules(root=tmp_path).state == "ok"


def nvpmodel(folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin/nvpmodel"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho 'NV Power Mode: {mode}'; echo 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_jetson_below_its_fastest_mode_gets_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    table = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    (tmp_path / "etc/nvpmodel.conf").write_text(table)
    nvpmodel(tmp_path, "15W", monkeypatch)
    found = machine.power_mode(is_jetson=True, root=tmp_path)
    assert (found.state, found.step) == ("warning", "sudo nvpmodel -m 2") and "MAXN_SUPER is faster" in found.found
    nvpmodel(tmp_path, "MAXN_SUPER", monkeypatch)
    assert machine.power_mode(is_jetson=True, root=tmp_path).state == "ok"


@pytest.mark.parametrize(
    ("governor", "scaling_driver", "state"),
    [
        *[("performance", "acpi-cpufreq", "ok"), ("powersave", "intel_pstate", "ok")],
        *[("powersave", "acpi-cpufreq", "warning"), (None, None, "ok")],
    ],
)
def test_the_governor(governor: str | None, scaling_driver: str | None, state: State, tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    if governor is not None:
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_driver").write_text(f"{scaling_driver}\n")
    assert machine.power_mode(is_jetson=False, root=tmp_path).state == state


def test_a_jetson_gets_the_commands_of_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgefuse_runtime.doctor.report import _how_to_install

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\n")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    step = _how_to_install("tensorrt", tmp_path)["step"]
    assert "sudo apt-get install python3-libnvinfer" in step and "pip install" not in step


def test_a_full_disk_and_a_missing_folder(tmp_path: Path) -> None:
    assert re.fullmatch(rf"\d+\.\d GB free in {re.escape(str(tmp_path))}", machine.disk(tmp_path).found)
    assert machine.disk(tmp_path / "nothing").state == "broken"


# The screen


@pytest.mark.parametrize("width", [80, 120])
def test_texts_are_wrapped_and_commands_are_not(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"sudo curl {'x' * 150}"
    long = "[bold]libcudnn[/bold] " + "cannot be opened " * 20
    checks: list[Any] = [check.TORCH.is_now("broken", long, command), check.DISK.is_now("ok", "[red] 5 GB")]
    show(checks, new_console(width=width), version="1.0")
    lines = capsys.readouterr().out.splitlines()
    assert f"{' ' * 11}{command}" in lines and "[bold]libcudnn[/bold]" in lines[2] and "[red] 5 GB" in "".join(lines)
    assert max(len(line) for line in lines if command not in line) <= width
