"""The built packages: their contents, and an installation of the wheel with only the runtime extra, as on a device."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle import open_bundle
from edgefuse.data.dataset import write_pair
from toy_bundle import make_toy_bundle

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"edgefuse", "edgefuse_export", "edgefuse_runtime", "edgefuse_benchmarks"}
EXTRAS = {
    *("train", "export", "runtime", "gpu", "tensorrt", "rtx", "openvino", "realsense", "bench"),
    *("metrics", "mqtt", "rerun", "web", "curate"),
}
NUM_FRAMES = 5

pytestmark = pytest.mark.slow


def _run(command: Sequence[str | Path], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the working tree, without environment variables that would add it to the path."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def _build(kind: str, *, source: Path, folder: Path) -> Path:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        folder,
        source,
    ]
    done = _run(command, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def _package_name(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", source=ROOT, folder=tmp_path_factory.mktemp("wheel"))


@dataclass(frozen=True, kw_only=True)
class Device:
    """A new environment with the wheel and its runtime extra, a bundle, and frames to classify."""

    folder: Path
    bin: Path
    bundle: Path
    frames: Path

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return _run([self.bin / program, *arguments], cwd=self.folder)


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    folder = tmp_path_factory.mktemp("device")
    device = Device(folder=folder, bin=folder / "venv" / "bin", bundle=folder / "bundle", frames=folder / "frames")
    assert _run([sys.executable, "-m", "venv", folder / "venv"], cwd=folder).returncode == 0
    installed = device.run("python", "-m", "pip", "install", "--quiet", f"{wheel}[runtime]")
    assert installed.returncode == 0, installed.stderr
    make_toy_bundle(device.bundle)
    random = np.random.default_rng(0)
    for label in open_bundle(device.bundle).manifest.labels:
        for i in range(NUM_FRAMES):
            rgb = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            depth = random.integers(300, 1500, (48, 64), dtype=np.uint16)
            write_pair(device.frames / label / f"{label}_take", f"frame_{i}", rgb, depth)
    return device


def test_wheel_contains_only_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == PACKAGES
    tracked_kinds = {
        ".py",
        ".typed",
        ".json",
        ".html",
        ".css",
        ".js",
        ".svg",
    }  # JSON: operators of TensorRT's parser; the rest: pages
    assert [name for name in names if Path(name).suffix not in tracked_kinds] == []


def test_wheel_declares_every_extra(wheel: Path) -> None:
    metadata = _metadata(wheel)
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {_package_name(line) for line in base} == {"numpy", "opencv-python-headless", "rich", "typer"}


def test_every_dependency_has_its_reason(wheel: Path) -> None:
    names = {_package_name(line) for line in _metadata(wheel).get_all("Requires-Dist", [])}
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {name for name in names if f"\n| {name} | " not in table} == set()


def test_wheel_from_the_sdist_is_the_wheel_from_the_tree(wheel: Path, tmp_path: Path) -> None:
    sdist = _build("sdist", source=ROOT, folder=tmp_path)
    assert _run(["tar", "-xf", sdist], cwd=tmp_path).returncode == 0
    rebuilt = _build("wheel", source=tmp_path / sdist.name.removesuffix(".tar.gz"), folder=tmp_path)
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(rebuilt) as theirs:
        digests, rebuilt_digests = ({entry.filename: entry.CRC for entry in z.infolist()} for z in (ours, theirs))
    assert rebuilt_digests == digests


def test_device_imports_the_wheel_without_torch(device: Device) -> None:
    code = "import edgefuse, edgefuse_runtime; print(edgefuse.__file__)"
    imported = device.run("python", "-c", code)
    assert imported.returncode == 0, imported.stderr
    assert Path(imported.stdout.strip()).is_relative_to(device.folder)
    assert device.run("python", "-c", "import torch").returncode != 0


def test_device_shows_help(device: Device) -> None:
    helped = device.run("edgefuse", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "live" in helped.stdout


def test_device_runs_live_without_torch(device: Device) -> None:
    jsonl = device.folder / "results.jsonl"
    camera = ("--camera", device.frames, "--frames", str(NUM_FRAMES))
    lived = device.run("edgefuse", "live", device.bundle, *camera, "--jsonl", jsonl)
    assert lived.returncode == 0, lived.stdout + lived.stderr
    lines = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]
    results = [line for line in lines if line["kind"] == "result"]
    labels = open_bundle(device.bundle).manifest.labels
    assert len(results) == NUM_FRAMES
    assert all(result["label"] in labels for result in results)
    assert all(0 < result["probability"] <= 1 for result in results)


PYTHON_API = """
import sys, numpy as np, edgefuse
rgb, depth = np.arange(48 * 64 * 3).astype(np.uint8).reshape(48, 64, 3), np.full((48, 64), 800, np.uint16)
with edgefuse.Classifier(sys.argv[1]) as classifier:
    one = classifier(rgb, depth, depth_unit_m=0.001, roi="whole")
    several = classifier.batch(rgb, depth, rois=[(0, 0, 40, 40), (8, 0, 48, 48)])
live = [result.label for result in edgefuse.live(sys.argv[1], camera=sys.argv[2], num_frames=2)]
print(one.label, len(several), len(live), *sorted({"torch", "onnx"} & set(sys.modules)))
"""


def test_device_has_the_python_api_without_torch(device: Device) -> None:
    done = device.run("python", "-c", PYTHON_API, device.bundle, device.frames)
    assert done.returncode == 0, done.stderr
    label, *rest = done.stdout.split()
    assert label in open_bundle(device.bundle).manifest.labels and rest == ["2", "2"]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train", "frames", "--out", "run"), "train"),
        (("live", "bundle", "--camera", "realsense"), "realsense"),
    ],
)
def test_device_names_the_missing_extra(device: Device, arguments: tuple[str, ...], extra: str) -> None:
    done = device.run("edgefuse", *arguments)
    assert done.returncode == 1
    assert f"edgefuse[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
