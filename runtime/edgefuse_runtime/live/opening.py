"""Opens the parts of a run: first the sinks, which also show that the camera is being opened or cannot be; then engine and camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from edgefuse.bundle import Bundle
from edgefuse_runtime.camera import Camera
from edgefuse_runtime.capture import open_capture
from edgefuse_runtime.capture.capture import Capture, Mode, early_start
from edgefuse_runtime.capture.state import CaptureState
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.endings import ending_after, signals_ignored
from edgefuse_runtime.live.statistics import Statistics
from edgefuse_runtime.regions.default_region import ChosenRegion, choose_region
from edgefuse_runtime.regions.region import RegionSource
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.sink import Sink

WAIT_FOR_SINKS_S = 5.0
"""A source that waits for the loop also waits for the sinks that want every result, but no longer than this."""


@dataclass(frozen=True, kw_only=True)
class OpenLive:
    """What a run needs, open."""

    engine: Engine
    camera: Camera
    region: ChosenRegion
    bus: SinkBus


@contextmanager
def open_live(
    bundle: Bundle,
    *,
    camera: str,
    region: RegionSource | None,
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    adaptive: float | None = None,
    real_time: bool = True,
    capture: Mode = "process",
    wait: bool = False,
    sinks: Sequence[Sink] = (),
) -> Iterator[OpenLive]:
    """Open sinks, a bundle's engine and a camera, and choose the region; notes and warnings about it are logged.

    If engine or camera cannot be opened, or a signal arrives, the sinks get a summary.

    Args:
        region: the user's; None = as the training data was cropped.
        camera, engine, file, num_threads, adaptive, real_time, capture: see `edgefuse_runtime.live.loop.live`.
        wait: wait for a camera that cannot be opened at the start.
        sinks: for `run_live`, as `bus`.
    """
    manifest = bundle.manifest
    source = open_capture(camera, align=manifest.contract.align, real_time=real_time, mode=capture, wait=wait)
    statistics = Statistics(manifest.contract, source.counters)
    with opened_bus(sinks, source) as bus, ExitStack() as stack:
        try:
            stack.enter_context(early_start(source))
            opened = open_engine(bundle, file=file, engine=engine, num_threads=num_threads, adaptive=adaptive)
            runner = stack.enter_context(opened)
            stack.enter_context(source)
            chosen = choose_region(region, trained_on=manifest.region, camera=source)
            chosen.log_notes()
            yield OpenLive(engine=runner, camera=source, region=chosen, bus=bus)
        except BaseException as error:
            if not bus.is_finished:
                failure = error if isinstance(error, Exception) else None
                with signals_ignored():
                    bus.finish(statistics.summary(source, engine=None, ended=ending_after(error), failure=failure))
            raise


@contextmanager
def opened_bus(sinks: Sequence[Sink] | SinkBus, camera: Camera) -> Iterator[SinkBus]:
    """Open the sinks, which then get the states of `camera`. A bus is open already."""
    if isinstance(sinks, SinkBus):
        yield sinks
        return
    with SinkBus(sinks, wait_s=WAIT_FOR_SINKS_S if waits_for_reader(camera) else 0.0) as bus:

        def publish(state: CaptureState) -> None:
            bus.event("camera", f"camera {state.message}", **state.detail())

        if isinstance(camera, Capture):
            camera.observe(publish)
        yield bus


def waits_for_reader(camera: Camera) -> bool:
    """Whether the camera's frames wait for the loop, as those of a folder do: it drops none."""
    description = camera.description
    return description.get("kind") in ("folder", "synthetic", "recording") and not description.get("real_time")
