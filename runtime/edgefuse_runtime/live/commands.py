"""edgefuse live"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import (
    MAX_FRAMES,
    AsJson,
    BundleFolder,
    CameraSpec,
    EngineWord,
    ModelFile,
    NumThreads,
)
from edgefuse_runtime.live.options import ForceOutputs, Jsonl, JsonlKeep, JsonlMb, Metrics, Mqtt, Rerun, Stats, Trace
from edgefuse_runtime.regions.option import RegionSpec, parsed_region

if TYPE_CHECKING:
    from edgefuse_runtime.capture.capture import Mode


def live(  # long: each option is a parameter
    bundle: BundleFolder,
    camera: CameraSpec = "realsense",
    roi: RegionSpec = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FRAMES, help="Stop after this many frames. Default: run until the stream ends."),
    ] = None,
    jsonl: Jsonl = None,
    jsonl_mb: JsonlMb = 256,
    jsonl_keep: JsonlKeep = 8,
    stats: Stats = False,
    trace: Trace = None,
    metrics: Metrics = None,
    mqtt: Mqtt = None,
    rerun: Rerun = None,
    engine: EngineWord = "auto",
    file: ModelFile = None,
    threads: NumThreads = None,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Play a recording at its recorded rate, and drop frames when too slow.")
    ] = False,
    capture: Annotated[
        str,
        typer.Option(
            help="process: read a camera or recording in a process of its own, which is ended if librealsense hangs. "
            "thread: in a thread, which uses less memory."
        ),
    ] = "process",
    force: ForceOutputs = False,
    as_json: AsJson = False,
) -> None:
    """Classify the frames of a RealSense camera, a recording, a folder, or the built-in scenes.

    Stops at the end of the stream, after --frames, or on Ctrl-C. --json prints only the summary.
    """
    from typing import cast

    from edgefuse.bundle import open_bundle
    from edgefuse.io.text import say
    from edgefuse_runtime.live.loop import open_live, run_live
    from edgefuse_runtime.live.options import OutputOptions
    from edgefuse_runtime.live.systemd import Systemd

    if capture not in ("process", "thread"):
        raise typer.BadParameter(f"{capture!r} is neither process nor thread", param_hint="--capture")
    opened = open_bundle(bundle)
    given = parsed_region(roi) if roi is not None else None
    outputs = OutputOptions(
        jsonl=jsonl,
        jsonl_mb=jsonl_mb,
        jsonl_keep=jsonl_keep,
        stats=stats,
        trace=trace,
        metrics=metrics,
        mqtt=mqtt,
        rerun=rerun,
        force=force,
        as_json=as_json,
    )
    sinks = outputs.sinks()
    with open_live(
        opened,
        camera=camera,
        region=given,
        engine=engine,
        file=file,
        num_threads=threads,
        real_time=real_time,
        capture=cast("Mode", capture),
    ) as (runner, source, region):
        summary = run_live(
            engine=runner,
            camera=source,
            region=region,
            degraded_mode=opened.manifest.degraded_mode,
            sinks=sinks,
            num_frames=frames,
            service=Systemd(source),
        )
    if summary.failed_sinks:
        raise typer.Exit(1)
    if summary.processed == 0 and not summary.was_interrupted:
        say("no frame was classified: no frame arrived, or no region was found")
        raise typer.Exit(1)
    if summary.not_finite == summary.processed > 0:
        say(
            "no frame was classified: every output of the model had NaN or infinity; export it again with --precision fp32"
        )
        raise typer.Exit(1)
