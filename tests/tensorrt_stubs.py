"""Type stubs of TensorRT's real Python bindings, generated from the wheels that pyproject.toml pins; no TensorRT is installed.

The bindings link NVIDIA's libraries. Stand-ins with their names and nine functions that return NULL let them be imported, and
pybind11-stubgen writes down every class, signature and enum. Wheels and stubs are kept in ~/.cache/edgefuse.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fetching import cache_folder, cannot, groups

SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
MAY_FAIL = (
    "build_serialized_network|deserialize_cuda_engine|create_execution_context|create_timing_cache|get_timing_cache"
)
CORRECTIONS = (
    # C++ in the docstrings: default values, and types that were registered after the function that names them.
    (r"<\w+\.\w+: -?\d+>", "..."),
    (r"\w+::accessor<[\w:]+>", "IPluginRegistry"),
    (r"\b(?:\w+::)+(\w+)", r"\1"),
    (r"\bI(Builder|ParserError)\b", r"\1"),
    # trt.bool is a DataType.
    (r"(-> |: |\[|\| )bool\b", r"\1builtins.bool"),
    # Invalid Python in the methods of plugins.
    (r"(?<=[ (])in(?=: )", "in_"),
    (r"(?<== None, )(\w+: [\w.]+)(?=[,)])", r"\1 = ..."),
    # pybind11 calls overrides with an int, and a parameter that takes any enum as a number would check nothing.
    (r"typing\.SupportsInt\b", "int"),
    # Conversions and slots of the C type, which are not in the docstrings.
    (r"(?<=: )Dims(?=[,)])", "Dims | collections.abc.Sequence[int]"),
    (r"(?m)^class Dims:$", "class Dims:\n    def __iter__(self) -> collections.abc.Iterator[int]: ..."),
    (r"(?m)^class IHostMemory:$", "class IHostMemory:\n    def __buffer__(self, flags: int, /) -> memoryview: ..."),
    # These return None on failure, according to the documentation of TensorRT; the types in the docstrings omit it.
    (rf"(def (?:{MAY_FAIL})\(.*-> \w+)", r"\1 | None"),
)
"""Regular expressions for the generated text, in this order."""
ABSTRACT = re.compile(
    r"^class I\w+:\n(?:(?!class ).*\n)*?    def __init__\(self\) -> None:\n(?:(?!class ).*\n)*", re.MULTILINE
)
"""Interfaces that Python implements; TensorRT calls all of their methods."""


def pins() -> dict[str, str]:
    """Version -> requirement, of the dependency groups. Groups, because one environment holds one version."""
    found = [str(requirement).partition(";")[0] for group in groups().values() for requirement in group]
    return {one.partition("==")[2]: one for one in found if re.match(r"tensorrt-.*bindings==", one)}


def stubs(requirement: str) -> Path:
    """A folder for MYPYPATH with a package `tensorrt`, for any name of the bindings."""
    bindings = fetch(requirement)
    folder = bindings / f"stubs-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=bindings) as temporary:
            made = Path(temporary) / "stubs"
            generate(bindings, made)
            _keep(made, folder)
    return folder


def fetch(requirement: str) -> Path:
    """The folder with the bindings, from the cache or from the package index, for the running Python."""
    cache = cache_folder("tensorrt-bindings")
    python = f"{sys.implementation.cache_tag}-{platform.machine()}"
    # With the digest in its name, a changed pin gets a new folder.
    digest = hashlib.sha256(requirement.encode()).hexdigest()[:8]
    folder = cache / f"{requirement.replace('==', '-')}-{python}-{digest}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            target = Path(temporary) / "wheel"
            options = ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "30", "--quiet"]
            command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), requirement]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                cannot(f"{requirement} cannot be had from the package index for {python}: {last}")
            _keep(target, folder)
    return folder


def generate(bindings: Path, out: Path) -> None:
    """Write stubs of the bindings in `bindings` into `out`."""
    (library,) = bindings.glob("tensorrt*_bindings/tensorrt*.so")
    package = library.parent.name
    with tempfile.TemporaryDirectory() as stand_ins:
        _stand_in_for(library, Path(stand_ins))
        env = {**os.environ, "LD_LIBRARY_PATH": stand_ins, "PYTHONPATH": os.pathsep.join([str(bindings), *sys.path])}
        options = ["--print-invalid-expressions-as-is", "--output-dir", str(out)]
        command = [sys.executable, "-W", "ignore", "-m", "pybind11_stubgen", *options, package]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    for path in out.rglob("*.pyi"):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in CORRECTIONS:
            text = re.sub(pattern, replacement, text)
        text = ABSTRACT.sub(
            lambda found: re.sub(r"(?m)^    def (?!_)", "    @abc.abstractmethod\n    def ", found[0]), text
        )
        path.write_text(f"# mypy: ignore-errors\nimport abc\nimport builtins\n{text}", encoding="utf-8")
    (out / "tensorrt").mkdir()
    (out / "tensorrt" / "__init__.pyi").write_text(f"from {package} import *\n__version__: str\n", encoding="utf-8")


def _stand_in_for(library: Path, folder: Path) -> None:
    """Compile empty replacements of the NVIDIA libraries that `library` links: lib*.so.10, .so.11 or, for TensorRT-RTX, .so.1."""
    source = folder / "nothing.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS) + "\n")
    for name in set(re.findall(rb"lib(?:nv|tensorrt)\w+\.so\.\d+", library.read_bytes())):
        try:
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / name.decode(), source], check=True, timeout=120)
        except FileNotFoundError:
            cannot("gcc is missing: no stand-ins for TensorRT's libraries")


def _keep(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:  # another process was faster
        assert folder.is_dir()
