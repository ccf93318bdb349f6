"""pycuda, built from source into ~/.cache/edgefuse, for tests on machines without it; it has no wheels.

The headers of CUDA come from NVIDIA's wheels, as the group `pycuda` of pyproject.toml pins them, so no CUDA toolkit is needed,
and a library with libcuda's name stands for the driver while it is linked. What is built runs on any driver that is new enough.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from fetching import cache_folder, cannot, groups

GROUP = "pycuda"
PIP = [sys.executable, "-m", "pip"]
QUIETLY = ["--quiet", "--retries", "1", "--timeout", "30"]
BUILD_S = 900

SETTINGS = """
CUDA_ROOT = {stubs!r}
CUDA_INC_DIR = {headers!r}
CUDADRV_LIB_DIR = [{stubs!r}]
CUDART_LIB_DIR = [{stubs!r}]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O1", "-g0", "-w"]
"""


@cache
def pycuda_site() -> Path:
    """The folder with pycuda and cuda-bindings for sys.path; from the cache, or built in one to two minutes."""
    requirements = groups()[GROUP]
    # With the digest in its name, a changed pin or setting gets a new folder.
    digest = hashlib.sha256("\n".join([*requirements, SETTINGS]).encode()).hexdigest()[:8]
    cached = cache_folder("pycuda")
    folder = cached / f"{sys.implementation.cache_tag}-{platform.machine()}-{digest}"
    with (cached / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist's workers would each build their own
        if not folder.is_dir():
            missing = [name for name in ("gcc", "g++") if shutil.which(name) is None]
            if missing:
                cannot(f"{' and '.join(missing)} missing: pycuda cannot be built")
            with tempfile.TemporaryDirectory(dir=cached) as place:
                _build(Path(place), requirements).rename(folder)
    return folder


def _build(place: Path, requirements: list[str]) -> Path:
    pycuda, *others = requirements
    source = _fetched(place, pycuda)
    headers = [one for one in others if one.startswith("nvidia-")]
    _run([*PIP, "install", *QUIETLY, "--no-deps", "--only-binary", ":all:", "--target", str(place / "cuda"), *headers])
    stubs = place / "stubs"
    stubs.mkdir()
    (stubs / "nothing.c").write_text("int cuInit(unsigned flags) { return 0; }\n")
    library = ["-Wl,-soname,libcuda.so.1", "-o", str(stubs / "libcuda.so"), str(stubs / "nothing.c")]
    _run(["gcc", "-shared", "-fPIC", *library])
    includes = sorted(str(path) for path in (place / "cuda" / "nvidia").glob("*/include"))
    (source / "siteconf.py").write_text(SETTINGS.format(stubs=str(stubs), headers=includes))
    site = place / "site"
    rest = [one for one in others if not one.startswith("nvidia-")]
    _run([*PIP, "install", *QUIETLY, "--target", str(site), str(source), *rest])
    return site


def _fetched(place: Path, requirement: str) -> Path:
    """The unpacked source."""
    _run([*PIP, "download", *QUIETLY, "--no-deps", "--no-binary", "pycuda", "--dest", str(place), requirement])
    (archive,) = place.glob("pycuda-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(place / "source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = (place / "source").iterdir()
    return source


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        last = next((line for line in reversed(lines) if "error:" in line.lower()), lines[-1])
        cannot(f"pycuda cannot be fetched or built here: {last.strip()}")
