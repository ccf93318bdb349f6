"""The GPUs that a plan for TensorRT-RTX is built for: the names of `edgefuse build --for`, and the default.

The library builds for any of its GPUs on any machine, and needs no GPU itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefuse.errors import UserError
from edgefuse.io.text import quoted
from edgefuse_export.tensorrt.inspect_engine import ParsedLayers
from edgefuse_runtime.engines.build_command import sm_name
from edgefuse_runtime.engines.cuda_device import Gpu
from edgefuse_runtime.engines.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt

CURRENT = "current"
"""The GPU of this machine."""

TURING = "7.5"
"""It has no FP32 matrix multiplication in TensorRT-RTX, and NVIDIA advises against plans for Turing and others together, which may be
slower on the others (TensorRT-RTX's support matrix, note 1). So it is only built for when it is named."""

_JETSON = {"sm53": "Nano", "sm62": "TX2", "sm72": "Xavier", "sm87": "Orin", "sm101": "Thor", "sm110": "Thor"}
_DATA_CENTRE = {"sm60": "P100", "sm70": "V100", "sm90": "H100 and H200", "sm100": "B200", "sm103": "B300"}

_log = logging.getLogger(__name__)


class TargetError(UserError):
    """TensorRT-RTX does not build for this GPU. The message names the GPUs that it builds for, or the engine to use instead."""


def targets_for(wanted: Sequence[str], *, library: Library, gpu: Gpu | None) -> tuple[str, ...]:
    """The compute capabilities to build for, in numeric order.

    Args:
        wanted: names such as "sm89" or "current"; none = the GPU of this machine, and without one all of the library but Turing.
        library: TensorRT-RTX.
        gpu: of this machine.

    Raises:
        TargetError: a name that the library does not build for.
    """
    supported = _supported(library)
    if not wanted and gpu is None:
        found = tuple(one for one in supported if one != TURING)
        _log.info(
            "no GPU here and no --for: building for %s; for a GeForce RTX 20 or GTX 16 (Turing) build again with --for %s",
            _listed(found),
            sm_name(TURING),
        )
        return found
    chosen = {_target(name.strip().lower(), library=library, gpu=gpu) for name in wanted or (CURRENT,)}
    return tuple(one for one in supported if one in chosen)


def set_targets(library: Library, config: trt.IBuilderConfig, targets: Sequence[str], *, parsed: ParsedLayers) -> None:
    """Make the build one for these compute capabilities; without any, TensorRT builds for the GPU of this machine.

    Raises:
        TargetError: the parsed network has layers that one of them does not support.
    """
    trt = library.module
    if not (hasattr(config, "num_compute_capabilities") and hasattr(config, "set_compute_capability")):
        return  # only TensorRT-RTX has targets
    if not targets or not hasattr(trt, "ComputeCapability"):
        return
    if TURING in targets and (num_products := parsed.get("float", {}).get("matrix_multiply", 0)):
        others = ",".join(sm_name(one) for one in targets if one != TURING)
        raise TargetError(
            f"{library.title} has no FP32 matrix multiplication on Turing ({sm_name(TURING)}), and this file has {num_products}: "
            f"build for {sm_name(TURING)} with --precision fp16, from a file with no linear layer kept in FP32"
            f"{f'; or leave it out: --for {others}' if others else ''}"
        )
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not config.set_compute_capability(trt.ComputeCapability.__members__[sm_name(target).upper()], index):
            raise TargetError(
                f"{library.title} does not build for {_listed(targets)} at once: build for one after the other"
            )


def _target(name: str, *, library: Library, gpu: Gpu | None) -> str:
    """The compute capability of one name."""
    supported = _supported(library)
    if name == CURRENT:
        if gpu is None:
            raise TargetError(
                f"--for {CURRENT} is the GPU of this machine, which has none: name the GPUs to build for: {_listed(supported)}"
            )
        if gpu.compute_capability not in supported:
            raise TargetError(
                f"{_refusal(sm_name(gpu.compute_capability), what=f'{gpu.name}, the GPU of this machine,', library=library)}. To build "
                f"for other machines: --for {','.join(map(sm_name, supported))}"
            )
        return gpu.compute_capability
    known = {sm_name(one): one for one in supported}
    if name not in known:
        raise TargetError(_refusal(name, what=f"--for {quoted(name)}", library=library))
    return known[name]


def _refusal(name: str, *, what: str, library: Library) -> str:
    if name in _JETSON:
        return (
            f"{what} is a Jetson {_JETSON[name]}, and {library.title} is for desktop and workstation GPUs: build on the device: "
            f"edgefuse build BUNDLE --engine tensorrt"
        )
    if name in _DATA_CENTRE:
        return (
            f"{what} is a data-centre GPU ({_DATA_CENTRE[name]}), and {library.title} is for desktop and workstation GPUs: build on that "
            f"machine: edgefuse build BUNDLE --engine tensorrt"
        )
    return f"{what} is none of the GPUs that {library.title} builds for: {_listed(_supported(library))}, or {CURRENT}"


def _supported(library: Library) -> tuple[str, ...]:
    """The compute capabilities that the library builds for, in numeric order."""
    trt = library.module
    if not hasattr(trt, "ComputeCapability"):
        return ()
    names = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    numbers = sorted(int(name.removeprefix("SM")) for name in names)
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def _listed(compute_capabilities: Sequence[str]) -> str:
    return ", ".join(map(sm_name, compute_capabilities))
