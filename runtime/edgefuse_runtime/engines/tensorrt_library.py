"""Loading TensorRT, with an error that names the missing part and its install command on this machine."""

from __future__ import annotations

import importlib
import platform
import re
from pathlib import Path

from edgefuse.errors import MissingPackageError

OLDEST = (10, 3)
INSTALL = "pip install 'edgefuse[tensorrt]'"
FIRST_L4T_OF_CUDA_13 = 38
"""JetPack 7 is L4T R38 with CUDA 13; JetPack 6 is R36 with CUDA 12."""


def load_tensorrt(*, root: Path = Path("/")) -> str:
    """Check that `import tensorrt` works. Afterwards each function imports it itself, so that mypy can check its calls.

    Args:
        root: root of the file system.

    Returns:
        The version, such as "10.3.0".

    Raises:
        MissingPackageError: the bindings or their library libnvinfer are missing, or they are too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] != "tensorrt":
            raise MissingPackageError(f"TensorRT's Python bindings do not load ({error}). {_install(root)}") from error
        raise MissingPackageError(f"TensorRT's Python bindings are not installed. {_install(root)}") from error
    except (ImportError, OSError) as error:
        library = re.search(r"lib(nv|cu)\w+\.so[.\d]*", str(error))
        missing = f"the library {library.group()} is missing" if library else "a library that they need is missing"
        raise MissingPackageError(
            f"TensorRT's Python bindings are installed, but {missing} ({error}). {_libraries(root)}"
        ) from error
    if not hasattr(trt, "__version__"):  # Python imports any folder called tensorrt as a package, such as in /usr/src
        raise MissingPackageError(
            f"TensorRT's Python bindings are not installed: {list(trt.__path__)} is another folder of that name. {_install(root)}"
        )
    version = str(trt.__version__)
    if version_numbers(version) < OLDEST:
        raise MissingPackageError(
            f"TensorRT {version} is installed, {'.'.join(map(str, OLDEST))} or newer is needed. {_install(root)}"
        )
    return version


def version_numbers(version: str) -> tuple[int, ...]:
    """Turn "10.3.0" into (10, 3, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether this is a Jetson, whose TensorRT comes with JetPack, not from pip."""
    return platform.machine() == "aarch64" and (root / "etc/nv_tegra_release").is_file()


def install_command(package: str, *, root: Path = Path("/")) -> str:
    """The command that installs pycuda or cuda-bindings. On a Jetson without the extra, which may install a TensorRT from pip
    that hides JetPack's.
    """
    if not is_jetson(root):
        return INSTALL
    if package != "cuda-bindings":
        return f"pip install {package}"
    found = re.search(r"R(\d+)", (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace"))
    cuda_12 = found is not None and int(found.group(1)) < FIRST_L4T_OF_CUDA_13
    return f"pip install 'cuda-bindings{'<' if cuda_12 else '>='}13'"


def _install(root: Path) -> str:
    if not is_jetson(root):
        return f"Install them: {INSTALL}"
    found = sorted(path.parent for path in (root / "usr/lib").glob("python3*/dist-packages/tensorrt"))
    if not found:
        return (
            "This is a Jetson, whose TensorRT comes with JetPack, not from pip: sudo apt-get install python3-libnvinfer, then "
            "python3 -m venv --system-site-packages .venv, so that the environment can import it"
        )
    return (
        f"This is a Jetson and JetPack's bindings are in {found[0]}, which this environment cannot import: create it with "
        f"python3 -m venv --system-site-packages .venv, or add the folder: echo {found[0]} > "
        f"$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/jetpack.pth"
    )


def _libraries(root: Path) -> str:
    if is_jetson(root):
        return "This is a Jetson, whose TensorRT comes with JetPack: sudo apt-get install libnvinfer-bin python3-libnvinfer"
    return (
        f"Install bindings and libraries of the same version together: {INSTALL}; or add the library's folder to "
        f"LD_LIBRARY_PATH"
    )
