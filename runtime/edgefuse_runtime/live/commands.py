"""edgefuse live"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import (
    MAX_FRAMES,
    AdaptiveThreshold,
    AsJson,
    BundleFolder,
    CameraSpec,
    EngineWord,
    ModelFile,
    NumThreads,
)
from edgefuse_runtime.live.options import (
    Agree,
    Collect,
    CollectMb,
    CollectPerHour,
    EventsOnly,
    ForceOutputs,
    Jsonl,
    JsonlKeep,
    JsonlMb,
    Metrics,
    MinConfidence,
    Mqtt,
    Record,
    RecordMb,
    Rerun,
    Smooth,
    Stats,
    Trace,
    Web,
)
from edgefuse_runtime.regions.option import RegionSpecs, parsed_region

if TYPE_CHECKING:
    from edgefuse_runtime.capture.capture import Mode


def live(  # long: each option is a parameter
    bundle: BundleFolder,
    camera: CameraSpec = "realsense",
    roi: RegionSpecs = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FRAMES, help="Stop after this many frames. Default: run until the stream ends."),
    ] = None,
    min_confidence: MinConfidence = 0.0,
    smooth: Smooth = 1.0,
    agree: Agree = "3/5",
    events_only: EventsOnly = False,
    jsonl: Jsonl = None,
    jsonl_mb: JsonlMb = 256,
    jsonl_keep: JsonlKeep = 8,
    stats: Stats = False,
    trace: Trace = None,
    metrics: Metrics = None,
    mqtt: Mqtt = None,
    rerun: Rerun = None,
    record: Record = None,
    record_mb: RecordMb = 4000,
    web: Web = None,
    collect: Collect = None,
    collect_mb: CollectMb = 2000,
    collect_per_hour: CollectPerHour = 30,
    engine: EngineWord = "auto",
    file: ModelFile = None,
    threads: NumThreads = None,
    adaptive: AdaptiveThreshold = None,
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
    wait_for_camera: Annotated[
        bool,
        typer.Option("--wait-for-camera", help="Wait for a camera that is not there at the start, as a service does."),
    ] = False,
    force: ForceOutputs = False,
    as_json: AsJson = False,
) -> None:
    """Classify the frames of a RealSense camera, a recording, a folder, or the built-in scenes.

    Stops at the end of the stream, after --frames, or on Ctrl-C. --json prints only the summary.
    """
    from typing import cast

    from edgefuse.bundle import open_bundle
    from edgefuse.errors import UserError
    from edgefuse.io.text import say
    from edgefuse_runtime.decisions.over_time import DecisionConfig, parse_agreement
    from edgefuse_runtime.live.loop import run_live
    from edgefuse_runtime.live.opening import open_live
    from edgefuse_runtime.live.options import OutputOptions
    from edgefuse_runtime.live.systemd import Systemd

    if capture not in ("process", "thread"):
        raise typer.BadParameter(f"{capture!r} is neither process nor thread", param_hint="--capture")
    try:
        num_agree, num_of = parse_agreement(agree)
        decisions = DecisionConfig(min_confidence=min_confidence, smooth=smooth, agree=num_agree, of=num_of)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--agree") from error
    opened = open_bundle(bundle)
    given = parsed_region(*roi) if roi else None
    outputs = OutputOptions(
        jsonl=jsonl,
        jsonl_mb=jsonl_mb,
        jsonl_keep=jsonl_keep,
        stats=stats,
        trace=trace,
        metrics=metrics,
        mqtt=mqtt,
        rerun=rerun,
        events_only=events_only,
        record=record,
        record_mb=record_mb,
        web=web,
        collect=collect,
        collect_mb=collect_mb,
        collect_per_hour=collect_per_hour,
        bundle=opened,
        force=force,
        as_json=as_json,
    )
    with open_live(
        opened,
        camera=camera,
        region=given,
        engine=engine,
        file=file,
        num_threads=threads,
        adaptive=adaptive,
        real_time=real_time,
        capture=cast("Mode", capture),
        wait=wait_for_camera,
        sinks=outputs.sinks(),
    ) as parts:
        summary = run_live(
            engine=parts.engine,
            camera=parts.camera,
            region=parts.region,
            degraded_mode=opened.manifest.degraded_mode,
            sinks=parts.bus,
            num_frames=frames,
            service=Systemd(parts.camera),
            decisions=decisions,
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
