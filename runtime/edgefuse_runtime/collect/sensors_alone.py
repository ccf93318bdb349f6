"""The answers with colour alone and with depth alone, by an engine of its own, so that they take no time from the run's."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from edgefuse import framing
from edgefuse.degraded_mode import DegradedMode
from edgefuse_runtime.collect.reasons import Alone
from edgefuse_runtime.sensor_health import SensorStates

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse.framing import Roi
    from edgefuse_runtime.camera import Frame
    from edgefuse_runtime.engines.engine import Engine

PAUSE_S = 1.0
"""Between two comparisons."""
_BOTH = DegradedMode(no_rgb="predict", no_depth="predict")

_log = logging.getLogger(__name__)


class SensorsAlone:
    """Compares the two sensors, if the bundle predicts with each of them. Use it in one thread."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        mode = bundle.manifest.degraded_mode or DegradedMode()
        self._is_of_use = mode.no_rgb == mode.no_depth == "predict"
        self._opened = ExitStack()
        self._engine: Engine | None = None
        self._next_s = 0.0

    def close(self) -> None:
        self._engine = None
        self._opened.close()

    def __call__(self, frame: Frame, roi: Roi) -> Alone | None:
        """The two answers; None if it is too soon after the last ones, or the bundle does not predict with one sensor."""
        from edgefuse_runtime.predict import FramedRegion, predict

        now_s = time.monotonic()
        if not self._is_of_use or now_s < self._next_s:
            return None
        self._next_s = now_s + PAUSE_S
        try:
            engine = self._opened_engine()
            pair = framing.fit(
                frame.rgb, frame.depth, size=engine.contract.size, roi=roi, depth_unit_m=frame.depth_unit_m
            )
            states = SensorStates(depth="missing"), SensorStates(rgb="missing")
            regions = [FramedRegion.of(pair, state, roi=roi, started_ns=time.perf_counter_ns()) for state in states]
            rgb, depth = (found.label for found in predict(engine, _BOTH, regions))
        except Exception as error:  # an optional check: the collection goes on without it
            _log.warning("the sensors are not compared: %s", error)
            self._is_of_use = False
            return None
        return None if rgb is None or depth is None else Alone(rgb, depth)

    def _opened_engine(self) -> Engine:
        if self._engine is None:
            from edgefuse_runtime.engines import open_engine

            self._engine = self._opened.enter_context(open_engine(self._bundle, engine="cpu", num_threads=1))
        return self._engine
