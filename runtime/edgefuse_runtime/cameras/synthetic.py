"""The built-in renderer as an endless camera, to try the runtime without hardware or files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgefuse.contract import DEPTH_UNIT_M, Align
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Counters, Frame

if TYPE_CHECKING:
    from edgefuse.synth.rendered_set import SynthFrame


class Synthetic:
    """Rendered 640x480 table-top scenes with class and region, as fast as the consumer reads."""

    def __init__(self, *, seed: int = 0, align: Align = "color") -> None:
        """Choose the scenes. Colour and depth are rendered from one viewpoint, so both alignments are identical."""
        self._seed = seed
        self._align: Align = align
        self._frames: Iterator[SynthFrame] | None = None
        self._counters = Counters()

    @property
    def align(self) -> Align:
        return self._align

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "synthetic", "seed": self._seed, "depth_unit_m": DEPTH_UNIT_M, "align": self._align}

    @property
    def counters(self) -> Counters:
        return self._counters

    def __enter__(self) -> Synthetic:
        from edgefuse.synth.rendered_set import stream

        self._frames, self._counters = stream(seed=self._seed, num_frames=sys.maxsize), Counters()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._frames is None:
            raise RuntimeError("read outside of `with`")
        rendered = next(self._frames)
        arrival_ns = time.perf_counter_ns()
        self._counters.received += 1
        self._counters.delivered += 1
        number = self._counters.delivered
        return Frame(
            rgb=rendered.rgb,
            depth=rendered.depth,
            depth_unit_m=DEPTH_UNIT_M,
            align=self._align,
            color_number=number,
            depth_number=number,
            timestamp_ms=0.0,
            timestamp_domain="none",
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=str(number),
            label=rendered.label,
            roi=Roi(*rendered.roi_xywh),
        )
