"""Packages installed under another distribution name: onnxruntime-gpu, OpenCV's four, builds from source."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import edgefuse
import edgefuse_export
import edgefuse_runtime
from edgefuse.io.environment import NOT_INSTALLED, VERSION_UNKNOWN, installed, versions

EDGEFUSE = "from edgefuse.app.main import main; main()"


def environment_without(folder: Path, *hidden: str, **renamed: str) -> dict[str, str]:
    """An environment with the packages of this one, without the distributions `hidden`, and with `renamed` distributions."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        name = path.name.split("-")[0].lower() if path.suffix == ".dist-info" else ""
        if name in hidden or path.suffix == ".pth":
            continue
        if name in renamed:
            other = folder / f"{renamed[name]}-9.9.0.dist-info"
            other.mkdir()
            (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {renamed[name]}\nVersion: 9.9.0\n")
        else:
            (folder / path.name).symlink_to(path)
    packages = (edgefuse, edgefuse_export, edgefuse_runtime)
    ours = [str(Path(package.__path__[0]).parent) for package in packages]
    return {**os.environ, "PYTHONPATH": os.pathsep.join((*ours, str(folder)))}


def python(environment: dict[str, str], code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """-S: the packages of this Python are not on its path."""
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_run_is_exported_with_onnxruntime_gpu_instead_of_onnxruntime(trained_run: Path, tmp_path: Path) -> None:
    environment = environment_without(
        tmp_path / "site", onnxruntime="onnxruntime_gpu", opencv_python_headless="opencv_python"
    )
    done = python(environment, EDGEFUSE, "export", trained_run, "--out", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bundle/manifest.json").read_text())["versions"]
    assert found["onnxruntime-gpu"] == found["opencv-python"] == "9.9.0"
    assert not {"onnxruntime", "opencv-python-headless", "opencv"} & set(found)


VERSIONS = "import json, sys; from edgefuse.io.environment import versions; print(json.dumps(versions(sys.argv[1:])))"


def test_a_package_without_a_distribution_is_not_called_missing(tmp_path: Path) -> None:
    environment = environment_without(tmp_path / "site", "onnxruntime", "opencv_python_headless", "numpy")
    code = f"import cv2; {VERSIONS}"
    found = json.loads(python(environment, code, "onnxruntime", "opencv", "edgefuse", "tensorrt", "nothing").stdout)
    import cv2

    assert found["onnxruntime"] == VERSION_UNKNOWN and found["opencv"] == cv2.__version__
    assert found["nothing"] == NOT_INSTALLED


def test_the_distribution_that_is_installed_is_named() -> None:
    name = next(iter(installed("opencv")))
    assert name.startswith("opencv-") and installed("opencv")[name] == importlib.metadata.version(name)
    assert versions(["a-package-that-nobody-has"], only_installed=True).keys() == {"python"}
    assert installed("a-package-that-nobody-has") == {}


def test_a_folder_with_the_name_of_a_package_is_not_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as /usr/src/tensorrt."""
    (tmp_path / "a_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed("a-folder") == {}


@pytest.mark.slow
def test_an_incompatible_onnxscript_is_named(trained_run: Path, tmp_path: Path) -> None:
    environment = environment_without(tmp_path / "site", "onnxscript")
    (tmp_path / "site/onnxscript").unlink()
    (tmp_path / "site/onnxscript").mkdir()
    (tmp_path / "site/onnxscript/__init__.py").write_text("__version__ = '0.0.1'\n")
    done = python(environment, EDGEFUSE, "export", trained_run, "--out", tmp_path / "bundle")
    assert done.returncode == 1 and "fault in edgefuse" not in done.stderr, done.stderr
    assert "onnxscript 0.0.1" in done.stderr and "pip install --upgrade 'edgefuse[export]'" in done.stderr
    assert not (tmp_path / "bundle").exists()
