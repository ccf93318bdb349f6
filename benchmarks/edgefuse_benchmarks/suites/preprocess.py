"""Scope "preprocess": from a camera's pair in memory to the inputs of a network, edgefuse's framing against the usual preparation.

The usual preparation is what programs do by hand: OpenCV crops and resizes, NumPy converts to float and normalises. An exported
file normalises in its graph, so that this work is in scope "engine" for edgefuse, and here for the usual preparation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import open_bundle
from edgefuse.contract import InputContract, codes_from_bytes
from edgefuse.errors import UserError
from edgefuse.framing import Buffers, Framed, Roi, centre_square, fit
from edgefuse.measure import Plan, Ratio, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts, camera_facts
from edgefuse_runtime.camera import Frame, frames
from edgefuse_runtime.cameras import open_camera

PLAN = Plan(warmup_s=0.3, min_warmup_calls=20, measure_s=10.0, min_rounds=200, max_rounds=2000)
QUICK_PLAN = Plan(warmup_s=0.1, min_warmup_calls=10, measure_s=2.0, min_rounds=50, max_rounds=1000)
NUM_PAIRS = 32
FRAMING = "framing.fit"
FRAMING_INTO = "framing.fit into given memory"
USUAL = "usual: OpenCV linear (aliases), NumPy"
USUAL_AREA = "usual: OpenCV area, NumPy"
RATIOS = ((FRAMING, USUAL), (FRAMING, USUAL_AREA), (FRAMING_INTO, USUAL), (USUAL_AREA, USUAL))
"""OpenCV's linear resize is fast and aliases when it shrinks; its area resize does not alias, and neither does edgefuse's."""
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
"""Of ImageNet, as torchvision's weights expect."""
NOTE = "edgefuse's files normalise in their graph: that part is in scope engine, here only in the usual preparation"
MAX_LEVELS = 12.0
"""Largest mean difference of RGB between edgefuse and the usual preparation, in levels of 255: methods of resizing differ."""
MIN_EQUAL_DEPTH = 0.7
"""Smallest fraction of depth pixels that agree within 20 mm: INTER_NEAREST takes a corner where INTER_NEAREST_EXACT takes the middle, so
they differ by half a pixel of the result."""


@dataclass(frozen=True, kw_only=True)
class CameraPairs:
    """Frames of a camera, and its description."""

    frames: tuple[Frame, ...]
    description: dict[str, Any]


def read_pairs(spec: str, *, contract: InputContract, num_pairs: int = NUM_PAIRS) -> CameraPairs:
    """The first frames of a camera, aligned as the contract requires.

    Raises:
        UserError: no camera, or no frame.
    """
    with open_camera(spec, align=contract.align) as camera:
        kept = tuple(frames(camera, num_frames=num_pairs))
        described = camera_facts(camera.description)
    if not kept:
        raise UserError(f"--camera {spec} returned no frame: use another one, such as --camera synthetic")
    return CameraPairs(frames=kept, description=described)


def usual_preparation(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint16], *, contract: InputContract, roi: Roi, unit_m: float, area: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normalised RGB [1, 3, S, S], and depth with its validity [1, 2, S, S], both float32.

    Args:
        roi: a square inside the image.
        area: resize RGB with INTER_AREA, which does not alias, instead of INTER_LINEAR.
    """
    inside, size = (slice(roi.y, roi.y + roi.h), slice(roi.x, roi.x + roi.w)), (contract.size, contract.size)
    rgb_small = cv2.resize(rgb[inside], size, interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    depth_small = cv2.resize(depth[inside], size, interpolation=cv2.INTER_NEAREST)
    rgb_float = (rgb_small.astype(np.float32) / 255.0 - MEAN) / STD
    depth_m = depth_small.astype(np.float32) * np.float32(unit_m)
    valid = (depth_m > 0).astype(np.float32)
    scaled = (np.clip(depth_m, contract.near_m, contract.far_m) - contract.near_m) / (contract.far_m - contract.near_m)
    planes = np.stack([scaled * valid, valid]).astype(np.float32)
    return np.ascontiguousarray(rgb_float.transpose(2, 0, 1))[np.newaxis], planes[np.newaxis]


def bench_preprocess(bundle_folder: Path, *, camera: str = "synthetic", plan: Plan = PLAN) -> Report:
    """Measure the preparation of the centre square of each pair, with one thread of OpenCV.

    Args:
        bundle_folder: its input size, alignment and depth range are used.
        camera: source of the pairs; see `edgefuse_runtime.cameras.open_camera`.

    Raises:
        UserError: no bundle or camera, or a camera without frames.
        ParityError: the preparations give different images; nothing was measured.
    """
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    contract = bundle.manifest.contract
    pairs = read_pairs(camera, contract=contract)
    parity: list[dict[str, Any]] = []
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        series = measure(
            [Variant(name=name, call=_next(pairs.frames, way)) for name, way in _ways(contract).items()],
            plan=plan,
            check=lambda: _compare(pairs.frames, contract, parity),
        )
    finally:
        cv2.setNumThreads(num_threads)
    height, width = pairs.frames[0].depth.shape
    return Report(
        benchmark="preprocess",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            "camera": pairs.description,
            "num_pairs": len(pairs.frames),
            "opencv_threads": 1,
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=tuple(parity),
        groups=(
            Group(
                scope="preprocess",
                name=f"{width}x{height} to {contract.size} px",
                series=series,
                ratios=_ratios(series),
            ),
        ),
        notes=(
            "edgefuse's files normalise in their graph: that part is in scope engine, here only in the usual preparation",
        ),
    )


def _ways(contract: InputContract) -> dict[str, Callable[[Frame], object]]:
    size = contract.size
    return {
        USUAL: partial(_usual, contract=contract, area=False),
        USUAL_AREA: partial(_usual, contract=contract, area=True),
        FRAMING: partial(_framed, size=size),
        FRAMING_INTO: partial(_framed, size=size, out=Buffers(size)),
    }


def _ratios(series: Sequence[Series]) -> tuple[Ratio, ...]:
    by_name = {one.name: one for one in series}
    return tuple(ratio(by_name[name], by_name[other]) for name, other in RATIOS)


def _usual(frame: Frame, *, contract: InputContract, area: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    roi = centre_square(*frame.depth.shape)
    return usual_preparation(frame.rgb, frame.depth, contract=contract, roi=roi, unit_m=frame.depth_unit_m, area=area)


def _framed(frame: Frame, *, size: int, out: Buffers | None = None) -> Framed:
    roi = centre_square(*frame.depth.shape)
    return fit(frame.rgb, frame.depth, size=size, roi=roi, depth_unit_m=frame.depth_unit_m, out=out)


def _next(all_frames: Sequence[Frame], way: Callable[[Frame], object]) -> Callable[[], object]:
    """A function that prepares the next frame each time."""
    following = itertools.cycle(all_frames)
    return lambda: way(next(following))


def _compare(all_frames: Sequence[Frame], contract: InputContract, parity: list[dict[str, Any]]) -> list[str]:
    """Differences between the images of the usual preparations and those of edgefuse, as text."""
    problems = []
    for name, area in ((USUAL, False), (USUAL_AREA, True)):
        levels, equal = [], []
        for frame in all_frames:
            rgb, depth = _usual(frame, contract=contract, area=area)
            framed = _framed(frame, size=contract.size)
            pixels = (rgb[0].transpose(1, 2, 0) * STD + MEAN) * 255
            levels.append(np.abs(pixels - framed.rgb).mean())
            found_m = depth[0, 0] * (contract.far_m - contract.near_m) + contract.near_m
            wanted_m = np.clip(codes_from_bytes(framed.depth) / 1000, contract.near_m, contract.far_m)
            valid = codes_from_bytes(framed.depth) > 0
            equal.append(((np.abs(found_m - wanted_m) < 0.02) | ~valid)[(depth[0, 1] > 0) == valid].mean())
        mean_levels, mean_equal = float(np.mean(levels)), float(np.mean(equal))
        parity.append(
            {
                "reference": name,
                "candidate": FRAMING,
                "num_samples": len(all_frames),
                "mean_rgb_difference_levels": mean_levels,
                "depth_equal_fraction": mean_equal,
            }
        )
        if not (mean_levels <= MAX_LEVELS and mean_equal >= MIN_EQUAL_DEPTH):
            problems.append(
                f"{FRAMING} against {name}: RGB differs by {mean_levels:.3g} levels on average (at most {MAX_LEVELS:g}), "
                f"{mean_equal:.1%} of depth agrees (at least {MIN_EQUAL_DEPTH:.0%})"
            )
    return problems
