"""The results of a frame as a message for viewers."""

from __future__ import annotations

from collections.abc import Sequence

from edgefuse.framing import Roi
from edgefuse_runtime.results import Result
from edgefuse_runtime.web.messages import Frame, Region


def contribution_rgb(result: Result) -> float | None:
    """What RGB contributes to an answer, 0 to 1; depth contributes the rest. All, if depth is missing or frozen; None without both, and without an object."""
    if result.roi is None:
        return None
    are_ok = result.sensors.rgb == "ok", result.sensors.depth == "ok"
    if are_ok == (True, True):
        return None if result.gate_mean is None else round(1.0 - result.gate_mean, 4)
    return None if not any(are_ok) else float(are_ok[0])


def frame_of(results: Sequence[Result], *, shape: tuple[int, ...], num_bytes: tuple[int, int]) -> Frame:
    """The message about a frame.

    Args:
        results: of its regions, at least one.
        shape: [H, W] of the camera's images.
        num_bytes: lengths of the JPEG files, colour and depth.
    """
    first = results[0]
    height, width = shape
    return Frame(
        id=first.index,
        frame=first.frame,
        name=first.name,
        width=width,
        height=height,
        rgb_bytes=num_bytes[0],
        depth_bytes=num_bytes[1],
        latency_ms=results[-1].latency_ms,
        regions=tuple(_region(result, result.roi) for result in results if result.roi is not None),
    )


def _region(result: Result, roi: Roi) -> Region:
    return Region(
        id=result.index,
        region=result.region,
        object=result.object,
        decided=result.decided,
        roi=(roi.x, roi.y, roi.w, roi.h),
        label=result.label,
        probability=result.probability,
        top=result.top,
        contribution_rgb=contribution_rgb(result),
        nearest_m=result.nearest_m,
        valid_depth=result.valid_depth,
        sensors=result.sensors._asdict(),
        warning=result.warning,
        expected=result.expected,
        correct=result.correct,
    )
