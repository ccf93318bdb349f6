"""Runs every check of `edgefuse doctor`. Owns the order, the time limit, and that no check ends the others; `commands` shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse.errors import MissingPackageError
from edgefuse.io.environment import installed
from edgefuse_runtime.doctor import check, machine, packages
from edgefuse_runtime.doctor.probe import Facts, probe

if TYPE_CHECKING:
    from edgefuse_runtime.engines.tensorrt_library import Product

LIMIT_S = 20.0
"""For importing one library. PyTorch takes up to 10 s from a cold disk; what is missing takes no time."""

_PACKAGES = ("opencv", "torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "openvino", "pyrealsense2")


def examine(*, root: Path = Path("/"), folder: Path = Path(), limit_s: float = LIMIT_S) -> tuple[check.Check, ...]:
    """Check everything, in parallel. A check that fails is "broken" with the reason; nothing is raised.

    Args:
        root: root of the file system.
        folder: whose disk to check.
        limit_s: for each library.
    """
    names = ("cuda_driver", *_PACKAGES)
    with ThreadPoolExecutor(len(names)) as pool:
        facts = dict(zip(names, pool.map(partial(_facts, limit_s=limit_s, root=root), names), strict=True))
    return tuple(_guarded(component, run) for component, run in _checks(facts, root=root, folder=folder))


def _guarded(component: check.Component, run: Callable[[], check.Check]) -> check.Check:
    try:
        return run()
    except Exception as error:  # one component that nobody expected must not hide the others
        return component.is_now("broken", check.brief(f"the check failed: {type(error).__name__}: {error}"))


def _facts(name: str, *, limit_s: float, root: Path) -> Facts:
    """What a library reports; {"missing": true} without a child process if it is not installed."""
    try:
        if name == "cuda_driver" or (found := installed(name)):
            facts = probe(name, limit_s=limit_s)
            return facts if name == "cuda_driver" else {**facts, "packages": list(found)}
        return {"missing": True, **_how_to_install(name, root)}
    except Exception as error:  # such as no memory for another process
        return {"problem": str(error) or type(error).__name__}


def _how_to_install(name: str, root: Path) -> Facts:
    """The step that the engine itself would give: on a Jetson, it differs."""
    from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, load_library

    product = {"tensorrt": TENSORRT, "tensorrt_rtx": RTX}.get(name)
    if product is not None:
        try:
            load_library(product, root=root)
        except MissingPackageError as error:
            return {"step": error.step}
    return {}


def _checks(
    facts: dict[str, Facts], *, root: Path, folder: Path
) -> Sequence[tuple[check.Component, Callable[[], check.Check]]]:
    """Each component in the order shown, and the function that checks it."""
    from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, install_command, is_jetson

    here = packages.Machine(gpu=facts["cuda_driver"].get("name"), is_jetson=is_jetson(root))
    install_pycuda = install_command("pycuda", root=root)

    def tensorrt(component: check.Component, product: Product) -> tuple[check.Component, Callable[[], check.Check]]:
        found = facts[component.key]
        return component, lambda: packages.tensorrt(found, component, install=product.install)

    return (
        (check.PYTHON, machine.python),
        (check.OPENCV, lambda: packages.opencv(facts["opencv"])),
        (check.DISK, lambda: machine.disk(folder)),
        (check.POWER_MODE, lambda: machine.power_mode(is_jetson=here.is_jetson, root=root)),
        (check.TORCH, lambda: packages.torch(facts["torch"], here)),
        (check.ONNXRUNTIME, lambda: packages.onnxruntime(facts["onnxruntime"], here)),
        (check.CUDA_DRIVER, lambda: machine.cuda_driver(facts["cuda_driver"], root=root)),
        tensorrt(check.TENSORRT, TENSORRT),
        tensorrt(check.TENSORRT_RTX, RTX),
        (check.PYCUDA, lambda: packages.pycuda(facts["pycuda"], here, install=install_pycuda)),
        (check.OPENVINO, lambda: packages.openvino(facts["openvino"])),
        (check.PYREALSENSE2, lambda: packages.pyrealsense2(facts["pyrealsense2"])),
        (check.UDEV_RULES, lambda: machine.udev_rules(root=root)),
    )
