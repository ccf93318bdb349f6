"""The header of a slot of the ring: everything of a `Frame` but its pixels, where these are, and the counts up to the frame."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from edgefuse.framing import Roi
from edgefuse_runtime.camera import Counters, Frame, Sensor, TimestampDomain

HEADER = np.dtype(
    [
        *((name, np.uint64) for name in ("color_number", "depth_number")),
        *((name, np.float64) for name in ("depth_unit_m", "timestamp_ms", "skew_ms")),
        *((name, np.int64) for name in ("arrival_ns", "ready_ns")),
        *((name, np.uint64, 3) for name in ("rgb", "depth")),  # first byte, height, width
        ("counters", np.uint64, 5),
        ("roi", np.int64, 4),
        *((name, np.uint8) for name in ("domain", "is_aligned_to_depth", "has_roi", "has_label")),
        ("missing", np.uint8, 2),
        *((name, "S255") for name in ("name", "label")),
    ]
)

_DOMAINS: tuple[TimestampDomain, ...] = get_args(TimestampDomain)
_SENSORS: tuple[Sensor, ...] = get_args(Sensor)
_COUNTS = ("received", "delivered", "dropped", "stale", "skewed")
_COPIED = ("color_number", "depth_number", "depth_unit_m", "timestamp_ms", "arrival_ns", "ready_ns")


def write_header(buffer: Any, offset: int, frame: Frame, counters: Counters, *, rgb_at: int, depth_at: int) -> None:
    """Write the header of `frame` at `offset` of `buffer`. `rgb_at`, `depth_at`: where its images are."""
    header = np.ndarray((), HEADER, buffer=buffer, offset=offset)
    for name in _COPIED:
        header[name] = getattr(frame, name)
    header["skew_ms"] = np.nan if frame.skew_ms is None else frame.skew_ms
    header["rgb"] = rgb_at, *frame.rgb.shape[:2]
    header["depth"] = depth_at, *frame.depth.shape
    header["counters"] = [getattr(counters, name) for name in _COUNTS]
    header["roi"] = (0, 0, 0, 0) if frame.roi is None else frame.roi
    header["domain"] = _DOMAINS.index(frame.timestamp_domain)
    header["is_aligned_to_depth"] = frame.align == "depth"
    header["has_roi"], header["has_label"] = frame.roi is not None, frame.label is not None
    header["missing"] = [sensor in frame.missing for sensor in _SENSORS]
    header["name"], header["label"] = frame.name.encode()[:255], (frame.label or "").encode()[:255]


def read_header(buffer: Any) -> tuple[Frame, Counters]:
    """The frame whose header is at the start of `buffer`. Its images are views of `buffer`."""
    header = np.ndarray((), HEADER, buffer=buffer)
    rgb_at, rgb_height, rgb_width = header["rgb"].tolist()
    depth_at, *depth_shape = header["depth"].tolist()
    skew_ms = float(header["skew_ms"])
    name, label = (bytes(header[field]).rstrip(b"\0").decode(errors="replace") for field in ("name", "label"))
    frame = Frame(
        rgb=np.ndarray((rgb_height, rgb_width, 3), np.uint8, buffer=buffer, offset=rgb_at),
        depth=np.ndarray(tuple(depth_shape), np.uint16, buffer=buffer, offset=depth_at),
        align="depth" if header["is_aligned_to_depth"] else "color",
        timestamp_domain=_DOMAINS[int(header["domain"])],
        name=name,
        skew_ms=None if np.isnan(skew_ms) else skew_ms,
        missing=tuple(sensor for sensor, misses in zip(_SENSORS, header["missing"], strict=True) if misses),
        label=label if header["has_label"] else None,
        roi=Roi(*header["roi"].tolist()) if header["has_roi"] else None,
        **{name: header[name].item() for name in _COPIED},
    )
    return frame, Counters(**dict(zip(_COUNTS, header["counters"].tolist(), strict=True)))
