"""The real TensorRT bindings, without TensorRT: fetched as pyproject.toml pins them, imported over stand-in libraries.

The bindings' wheels hold the Python classes, but link NVIDIA's libraries, which are not installed. Three shared objects with
their names and nine functions that return nothing let the module load; every class, signature and enum is then there, and
nothing can run. What is learnt so is about names and signatures; it says nothing about behaviour.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fetching import ROOT, cache_folder, cannot, groups

FOLDERS = ("edgefuse", "export", "runtime", "benchmarks")
"""Where the project's source is; the first is itself a package, the others hold one."""
ROOTS = [ROOT, *(ROOT / folder for folder in FOLDERS[1:])]
DUMP = Path(__file__).with_name("dump_bindings.py")

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
GROUP_PREFIX = "tensorrt-"


def pins() -> dict[str, str]:
    """Version: requirement, of the dependency groups tensorrt-*, oldest first. Groups, because one environment holds one version."""
    found = [group[0] for name, group in groups().items() if name.startswith(GROUP_PREFIX)]
    by_version = {requirement.partition("==")[2]: requirement for requirement in found}
    return dict(sorted(by_version.items(), key=lambda item: [int(number) for number in item[0].split(".")]))


def make_libraries(folder: Path, *, major: int) -> Path:
    """Compile the three stand-ins into `folder`: lib*.so.10 or lib*.so.11."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "nothing.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS) + "\n")
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except FileNotFoundError:
            cannot("gcc is missing: no stand-ins for TensorRT's libraries")
        assert done.returncode == 0, done.stderr
    return folder


def fetch(requirement: str) -> Path:
    """The folder that holds `tensorrt_bindings`, from the cache or from the package index, for the running Python."""
    cache = cache_folder("tensorrt-bindings")
    python = f"{sys.implementation.cache_tag}-{platform.machine()}"
    # The digest keeps a pin that was changed from finding the old folder.
    digest = hashlib.sha256(requirement.encode()).hexdigest()[:8]
    folder = cache / f"{requirement.replace('==', '-')}-{python}-{digest}"
    if (folder / "tensorrt_bindings" / "__init__.py").is_file():
        return folder
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        target = Path(temporary) / "wheel"
        options = ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "30", "--quiet"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            cannot(f"{requirement} cannot be had from the package index for {python}: {last}")
        try:
            target.rename(folder)
        except OSError:  # another process was quicker
            assert (folder / "tensorrt_bindings" / "__init__.py").is_file()
    return folder


def dump(bindings: Path, libraries: Path) -> dict[str, Any]:
    """Every name of the bindings; see dump_bindings.py. In a process of its own: one process loads one version."""
    # -S, no site-packages: an installed tensorrt_libs would load real libraries first.
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(bindings)}
    command = [sys.executable, "-S", "-W", "ignore", str(DUMP)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]
