"""The built-in renderer as an endless camera, to try the runtime without hardware or files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, Align
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Counters, Frame

if TYPE_CHECKING:
    from edgefuse.synth.rendered_set import SynthFrame


NUM_SCENES = 24
"""Default number of different scenes, the same number of each class; then the first one is shown again."""
FRAMES_PER_SCENE = 15
_HEIGHT, _WIDTH = 480, 640
_SCALE = 2
"""Scenes are rendered at 1 / `_SCALE` of the size: a scene takes 0.05 s instead of 0.23 s, and less memory."""
_RADIUS_PX = 6.0
"""From frame to frame the image moves along a circle, so that no two successive frames are equal."""


class Synthetic:
    """640x480 table-top scenes with class and region, as fast as the consumer reads.

    A scene is rendered when it is first shown, so the first frame arrives soon; then it is only moved.
    """

    def __init__(self, *, seed: int = 0, align: Align = "color", num_scenes: int = NUM_SCENES) -> None:
        """Choose the scenes. Colour and depth are rendered from one viewpoint, so both alignments are identical."""
        self._seed, self._num_scenes = seed, num_scenes
        self._align: Align = align
        self._new_scenes: Iterator[SynthFrame] | None = None
        self._scenes: list[SynthFrame] = []
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

        size = {"height": _HEIGHT // _SCALE, "width": _WIDTH // _SCALE}
        self._new_scenes = stream(seed=self._seed, num_frames=self._num_scenes, frames_per_object=1, **size)
        self._scenes, self._counters = [], Counters()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._new_scenes = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._new_scenes is None:
            raise RuntimeError("read outside of `with`")
        index = self._counters.delivered
        place = index // FRAMES_PER_SCENE % self._num_scenes
        if place == len(self._scenes):
            self._scenes.append(next(self._new_scenes))
        scene = self._scenes[place]
        arrival_ns = time.perf_counter_ns()
        angle_rad = 2 * math.pi * index / FRAMES_PER_SCENE
        shown = _moved(scene, round(_RADIUS_PX * math.cos(angle_rad)), round(_RADIUS_PX * math.sin(angle_rad)))
        self._counters.received += 1
        self._counters.delivered += 1
        return Frame(
            rgb=shown[0],
            depth=shown[1],
            depth_unit_m=DEPTH_UNIT_M,
            align=self._align,
            color_number=index + 1,
            depth_number=index + 1,
            timestamp_ms=0.0,
            timestamp_domain="none",
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=str(index + 1),
            label=scene.label,
            roi=shown[2],
        )


def _moved(scene: SynthFrame, dx: int, dy: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16], Roi]:
    """RGB, depth and region of a scene at full size, moved by dx, dy pixels; the region stays in the image."""
    x, y, w, h = (_SCALE * value for value in scene.roi_xywh)
    to_full = np.array([[_SCALE, 0, dx + (_SCALE - 1) / 2], [0, _SCALE, dy + (_SCALE - 1) / 2]])
    options: dict[str, Any] = {"M": to_full, "dsize": (_WIDTH, _HEIGHT), "borderMode": cv2.BORDER_REPLICATE}
    rgb = cv2.warpAffine(scene.rgb, flags=cv2.INTER_LINEAR, **options)
    depth = cv2.warpAffine(scene.depth, flags=cv2.INTER_NEAREST, **options)  # depths are not averaged across edges
    left, top = min(max(x + dx, 0), _WIDTH - w), min(max(y + dy, 0), _HEIGHT - h)
    return np.asarray(rgb, np.uint8), np.asarray(depth, np.uint16), Roi(left, top, w, h)
