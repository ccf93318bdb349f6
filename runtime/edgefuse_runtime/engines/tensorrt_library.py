"""Loading TensorRT or TensorRT-RTX, with an error that names the missing part and its install command on this machine.

Both have the same Python API, so the code that uses them takes a `Library`.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefuse.errors import MissingPackageError

FIRST_L4T_OF_CUDA_13 = 38
"""JetPack 7 is L4T R38 with CUDA 13; JetPack 6 is R36 with CUDA 12."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One of the two libraries.

    Attributes:
        name: in messages.
        engine: value of `--engine`.
        package: of its Python bindings.
        oldest: version that the project supports.
        install: the command that installs it on a desktop.
    """

    name: str
    engine: str
    package: str
    oldest: tuple[int, int]
    install: str


TENSORRT = Product(
    name="TensorRT", engine="tensorrt", package="tensorrt", oldest=(10, 3), install="pip install 'edgefuse[tensorrt]'"
)
RTX = Product(
    name="TensorRT-RTX", engine="rtx", package="tensorrt_rtx", oldest=(1, 4), install="pip install 'edgefuse[rtx]'"
)


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library that loads.

    Attributes:
        product: `TENSORRT` or `RTX`.
        module: its Python bindings. `trt = library.module` is what mypy checks as `import tensorrt as trt` in
            tests/test_tensorrt_api.py, so write it like that.
        version: such as "10.3.0".
    """

    product: Product
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version, such as "TensorRT 10.3.0"."""
        return f"{self.product.name} {self.version}"


def is_installed(product: Product) -> bool:
    """Whether the bindings can be found. Does not import them."""
    try:
        return importlib.util.find_spec(product.package) is not None
    except ValueError:  # imported, but not from a file
        return True


def load_library(product: Product = TENSORRT, *, root: Path = Path("/")) -> Library:
    """Import the Python bindings of TensorRT or TensorRT-RTX.

    Args:
        root: root of the file system.

    Raises:
        MissingPackageError: the bindings or their library are missing, or they are too old.
    """
    name = product.name
    try:
        trt = importlib.import_module(product.package)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] != product.package:
            raise MissingPackageError(
                f"{name}'s Python bindings do not load ({error})", _install(product, root)
            ) from error
        raise MissingPackageError(f"{name}'s Python bindings are not installed", _install(product, root)) from error
    except (ImportError, OSError) as error:
        library = re.search(r"lib(nv|cu|tensorrt)\w+\.so[.\d]*", str(error))
        missing = f"the library {library.group()} is missing" if library else "a library that they need is missing"
        raise MissingPackageError(
            f"{name}'s Python bindings are installed, but {missing} ({error})", _libraries(product, root)
        ) from error
    if not hasattr(trt, "__version__"):  # Python imports any folder called tensorrt as a package, such as in /usr/src
        raise MissingPackageError(
            f"{name}'s Python bindings are not installed: {list(trt.__path__)} is another folder of that name",
            _install(product, root),
        )
    version = str(trt.__version__)
    if version_numbers(version) < product.oldest:
        raise MissingPackageError(
            f"{name} {version} is installed, {'.'.join(map(str, product.oldest))} or newer is needed",
            _install(product, root),
        )
    return Library(product=product, module=trt, version=version)


def version_numbers(version: str) -> tuple[int, ...]:
    """Turn "10.3.0" into (10, 3, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether this is a Jetson, whose TensorRT comes with JetPack, not from pip."""
    return platform.machine() == "aarch64" and (root / "etc/nv_tegra_release").is_file()


def install_command(package: str, *, product: Product = TENSORRT, root: Path = Path("/")) -> str:
    """The command that installs pycuda or cuda-bindings for `product`. On a Jetson without the extra, which may install a TensorRT
    from pip that hides JetPack's.
    """
    if not is_jetson(root):
        return product.install
    if package != "cuda-bindings":
        return f"pip install {package}"
    found = re.search(r"R(\d+)", (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace"))
    cuda_12 = found is not None and int(found.group(1)) < FIRST_L4T_OF_CUDA_13
    return f"pip install 'cuda-bindings{'<' if cuda_12 else '>='}13'"


def _install(product: Product, root: Path) -> str:
    if product is RTX and is_jetson(root):
        return "TensorRT-RTX is for desktop and workstation GPUs; on a Jetson use TensorRT: --engine tensorrt"
    if not is_jetson(root):
        return f"Install them: {product.install}"
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


def _libraries(product: Product, root: Path) -> str:
    if product is TENSORRT and is_jetson(root):
        return "This is a Jetson, whose TensorRT comes with JetPack: sudo apt-get install libnvinfer-bin python3-libnvinfer"
    return (
        f"Install bindings and libraries of the same version together: {product.install}; or add the library's folder to "
        f"LD_LIBRARY_PATH"
    )
