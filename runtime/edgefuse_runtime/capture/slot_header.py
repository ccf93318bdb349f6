"""The header of a slot of the ring: everything of a `Frame` but its pixels, where these are, and the counts up to the frame."""

from __future__ import annotations

import math
import struct
from itertools import compress
from typing import Any, get_args

import numpy as np

from edgefuse.framing import Roi
from edgefuse_runtime.camera import Counters, Frame, Sensor, TimestampDomain

_HEADER = struct.Struct("<2Q3d2q6Q5Q4q6BH255sH255s")  # the fields of `write_header`, in their order

_DOMAINS: tuple[TimestampDomain, ...] = get_args(TimestampDomain)
_SENSORS: tuple[Sensor, ...] = get_args(Sensor)
_NO_ROI = Roi(0, 0, 0, 0)


def write_header(buffer: Any, offset: int, frame: Frame, counters: Counters, *, rgb_at: int, depth_at: int) -> None:
    """Write the header of `frame` at `offset` of `buffer`. `rgb_at`, `depth_at`: where its images are."""
    name, label = frame.name.encode()[:255], (frame.label or "").encode()[:255]
    _HEADER.pack_into(
        buffer,
        offset,
        frame.color_number,
        frame.depth_number,
        frame.depth_unit_m,
        frame.timestamp_ms,
        math.nan if frame.skew_ms is None else frame.skew_ms,
        frame.arrival_ns,
        frame.ready_ns,
        *(rgb_at, *frame.rgb.shape[:2]),
        *(depth_at, *frame.depth.shape),
        *(counters.received, counters.delivered, counters.dropped, counters.stale, counters.skewed),
        *(frame.roi or _NO_ROI),
        _DOMAINS.index(frame.timestamp_domain),
        frame.align == "depth",
        frame.roi is not None,
        frame.label is not None,
        *(sensor in frame.missing for sensor in _SENSORS),
        *(len(name), name, len(label), label),
    )


def read_header(buffer: Any) -> tuple[Frame, Counters]:
    """The frame whose header is at the start of `buffer`. Its images are views of `buffer`."""
    color_number, depth_number, depth_unit_m, timestamp_ms, skew_ms, arrival_ns, ready_ns, *others = (
        _HEADER.unpack_from(buffer)
    )
    rgb_at, rgb_height, rgb_width, depth_at, depth_height, depth_width, *others = others
    received, delivered, dropped, stale, skewed, x, y, w, h, *others = others
    domain, is_aligned_to_depth, has_roi, has_label, *missing, name_bytes, name, label_bytes, label = others
    frame = Frame(
        rgb=np.ndarray((rgb_height, rgb_width, 3), np.uint8, buffer=buffer, offset=rgb_at),
        depth=np.ndarray((depth_height, depth_width), np.uint16, buffer=buffer, offset=depth_at),
        depth_unit_m=depth_unit_m,
        align="depth" if is_aligned_to_depth else "color",
        color_number=color_number,
        depth_number=depth_number,
        timestamp_ms=timestamp_ms,
        timestamp_domain=_DOMAINS[domain],
        arrival_ns=arrival_ns,
        ready_ns=ready_ns,
        name=name[:name_bytes].decode(errors="replace"),
        skew_ms=None if math.isnan(skew_ms) else skew_ms,
        missing=tuple(compress(_SENSORS, missing)),
        label=label[:label_bytes].decode(errors="replace") if has_label else None,
        roi=Roi(x, y, w, h) if has_roi else None,
    )
    return frame, Counters(received=received, delivered=delivered, dropped=dropped, stale=stale, skewed=skewed)
