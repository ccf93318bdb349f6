"""What the tests on a GPU share: the GPU, or the reason to skip; a bundle with real answers; and what each records.

Each test records its figures with `record_property`; `make gpu-report` keeps them with hardware and versions.
`EDGEFUSE_GPU_BUNDLE=BUNDLE` takes that bundle instead of a small one that is trained on the spot, for devices without torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.errors import MissingPackageError
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError, current_gpu
from pycuda_site import pycuda_site

if TYPE_CHECKING:
    from edgefuse.bundle import Samples


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return current_gpu()
    except NoGpuError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a file of each precision and 16 frames, which a test may add engines to."""
    given, folder = os.environ.get("EDGEFUSE_GPU_BUNDLE"), tmp_path_factory.mktemp("gpu") / "bundle"
    if given:
        shutil.copytree(Path(given), folder)
        return open_bundle(folder)
    pytest.importorskip("torch", reason="torch is not installed: name a bundle, EDGEFUSE_GPU_BUNDLE=BUNDLE")
    from edgefuse.training.recipe import TrainConfig
    from edgefuse.training.trainer import train
    from edgefuse_export.onnx.export import export_run

    data = request.getfixturevalue("colour_and_range")
    config = TrainConfig(size=64, epochs=4, batch_size=8)
    run = train([data], tmp_path_factory.mktemp("gpu-run") / "run", config=config).folder
    return export_run(run, folder, precisions=("fp32", "fp16", "int8"), num_calibration_frames=20).bundle


@pytest.fixture(scope="session")
def samples(bundle: Bundle) -> Samples:
    return bundle.samples()


@pytest.fixture(scope="session")
def pycuda(gpu: Gpu) -> None:
    """pycuda, built from source where it is missing."""
    from edgefuse_runtime.engines.pycuda_memory import open_gpu_memory

    if find_spec("pycuda") is None:
        sys.path.append(str(pycuda_site()))
    try:
        assert open_gpu_memory().properties.name == gpu.name
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def onnxruntime_cuda(gpu: Gpu) -> None:
    from edgefuse_runtime.engines.onnxruntime import load_onnxruntime

    try:
        load_onnxruntime("cuda")
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tensorrt() -> str:
    """TensorRT's version."""
    from edgefuse_runtime.engines.tensorrt_library import load_library

    try:
        return load_library().version
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def rtx(gpu: Gpu) -> str:
    """TensorRT-RTX's version."""
    from edgefuse_runtime.engines.tensorrt_library import RTX, load_library

    try:
        library = load_library(RTX)
    except MissingPackageError as error:
        pytest.skip(str(error))
    if f"SM{gpu.compute_capability.replace('.', '')}" not in library.module.ComputeCapability.__members__:
        pytest.skip(f"TensorRT-RTX {library.version} does not build for {gpu.name} ({gpu.compute_capability})")
    return library.version


@pytest.fixture(scope="session")
def build_for_rtx_once(
    bundle: Bundle, pycuda: None, rtx: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """As `build_once`, for TensorRT-RTX."""
    from edgefuse_export.tensorrt.build import BuildOptions, build_engine

    @cache
    def build(precision: str) -> Bundle:
        folder = tmp_path_factory.mktemp("rtx") / f"bundle-{precision}"
        shutil.copytree(bundle.folder, folder)
        return build_engine(folder, BuildOptions(precision=precision, engine="rtx", targets=("current",))).bundle

    return build


@pytest.fixture(scope="session")
def built_for_rtx(build_for_rtx_once: Callable[[str], Bundle]) -> Bundle:
    """The bundle with an FP16 engine of this GPU for TensorRT-RTX."""
    return build_for_rtx_once("fp16")


@pytest.fixture(scope="session")
def build_once(
    bundle: Bundle, gpu: Gpu, pycuda: None, tensorrt: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """Precision -> the bundle with an engine of that precision alone, for this GPU; built the first time."""
    from edgefuse_export.tensorrt.build import BuildOptions, build_engine

    @cache
    def build(precision: str) -> Bundle:
        folder = tmp_path_factory.mktemp("tensorrt") / f"bundle-{precision}"
        shutil.copytree(bundle.folder, folder)
        return build_engine(folder, BuildOptions(precision=precision)).bundle

    return build


@pytest.fixture(scope="session")
def built(build_once: Callable[[str], Bundle]) -> Bundle:
    """The bundle with an FP16 engine of this GPU."""
    return build_once("fp16")


@pytest.fixture(params=["fp16", "int8", "fp32"])
def precision(request: pytest.FixtureRequest, bundle: Bundle) -> str:
    """Each precision that the bundle has a file of."""
    found = str(request.param)
    if found not in {entry.precision for entry in bundle.manifest.files.values()}:
        pytest.skip(f"the bundle has no {found} file: edgefuse export RUN --out BUNDLE --precision fp32,fp16,int8")
    return found
