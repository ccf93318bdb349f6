"""Results and frames for a collection, without a camera and an engine."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from runtime_scenes import RESULT, TIMES, draw_pair

from edgefuse.bundle import Bundle
from edgefuse.data.collection import read_kept
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.collect.sink import CollectSink
from edgefuse_runtime.results import Event, Result

START_MS = TIMES.published_unix_ms
ROI = Roi(10, 4, 20, 30)
CLOSE = (("near", 0.55), ("far", 0.45))
SURE = (("near", 0.95), ("far", 0.05))
RNG = np.random.default_rng(3)


def a_frame(number: int = 1, *, noise: int = 0) -> Frame:
    rgb, depth = draw_pair("near", brightness=number % 50)
    if noise:
        rgb = RNG.integers(0, 256, (noise, noise, 3), dtype=np.uint8)
        depth = RNG.integers(1, 65536, (noise, noise), dtype=np.uint16)
    return Frame(
        rgb=rgb, depth=depth, depth_unit_m=0.001, align="color", color_number=number, depth_number=number, timestamp_ms=0.0,
        timestamp_domain="none", arrival_ns=0, ready_ns=0, name=str(number),
    )  # fmt: skip


def a_result(index: int, *, at_s: float, start_ms: float | None = None, **changes: Any) -> Result:
    start_ms = time.time() * 1e3 if start_ms is None else start_ms
    times = replace(TIMES, published_ns=round((100 + at_s) * 1e9), published_unix_ms=start_ms + at_s * 1e3)
    values = {"label": "near", "probability": 0.95, "top": SURE, "roi": ROI, "frame": index + 1} | changes
    return replace(RESULT, index=index, times=times, **values)


class Run:
    """Shows frames to a sink, one every tenth of a second of the run's clock."""

    def __init__(self, sink: CollectSink) -> None:
        self.sink, self.number = sink, 0
        self.start_ms = START_MS

    def show(self, *, noise: int = 0, seconds: float = 0.1, **changes: Any) -> int:
        """Show a frame with such a result; returns its index."""
        index, self.number = self.number, self.number + 1
        self.at_s = getattr(self, "at_s", 0.0) + seconds
        frame = a_frame(index, noise=noise)
        result = a_result(index, at_s=self.at_s, start_ms=self.start_ms, **changes)
        self.sink.result(result, frame)
        self.sink.shown(result, frame)
        return index


def opened(root: Path, bundle: Bundle, *, region: str = "nearest", **options: Any) -> CollectSink:
    sink = CollectSink(root, bundle, **({"min_free_mb": 0} | options))
    sink.event(Event(event="started", message="", unix_ms=0, detail={"region": {"roi": region, "from": "--roi"}}))
    return sink


def kept_in(root: Path) -> list[dict[str, Any]]:
    paths = [*root.glob("*/*/*.json"), *root.glob("*/*/*/*.json")]
    return sorted(
        (read_kept(path) | {"path": str(path.relative_to(root))} for path in paths), key=lambda one: str(one["time"])
    )
